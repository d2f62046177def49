"""A rising map from probability to probability, straight between knots on the logit; must not know how it was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Float64
from models.sums import LEAST_PROBABILITY


@dataclass(frozen=True, slots=True)
class LogitMap:
    """logit in, logit out: straight lines between knots, and beyond the first and the last a line of `slope`. No knots: nothing moves.

    One form for all: a shift is one knot and slope 1, Platt's s -> a s + b one knot and slope a, a smoothed isotonic map many knots.

    Args:
        at: (K,) logits of the knots, strictly ascending.
        to: (K,) what they become, ascending.
        slope: beyond the knots, above 0.

    Raises:
        ValueError: it would not rise, or a number is not finite.

    Example:
        >>> twice_the_odds = LogitMap(at=np.array([0.0]), to=np.log([2.0]))
        >>> twice_the_odds.apply([0.0, 0.2, 0.5]).round(4).tolist()
        [0.0, 0.3333, 0.6667]
        >>> LogitMap().apply([0.3]).tolist()
        [0.3]
    """

    at: Float64 = field(default_factory=lambda: np.zeros(0))
    to: Float64 = field(default_factory=lambda: np.zeros(0))
    slope: float = 1.0

    def __post_init__(self) -> None:
        if self.at.ndim != 1 or self.at.shape != self.to.shape:
            raise ValueError(
                f"at and to must be two rows of one length (got shapes {self.at.shape} and {self.to.shape})"
            )
        if not (np.isfinite(self.at).all() and np.isfinite(self.to).all() and 0 < self.slope < np.inf):
            raise ValueError(
                f"knots must be finite and slope above 0 and finite (got {self.at}, {self.to}, {self.slope}): the map must rise"
            )
        if not ((np.diff(self.at) > 0).all() and (np.diff(self.to) >= 0).all()):
            raise ValueError(f"knots must ascend (got {self.at} to {self.to}): the map must rise")

    @property
    def is_identity(self) -> bool:
        """Whether it has no knots, so that what it is given comes back bit for bit."""
        return not len(self.at)

    def read(self, logits: Float64) -> Float64:
        """What logits become: any shape, kept."""
        if self.is_identity:
            return logits
        beyond = self.slope * (np.minimum(logits - self.at[0], 0.0) + np.maximum(logits - self.at[-1], 0.0))
        if len(self.at) == 1:
            return np.asarray(self.to[0] + beyond)
        # Not numpy.interp: its rounding may step over the next knot, and the map would fall there by a bit.
        left = np.clip(np.searchsorted(self.at, logits, side="right") - 1, 0, len(self.at) - 2)
        share = np.clip((logits - self.at[left]) / (self.at[left + 1] - self.at[left]), 0.0, 1.0)
        within = np.minimum(self.to[left] + share * (self.to[left + 1] - self.to[left]), self.to[left + 1])
        return np.asarray(within + beyond)

    def apply(self, p: npt.ArrayLike) -> Float64:
        """What probabilities become: any shape, kept."""
        p = np.asarray(p, np.float64)
        return p if self.is_identity else probability(self.read(logit(p)))

    def tensors(self) -> dict[str, torch.Tensor]:
        """`at` (K,), `to` (K,) and `slope` (1,), float64, as copies."""
        return {
            "at": torch.from_numpy(self.at.copy()),
            "to": torch.from_numpy(self.to.copy()),
            "slope": torch.tensor([self.slope], dtype=torch.float64),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> LogitMap:
        """The map that `tensors` wrote."""
        return cls(tensors["at"].numpy().copy(), tensors["to"].numpy().copy(), float(tensors["slope"][0]))


def logit(p: Float64) -> Float64:
    """log(p / (1 - p)), with p held `LEAST_PROBABILITY` away from 0 and 1: from -27.6 to 27.6."""
    held = np.clip(p, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return np.asarray(np.log(held) - np.log1p(-held))


def probability(logits: Float64) -> Float64:
    """1 / (1 + e^-x), exact to the last digits at both ends."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits < 0, small, 1.0) / (1.0 + small))
