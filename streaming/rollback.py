"""Puts an older version back, and holds publishing until told. Must not know where the targets are.

1. Every target is told to hold. From here on, what the run publishes is refused; its training goes on.
2. The old tensors are published as a snapshot of the newest epoch, be it only issued, under the next version: readers go forward to it.
3. `release` lets the run publish again. Its next version is a snapshot.

What fails between leaves publishing held: tried again, it goes on, with the same version where it has got to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from models.manifest import DamagedWeightsError, Published, parse_name
from models.weights import Weights, encode
from streaming.ports import Target, TargetError, WeightsSource
from streaming.whole import read_whole


def roll_back(targets: Mapping[str, Target], sources: Sequence[WeightsSource], source: WeightsSource, name: str) -> str:
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
    held: list[str] = []
    try:
        for where, target in targets.items():
            target.hold(f"{name} was put back by `afterclick weights rollback`")
            held.append(where)
        return _put_back(targets, sources, old, name)
    except (TargetError, DamagedWeightsError) as error:
        where = f"publishing is held in {', '.join(held)}" if held else "nothing was changed"
        raise TargetError(
            f"{error}. So far {where}: give the command again, or `afterclick weights release`"
        ) from error


def _put_back(targets: Mapping[str, Target], sources: Sequence[WeightsSource], old: Weights, name: str) -> str:
    epoch = max(target.newest_epoch() for target in targets.values())
    published = _next(old, name, epoch, sources)
    for target in targets.values():
        target.publish(published, past_hold=True)
    return published.manifest.name


def _next(old: Weights, name: str, epoch: int, sources: Sequence[WeightsSource]) -> Published:
    """What readers go forward to: a version that was made so by a try before this one, if it is the newest of all, else a new one."""
    newest, newest_source = (epoch, 0), None
    for source in sources:
        found = source.current()
        if found is not None and found > newest:
            newest, newest_source = found, source
    if newest_source is not None and newest[0] == epoch:
        there = newest_source.fetch(*newest)
        if there.manifest.republishes == name:
            return there
    # Numbers of an epoch go on from those of the epoch before, as the run's own do.
    version = max((found[1] for source in sources if (found := source.current()) is not None), default=0)
    manifest = msgspec.structs.replace(old.manifest, epoch=epoch, version=version + 1, republishes=name)
    return encode(Weights(manifest, old.tensors))


def release(targets: Mapping[str, Target]) -> None:
    """Lets the run publish again, in every target.

    Raises:
        TargetError: a target cannot be reached; the others were released.
    """
    failed: list[str] = []
    for where, target in targets.items():
        try:
            target.release()
        except TargetError as error:
            failed.append(f"{where} ({error})")
    if failed:
        raise TargetError(f"publishing is still held in {', '.join(failed)}: give the command again")
