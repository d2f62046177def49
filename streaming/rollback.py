"""Puts an older version back, and holds publishing until told. Must not know where the targets are.

1. Every target is told to hold. From here on, what the run publishes is refused; its training goes on.
2. The old tensors are published as a snapshot of the newest epoch, under the next version: readers go forward to it.
3. `release` lets the run publish again. Its next version is a snapshot.

What fails between leaves publishing held: tried again, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from models.manifest import parse_name
from models.weights import Weights, encode
from streaming.ports import Target, WeightsSource
from streaming.whole import read_whole


def roll_back(targets: Mapping[str, Target], sources: Iterable[WeightsSource], source: WeightsSource, name: str) -> str:
    """Publishes an older version anew in every target.

    Args:
        targets: where to. sources: the same places, to read which versions are current there.
        source: where the old version is read.
        name: of the old version.

    Returns:
        The name that it has now.

    Raises:
        MissingWeightsError: there is no such version any more. TargetError: a target cannot be reached.
    """
    old = read_whole(source, *parse_name(name))  # first: what is not there holds nobody up
    for target in targets.values():
        target.hold(f"{name} was put back by `afterclick weights rollback`")
    epoch, version = max(found for each in sources if (found := each.current()) is not None)
    manifest = msgspec.structs.replace(old.manifest, epoch=epoch, version=version + 1, republishes=name)
    published = encode(Weights(manifest, old.tensors))
    for target in targets.values():
        target.publish(published, past_hold=True)
    return published.manifest.name


def release(targets: Mapping[str, Target]) -> None:
    """Lets the run publish again, in every target.

    Raises:
        TargetError: a target cannot be reached.
    """
    for target in targets.values():
        target.release()
