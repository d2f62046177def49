"""A version read whole from a source: its snapshot, and the deltas after it. Must not know where the source is."""

from __future__ import annotations

from models.delta import applied, whole
from models.manifest import DamagedWeightsError, Published
from models.weights import Weights, decode
from streaming.ports import WeightsSource

_LONGEST = 10_000  # deltas in a row; more is a chain that bites its tail


def read_whole(source: WeightsSource, epoch: int, version: int) -> Weights:
    """A version with all of its rows, as F32.

    Raises:
        MissingWeightsError: it is not there, or one that it is a delta to. DamagedWeightsError: one of them is damaged.
        TargetError: the source cannot be read now.
    """
    deltas: list[Published] = []
    at = source.fetch(epoch, version)
    while at.manifest.base_epoch is not None and at.manifest.base_version is not None:
        deltas.append(at)
        if len(deltas) > _LONGEST:
            raise DamagedWeightsError(
                f"version {at.manifest.name} hangs on more than {_LONGEST} deltas: publish a snapshot"
            )
        at = source.fetch(at.manifest.base_epoch, at.manifest.base_version)
    weights = whole(decode(at))
    for delta in reversed(deltas):
        weights = applied(weights, decode(delta))
    return weights
