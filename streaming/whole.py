"""A version read whole from a source: its snapshot, and the deltas after it. Must not know where the source is."""

from __future__ import annotations

from models.delta import applied, whole
from models.manifest import DamagedWeightsError, Published, version_name
from models.weights import Weights, decode
from streaming.ports import WeightsSource

_LONGEST = 10_000  # deltas in a row; more is a chain that bites its tail


def read_whole(source: WeightsSource, epoch: int, version: int, *, held: Weights | None = None) -> Weights:
    """A version with all of its rows, as F32.

    Args:
        source: where it is read. epoch, version: which one.
        held: a whole version that is at hand; what is a delta to it is laid over it, and nothing before it is read. One of the same name
            that another run has published is left aside.

    Raises:
        MissingWeightsError: it is not there, or one that it is a delta to. DamagedWeightsError: one of them is damaged, or another
            than was asked for. TargetError: the source cannot be read now.
    """
    deltas: list[Published] = []
    wanted, weights, digest = (epoch, version), held, None
    while weights is None or not _is(weights, wanted, digest):
        found = source.fetch(*wanted)
        manifest = found.manifest
        if (manifest.epoch, manifest.version) != wanted:
            raise DamagedWeightsError(
                f"asked for version {version_name(*wanted)}, the source gave {manifest.name}: publish it again"
            )
        if manifest.base_epoch is None or manifest.base_version is None:
            weights = whole(decode(found))
            break
        deltas.append(found)
        if len(deltas) > _LONGEST:
            raise DamagedWeightsError(
                f"version {manifest.name} hangs on more than {_LONGEST} deltas: publish a snapshot"
            )
        wanted, digest = (manifest.base_epoch, manifest.base_version), manifest.base_digest
    for delta in reversed(deltas):
        weights = applied(weights, decode(delta))
    return weights


def _is(held: Weights, wanted: tuple[int, int], digest: str | None) -> bool:
    named = (held.manifest.epoch, held.manifest.version) == wanted
    return named and (None in (digest, held.digest) or digest == held.digest)
