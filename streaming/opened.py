"""Impressions that something may still come to, and when what is to be told of them is due. Must not know which facts were refused, or why.

An impression is unclicked or clicked. On-time ones take effect in the order of (event time, id), so their click windows close in that order:
a queue. All else that is due waits in a heap, and whatever is waited for keeps its impression here.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set
from itertools import repeat
from operator import attrgetter

import msgspec
import numpy as np

from streaming.events import Impression
from streaming.joined import (
    CLICK_SLOT,
    CONVERSION_SLOT,
    Due,
    Dues,
    JoinedImpression,
    PackedJoined,
    Schedule,
    Windows,
    pack_joined,
    unpack_joined,
)
from streaming.remembered import Left, Remembered, Times

_name = attrgetter("impression_id")


class OpenedSnapshot(msgspec.Struct, frozen=True):
    """An `Opened` as a value; `unclicked`, `clicked`, `closing` and `timers` point into `impressions`."""

    impressions: list[PackedJoined]
    unclicked: list[int]
    clicked: list[int]
    closing: list[int]
    timers: list[tuple[int, int, int]]


class Opened:
    """Open impressions by name, an impression of one name at a time.

    Args:
        windows, schedule: as the join has them.
        remembered: told of each impression that leaves.
    """

    def __init__(self, windows: Windows, schedule: Schedule, remembered: Remembered) -> None:
        self._windows, self._schedule, self._remembered = windows, schedule, remembered
        self.unclicked: dict[str, Impression] = {}
        self.clicked: dict[str, JoinedImpression] = {}
        self._closing: list[Impression] = []
        self._closing_ms = Times()  # event time of each
        self._timers: list[tuple[int, str, int]] = []  # heap of (due time, id, slot)

    def __len__(self) -> int:
        return len(self.unclicked) + len(self.clicked)

    def __contains__(self, name: str) -> bool:
        return name in self.unclicked or name in self.clicked

    def among(self, names: Set[str]) -> set[str]:
        """Those of these names that are open."""
        return (self.unclicked.keys() & names) | (self.clicked.keys() & names)

    @property
    def next_ms(self) -> int | None:
        """When the next thing is due; None if nothing is open."""
        closing_ms = self._closing_ms[0] + self._windows.click_ms if self._closing else None
        timer_ms = self._timers[0][0] if self._timers else None
        return min((ms for ms in (closing_ms, timer_ms) if ms is not None), default=None)

    def close_ms(self, impression: Impression) -> int:
        """When its click window closes."""
        return impression.event_time_ms + self._windows.click_ms

    def leave_ms(self, joined: JoinedImpression) -> int:
        """When nothing can come to a clicked impression any more, as far as is known now."""
        assert joined.click_ms is not None
        assert joined.click_known_ms is not None
        return max(joined.click_ms + self._windows.attribution_ms, joined.click_known_ms)

    def add(self, names: Sequence[str], impressions: Sequence[Impression], times_ms: Sequence[int]) -> None:
        """Opens impressions that are on time, in the order of (event time, id)."""
        self.unclicked.update(zip(names, impressions, strict=True))
        self._closing.extend(impressions)
        self._closing_ms.extend(times_ms)

    def add_late(self, impression: Impression) -> None:
        """Opens an impression that others of its time may have overtaken."""
        self.unclicked[impression.impression_id] = impression
        heapq.heappush(self._timers, (self.close_ms(impression), impression.impression_id, CLICK_SLOT))

    def click(self, name: str, click_ms: int, *, now_ms: int) -> None:
        """An unclicked impression has been clicked."""
        self.clicked[name] = JoinedImpression(self.unclicked.pop(name), click_ms, now_ms)
        for slot, after_ms in self._schedule.after_click_ms:
            heapq.heappush(self._timers, (max(click_ms + after_ms, now_ms), name, slot))

    def convert(self, joined: JoinedImpression, conversion_ms: int, value: float | None, *, now_ms: int) -> None:
        """A clicked impression has converted."""
        assert joined.click_ms is not None
        joined.conversion_ms, joined.conversion_known_ms, joined.value = conversion_ms, now_ms, value
        name = joined.impression.impression_id
        if self._schedule.tells_conversion:
            heapq.heappush(self._timers, (max(conversion_ms, now_ms), name, CONVERSION_SLOT))
        for slot, age_ms in self._schedule.at_ages_ms:
            if age_ms >= conversion_ms - joined.click_ms:
                heapq.heappush(self._timers, (max(joined.click_ms + age_ms, now_ms), name, slot))

    def let_leave(self, watermark_ms: int) -> Dues:
        """What is due before the watermark; impressions that nothing more can come to are gone."""
        unclicked, due_ms, closed = self._let_close(watermark_ms)
        late, timed = self._let_time_out(watermark_ms)
        if late:  # few
            unclicked = sorted(unclicked + late, key=lambda shown: (shown.event_time_ms, shown.impression_id))
            due_ms = [self.close_ms(shown) for shown in unclicked]
        return Dues.merged(unclicked, np.array(due_ms, np.int64), closed + timed)

    def _let_close(self, watermark_ms: int) -> tuple[list[Impression], list[int], list[Due]]:
        """The impressions on time whose click windows close: those unclicked, with their due times, and what is due of the clicked."""
        click_window_ms = self._windows.click_ms
        times_ms = self._closing_ms.take_below(watermark_ms - click_window_ms)
        closed = self._closing[: len(times_ms)]
        del self._closing[: len(times_ms)]
        names = list(map(_name, closed))
        gone = list(map(self.unclicked.pop, names, repeat(None)))
        clicked: list[Due] = []
        if not all(gone):  # a struct is true
            places = [place for place, shown in enumerate(gone) if shown is None]
            clicked = [
                Due(times_ms[place] + click_window_ms, CLICK_SLOT, self.clicked[names[place]]) for place in places
            ]
            for place in reversed(places):
                del closed[place], names[place], times_ms[place]
        self._remembered.add_unclicked(names, times_ms)
        return closed, [at_ms + click_window_ms for at_ms in times_ms], clicked

    def _let_time_out(self, watermark_ms: int) -> tuple[list[Impression], list[Due]]:
        """The late impressions whose click windows close without a click, and all else that is due of clicked ones."""
        timers, leave_slot = self._timers, self._schedule.after_click_ms[-1][0]
        late: list[Impression] = []
        timed: list[Due] = []
        while timers and timers[0][0] < watermark_ms:
            due_ms, name, slot = heapq.heappop(timers)
            joined = self.clicked.get(name)
            if joined is None:
                shown = self.unclicked.pop(name)
                late.append(shown)
                self._remembered.add(name, due_ms, Left(shown.event_time_ms, None, False))
                continue
            timed.append(Due(due_ms, slot, joined))
            if slot == leave_slot:
                del self.clicked[name]
                left = Left(joined.impression.event_time_ms, joined.click_ms, joined.conversion_ms is not None)
                self._remembered.add(name, due_ms, left)
        return late, timed

    def snapshot(self) -> OpenedSnapshot:
        """Everything there is, as a value."""
        opened = [*map(JoinedImpression, self.unclicked.values()), *self.clicked.values()]
        number = {joined.impression.impression_id: index for index, joined in enumerate(opened)}
        return OpenedSnapshot(
            impressions=list(map(pack_joined, opened)),
            unclicked=[number[name] for name in self.unclicked],
            clicked=[number[name] for name in self.clicked],
            closing=[number[shown.impression_id] for shown in self._closing],
            # A sorted list is a heap too, and the same however it was filled.
            timers=[(due_ms, slot, number[name]) for due_ms, name, slot in sorted(self._timers)],
        )

    def restore(self, snapshot: OpenedSnapshot) -> None:
        """Takes up what `snapshot` gave, while empty."""
        opened = [unpack_joined(packed) for packed in snapshot.impressions]
        names = [joined.impression.impression_id for joined in opened]
        self.unclicked = {names[index]: opened[index].impression for index in snapshot.unclicked}
        self.clicked = {names[index]: opened[index] for index in snapshot.clicked}
        self._closing = [opened[index].impression for index in snapshot.closing]
        self._closing_ms.extend([shown.event_time_ms for shown in self._closing])
        self._timers = [(due_ms, names[index], slot) for due_ms, slot, index in snapshot.timers]
