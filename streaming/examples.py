"""Labelled examples, one by one and as columns of a stretch of the stream. Must not know how a label was drawn or what it teaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from operator import attrgetter
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.events import Impression
from streaming.joined import CLICK_SLOT, CONVERSION_SLOT
from streaming.log_file import Int64

Uint8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

_kind = attrgetter("kind")


class Kind(IntEnum):
    """What an example says about its impression."""

    UNCLICKED = 0
    CLICKED = 1
    IMMEDIATE_POSITIVE = 2
    OBSERVED_NEGATIVE = 3
    REVISIT = 4
    AGED = 5
    DELAYED_POSITIVE = 6
    REAL_NEGATIVE = 7
    MATURED = 8
    ORACLE = 9
    OUTCOME = 10


class Slot(IntEnum):
    """A place an impression's example can take; the first in a slot wins. The order at equal due time and impression."""

    CLICK = CLICK_SLOT
    OBSERVED = 1
    REVISIT = 64  # + k, k = 1..31: the steps between horizons
    AGED = 128  # + k, k = 1..62: edges but the first; 191 is CONVERSION_SLOT
    SETTLED = CONVERSION_SLOT + 1
    OUTCOME = 193


def slot_name(slot: int) -> str:
    """How files call a slot.

    Example:
        >>> slot_name(Slot.OBSERVED), slot_name(Slot.REVISIT + 2)
        ('observed', 'revisit_2')
    """
    if Slot.REVISIT <= slot < Slot.SETTLED:
        base = Slot.AGED if slot >= Slot.AGED else Slot.REVISIT
        return f"{base.name.lower()}_{slot - base}"
    return Slot(slot).name.lower()


class Example(msgspec.Struct, frozen=True, gc=False):
    """One labelled example, as it leaves the join.

    Args:
        due_ms: when it left, in event time. kind: what it says. slot: a `Slot`, plus k for revisits and ages.
        p: the join partition. impression: as it was logged, features still raw.
        click_ms, conversion_ms: the facts known at `due_ms`, None if not (yet) there.
        converted: the label v; False for the kinds that say nothing of conversions. value: what the conversion was worth.
    """

    due_ms: int
    kind: Kind
    slot: int
    p: int
    impression: Impression
    click_ms: int | None = None
    conversion_ms: int | None = None
    converted: bool = False
    value: float | None = None


class Examples(Sequence[Example]):
    """Examples in the order in which they left, as columns.

    Some 95 of 100 examples are UNCLICKED, and of those there is nothing to say but which impression and when. So they have no object
    of their own: a stage that looks at columns spends a tenth of a microsecond on each instead of several.

    Args:
        impressions: (n,) of each example. due_ms: (n,) ascending. kinds: (n,) `Kind` codes.
        places: (m,) ascending: where the examples stand that are not UNCLICKED. others: (m,) those.
        ps: (n,) the join partition of each.

    Example:
        >>> shown = [Impression(name, 1_700_000_000_000, msgspec.Raw(b"{}")) for name in "ab"]
        >>> clicked = Example(1_700_000_900_000, Kind.CLICKED, Slot.CLICK, 0, shown[1], click_ms=1_700_000_005_000)
        >>> examples = Examples.of([Example(1_700_000_900_000, Kind.UNCLICKED, Slot.CLICK, 0, shown[0]), clicked])
        >>> examples.kinds.tolist(), examples.places.tolist(), examples.others == [clicked]
        ([0, 1], [1], True)
        >>> examples[0].impression.impression_id, len(examples[1:])
        ('a', 1)
    """

    __slots__ = ("due_ms", "impressions", "kinds", "others", "places", "ps")

    def __init__(
        self,
        impressions: list[Impression],
        due_ms: Int64,
        kinds: Uint8,
        places: Int64,
        others: list[Example],
        ps: Int32,
    ) -> None:
        assert len(impressions) == len(due_ms) == len(kinds) == len(ps)
        assert len(places) == len(others)
        self.impressions = impressions
        self.due_ms = due_ms
        self.kinds = kinds
        self.places = places
        self.others = others
        self.ps = ps

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Examples:
        """Examples that are already there, in their order."""
        each = list(examples)
        kinds = np.fromiter(map(_kind, each), np.uint8, len(each))
        places = np.flatnonzero(kinds)
        return cls(
            [example.impression for example in each],
            np.array([example.due_ms for example in each], np.int64),
            kinds,
            places,
            [each[place] for place in places.tolist()],
            np.array([example.p for example in each], np.int32),
        )

    @classmethod
    def unclicked(
        cls, impressions: list[Impression], due_ms: Int64, others: Sequence[tuple[int, Example]], p: int
    ) -> Examples:
        """Impressions that nobody clicked, and among them other examples.

        Args:
            impressions: (n,) due_ms: (n,) of the unclicked.
            others: (place, example), ascending: the example stands before the unclicked impression of that number.
            p: the join partition.
        """
        if not others:
            nothing = np.zeros(0, np.int64)
            kinds, ps = np.zeros(len(impressions), np.uint8), np.full(len(impressions), p, np.int32)
            return cls(impressions, due_ms, kinds, nothing, [], ps)
        merged: list[Impression] = []
        start = 0
        for place, example in others:
            if place > start:
                merged += impressions[start:place]
                start = place
            merged.append(example.impression)
        merged += impressions[start:]
        before = np.array([place for place, _ in others], np.int64)
        own = [example for _, example in others]
        places = before + np.arange(len(own))
        kinds = np.zeros(len(merged), np.uint8)
        kinds[places] = np.fromiter(map(_kind, own), np.uint8, len(own))
        dues = np.insert(due_ms, before, [example.due_ms for example in own])
        return cls(merged, dues, kinds, places, own, np.full(len(merged), p, np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Stretches, one after the other; at least one."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *map(len, parts[:-1])])
        return cls(
            [impression for part in parts for impression in part.impressions],
            np.concatenate([part.due_ms for part in parts]),
            np.concatenate([part.kinds for part in parts]),
            np.concatenate([part.places + start for part, start in zip(parts, starts, strict=True)]),
            [example for part in parts for example in part.others],
            np.concatenate([part.ps for part in parts]),
        )

    @classmethod
    def merged(cls, parts: Sequence[Examples]) -> Examples:
        """Stretches of several join partitions as one, by (due time, partition); at least one. Each keeps its own order."""
        together = cls.joined(parts)
        return together if len(parts) == 1 else together._taken(np.lexsort((together.ps, together.due_ms)))

    def __len__(self) -> int:
        return len(self.impressions)

    def __iter__(self) -> Iterator[Example]:
        others, unclicked = iter(self.others), Kind.UNCLICKED
        columns = self.kinds.tolist(), self.due_ms.tolist(), self.ps.tolist(), self.impressions
        for kind, due_ms, p, impression in zip(*columns, strict=True):
            yield next(others) if kind else Example(due_ms, unclicked, CLICK_SLOT, p, impression)

    @overload
    def __getitem__(self, at: int) -> Example: ...

    @overload
    def __getitem__(self, at: slice) -> Examples: ...

    def __getitem__(self, at: int | slice) -> Example | Examples:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            assert step == 1
            first, last = np.searchsorted(self.places, [start, stop]).tolist()
            return Examples(
                self.impressions[start:stop],
                self.due_ms[start:stop],
                self.kinds[start:stop],
                self.places[first:last] - start,
                self.others[first:last],
                self.ps[start:stop],
            )
        place = range(len(self))[at]
        if self.kinds[place]:
            return self.others[int(np.searchsorted(self.places, place))]
        p = int(self.ps[place])
        return Example(int(self.due_ms[place]), Kind.UNCLICKED, CLICK_SLOT, p, self.impressions[place])

    def where(self, chosen: Bool) -> Examples:
        """Those of them that are chosen: (n,) yes or no."""
        if chosen.all():
            return self
        numbers = np.flatnonzero(chosen)
        stay = chosen[self.places]
        return Examples(
            [self.impressions[number] for number in numbers.tolist()],
            self.due_ms[numbers],
            self.kinds[numbers],
            np.searchsorted(numbers, self.places[stay]),
            [self.others[number] for number in np.flatnonzero(stay).tolist()],
            self.ps[numbers],
        )

    def _taken(self, order: Int64) -> Examples:
        """All of them, in another order."""
        kinds = self.kinds[order]
        places = np.flatnonzero(kinds)
        numbers = np.searchsorted(self.places, order[places])
        return Examples(
            [self.impressions[number] for number in order.tolist()],
            self.due_ms[order],
            kinds,
            places,
            [self.others[number] for number in numbers.tolist()],
            self.ps[order],
        )

    def of_kind(self, kind: Kind) -> list[Example]:
        """Those of one kind; UNCLICKED cannot be asked for."""
        return [example for example in self.others if example.kind == kind]
