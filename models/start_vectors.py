"""The vectors that ids begin with, the same for a trainer and for every scorer; must not know a table or how vectors are learned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.batch import Float32, Int64

_START_SCALE = np.float32(
    0.01
)  # start vectors are uniform within +-this: a new id says little, yet no two say the same


def start_vectors(ids: Int64, *, width: int, seed: int) -> Float32:
    """The vectors that ids begin with, from nothing but id and seed: (n,) -> (n, width).

    Example:
        >>> bool((start_vectors(np.array([5]), width=4, seed=1) == start_vectors(np.array([9, 5]), width=4, seed=1)[1]).all())
        True

    Source:
        Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (SplitMix64).
    """
    with np.errstate(over="ignore"):
        start = _mix(ids.view(np.uint64) ^ _mix(np.array([seed % 2**64], np.uint64)))
        step = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(start[:, None] + step) >> np.uint64(40)  # (n, width), 24 bits: as many as a float32 holds
    vectors: Float32 = bits.astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return vectors * _START_SCALE


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
