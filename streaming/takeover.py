"""What the holders of a join partition did since a snapshot, read in `examples[p]`, and done again. Must not know who asks for it, or why.

snapshot ---- act ---- act ---- act ---- claim        an act: looks, and the examples that they led to, in one block or several
                                  |- - - - the last one may have been cut short: what is missing leaves now
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from streaming.example_blocks import Look, Sent, Tenure, decode_block
from streaming.joiner import DivergedError, Identity, Joiner, Step, identity_of
from streaming.live import Polled
from streaming.records import PolledRecord

PORTION_RECORDS = 50_000
"""Read at once, to be done again: some 20 MB."""

Records = Callable[[str, int, int], Iterable[PolledRecord]]
"""The records of a stream from an offset on and before another."""


@dataclass(slots=True)
class Act:
    """Looks that led to examples, or to none.

    Args:
        starts: how far the streams had been read before them. looks: in their order.
        appended: the examples of them that are in the topic.
    """

    starts: tuple[int, ...]
    looks: tuple[Look, ...]
    appended: list[Identity] = field(default_factory=list)


class Script:
    """What the blocks of a join partition tell, void ones left out.

    Args:
        last: the block before the first that is read; None if nothing is known of one.
    """

    def __init__(self, last: Sent | None = None) -> None:
        self._tenure = Tenure(last)
        self.acts: list[Act] = []
        self.begins: tuple[int, ...] | None = None
        """Where the streams were begun anew, if that was told: the acts are those since."""
        self.is_cut = False
        """Whether its beginning is missing."""

    def read(self, offset: int, value: bytes | None) -> None:
        """Takes in a record of the topic, in the order of their offsets.

        Raises:
            BlockError: it is no block.
        """
        block, examples = decode_block(value or b"")
        told = block.told
        if not self._tenure.admits(offset, told):
            return
        if told.claimed_at is None:
            if told.starts:
                self.begins, self.is_cut = told.starts, False
                self.acts.clear()
            return
        if told.looks:
            self.acts.append(Act(told.starts, told.looks))
        if self.acts:
            self.acts[-1].appended += map(identity_of, examples)
        else:
            self.is_cut = True

    @property
    def claimed_at(self) -> int | None:
        """The newest claim that was seen."""
        return None if self._tenure.last is None else self._tenure.last[0]


def redo(joiner: Joiner, acts: Sequence[Act], records: Records) -> Step:
    """Does acts again; what the last of them has not sent, and the lines of it, which may not have been acknowledged.

    Raises:
        DivergedError: they do not begin where the joiner is, or do not lead to what was appended.
    """
    step = Step([], [])
    for portion in _portions(acts, sum(joiner.ends())):
        last = portion[-1].looks[-1].ends
        read = {
            name: list(records(name, start, end))
            for name, start, end in zip(joiner.names, joiner.ends(), last, strict=True)
            if start < end
        }
        taken = dict.fromkeys(read, 0)
        for act in portion:
            if step.blocks or act.starts != joiner.ends():
                raise DivergedError
            step = joiner.repeat(_looks(act, joiner.names, read, taken), act.appended)
    return step


def _portions(acts: Sequence[Act], at: int) -> Iterator[list[Act]]:
    portion: list[Act] = []
    for act in acts:
        portion.append(act)
        end = sum(act.looks[-1].ends)
        if end - at >= PORTION_RECORDS:
            yield portion
            portion, at = [], end
    if portion:
        yield portion


def _looks(
    act: Act, names: tuple[str, ...], read: dict[str, list[PolledRecord]], taken: dict[str, int]
) -> Iterator[Polled]:
    """The looks with their records; moves how many of those that were read are taken."""
    for look in act.looks:
        records: dict[str, list[PolledRecord]] = {}
        for name, end in zip(names, look.ends, strict=True):
            some, start = read.get(name, []), taken.get(name, 0)
            stop = start
            while stop < len(some) and some[stop][0] < end:
                stop += 1
            if stop > start:
                records[name] = some[start:stop]
                taken[name] = stop
        idle = {name: is_idle for name, is_idle in zip(names, look.idle, strict=True) if is_idle is not None}
        yield Polled(look.now_ms, records, idle)
