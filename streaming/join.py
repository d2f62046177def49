"""Gathers what belongs to one impression and says when something about it is due. Must not know labels, features or files.

The life of an impression. It is open until its last due time, then remembered for orphan_hold_ms, then forgotten:

    impression      close = impression + click window        leave = click + attribution window
        |---------------------|- - - - - - - - - - - - - - - - - - - -|.......................|
        |<------ OPEN ------->|<- OPEN only if it was clicked ------->|<---- REMEMBERED ----->| forgotten
            a click may come        a conversion may come                orphan_hold_ms

What a fact finds, and what becomes of it (`_CLICK` and `_CONVERSION` below are this table):

    the impression is      click                                    conversion
    ---------------------  ---------------------------------------  ---------------------------------------
    unknown or forgotten   held for a late impression               held for a late impression
    open, unclicked        in window: the click;  else out of window  held for a late click
    open, clicked          duplicate                                in window: the conversion; else out of window
    open, converted        duplicate                                duplicate
    left, unclicked        late, or out of window                   held (a view-through)
    left, clicked          duplicate                                late, or out of window
    left, converted        duplicate                                duplicate

A held fact leaves when the watermark passes its event time + orphan_hold_ms: late if it was late on arrival, else an orphan.

Time is one number here, `now_ms`: a record that is on time takes effect at its event time, once the watermark passes that; a late
one at once, at the watermark it met. Whether an impression is open, left or forgotten is asked of `now_ms` and never of
what was already cleared away, so that it does not matter in how large steps the watermark comes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from math import inf

from streaming.arrivals import Arrivals
from streaming.events import Click, Conversion, Fact, Impression
from streaming.held import Held
from streaming.joined import (
    CLICK_SLOT,
    CONVERSION_SLOT,
    Door,
    Due,
    JoinedImpression,
    JoinSnapshot,
    Schedule,
    Side,
    Windows,
    pack_joined,
    unpack_joined,
)
from streaming.pending import Pending, Record
from streaming.remembered import Left, Remembered


def owner_of(fact: Fact) -> str:
    """Which impression a fact belongs to. The one place to change for a join by another key with attribution."""
    return fact.impression_id


class Join:
    """The facts of one join partition, gathered by impression.

    Feed `on_arrivals` and `on_watermark` in any portions: what comes out is the same.

    Args:
        windows: how long things may take.
        schedule: what the labelling policy wants to be told about clicked impressions, and when. The last slot
            after a click must be due at the attribution window: the impression leaves with it.
    """

    def __init__(self, windows: Windows, schedule: Schedule) -> None:
        self._windows = windows
        self._schedule = schedule
        self._watermark_ms: int | None = None
        self._open: dict[str, JoinedImpression] = {}
        # On-time impressions take effect in the order of (event time, id), so their click windows close in that order.
        self._closing: deque[JoinedImpression] = deque()
        self._timers: list[tuple[int, str, int, JoinedImpression]] = []  # heap: all other slots, and late impressions
        self._remembered = Remembered(click_window_ms=windows.click_ms, hold_ms=windows.orphan_hold_ms)
        self._held = Held(windows.orphan_hold_ms)
        self._pending = Pending()
        self._due: list[Due] = []
        self._sides: list[Side] = []

    def on_arrivals(self, arrivals: Arrivals) -> None:
        """Takes in records; they take effect, and what they cause leaves, with `on_watermark`."""
        self._pending.add(arrivals)

    @property
    def next_ms(self) -> int | None:
        """No watermark up to this one (it included) lets anything take effect or leave; None: none does, however far."""
        times_ms = (
            self._pending.next_ms,
            self._held.next_ms,
            self._timers[0][0] if self._timers else None,
            self._close_ms(self._closing[0]) if self._closing else None,
        )
        return min((ms for ms in times_ms if ms is not None), default=None)

    def on_watermark(self, watermark_ms: int, *, is_halt: bool = False) -> tuple[list[Due], list[Side]]:
        """Lets everything take effect and leave that the watermark has passed.

        Args:
            watermark_ms: event time before which nothing more is expected; below the last one it changes nothing.
            is_halt: the watermark has come further, this is a halt on its way. Late records that met exactly this one wait,
                since they may not have arrived yet when it was reached: so a halt finds the same however records came.

        Returns:
            What is due, in the order (due time, impression_id, slot), and the records that left by a side door.
        """
        # An impression must not close, be remembered and be forgotten within one step, so none is longer than the hold (of 0: than
        # the millisecond in which both happen).
        while (bound_ms := self._next_bound_ms(watermark_ms, is_halt)) is not None:
            self._take_effect(bound_ms, is_halt and bound_ms == watermark_ms)
            self._let_leave(bound_ms)
            self._watermark_ms = bound_ms
        due, sides, self._due, self._sides = self._due, self._sides, [], []
        return due, sides

    def _next_bound_ms(self, watermark_ms: int, is_halt: bool) -> int | None:
        reached_ms = self._watermark_ms
        if reached_ms is not None and watermark_ms <= reached_ms:
            is_ready = not is_halt and self._pending.is_ready(reached_ms)  # a late record takes effect at once
            return reached_ms if is_ready else None
        next_ms = self.next_ms
        if next_ms is None:
            return watermark_ms
        start_ms = next_ms if reached_ms is None else max(next_ms, reached_ms)
        return min(watermark_ms, start_ms + max(self._windows.orphan_hold_ms, 1))

    def _take_effect(self, watermark_ms: int, is_halt: bool) -> None:
        positions, nows = self._pending.take(watermark_ms, is_halt=is_halt)
        pending, events = self._pending, self._pending.events
        open_impressions, closing, remembered = self._open, self._closing, self._remembered
        held_names, held_until_ms = self._held.names, self._held_until_ms()
        for position, now_ms in zip(positions, nows, strict=True):
            if held_until_ms < now_ms:
                self._expire_held(now_ms)
                held_until_ms = self._held_until_ms()
            event = events[position]
            if type(event) is not Impression:
                self._on_fact(pending.record(position), now_ms)
                held_until_ms = self._held_until_ms()
                continue
            name = event.impression_id
            if name in open_impressions or now_ms != event.event_time_ms or remembered.holds(name, now_ms=now_ms):
                if not self._may_open(pending.record(position), now_ms):
                    continue
                joined = JoinedImpression(event)
                heapq.heappush(self._timers, (self._close_ms(joined), name, CLICK_SLOT, joined))
            else:
                joined = JoinedImpression(event)
                closing.append(joined)
            open_impressions[name] = joined
            if name in held_names:
                self._release_held(name, now_ms)
                held_until_ms = self._held_until_ms()

    def _close_ms(self, joined: JoinedImpression) -> int:
        return joined.impression.event_time_ms + self._windows.click_ms

    def _may_open(self, record: Record, now_ms: int) -> bool:
        """Whether an impression that came late, or whose id is known, is the first of its name and still in its window."""
        name = record.event.impression_id
        if name in self._open or self._remembered.holds(name, now_ms=now_ms):
            self._leave_by("duplicates", "an impression with this id is there or has just left", record)
            return False
        if record.event.event_time_ms + self._windows.click_ms < now_ms:
            self._leave_by("late", "its click window was over when it arrived", record)
            return False
        return True

    def _on_fact(self, record: Record, now_ms: int) -> None:
        """What becomes of a click or conversion: the table at the top of this module."""
        name = owner_of(record.event)  # type: ignore[arg-type]
        joined = self._open.get(name)
        is_click = type(record.event) is Click
        if joined is None or self._leave_ms(joined) < now_ms:
            left = (
                self._remembered.get(name, now_ms=now_ms)
                if joined is None
                else Left(joined.impression.event_time_ms, joined.click_ms, joined.conversion_ms is not None)
            )
            if left is None or (left.click_ms is None and not is_click):
                self._held.add(name, record)
            else:
                self._on_fact_of_left(record, left, is_click)
        elif joined.click_ms is None:
            if is_click:
                self._click(joined, record, now_ms)
            else:
                self._held.add(name, record)
        elif is_click or joined.conversion_ms is not None:
            self._leave_by("duplicates", f"the impression has its {record.kind.name.lower()} already", record)
        else:
            self._convert(joined, record, now_ms)

    def _leave_ms(self, joined: JoinedImpression) -> int:
        """When nothing can come to an impression any more, as far as is known now."""
        if joined.click_ms is None:
            return self._close_ms(joined)
        assert joined.click_known_ms is not None
        return max(joined.click_ms + self._windows.attribution_ms, joined.click_known_ms)

    def _on_fact_of_left(self, record: Record, left: Left, is_click: bool) -> None:
        if left.is_converted or (is_click and left.click_ms is not None):
            self._leave_by("duplicates", f"the impression had its {record.kind.name.lower()} before it left", record)
            return
        after_ms, window_ms = self._anchor(is_click, left.impression_ms, left.click_ms)
        if record.is_late and self._is_within(record.event.event_time_ms - after_ms, window_ms):
            self._leave_by("late", "its impression had left when it arrived", record)
        else:
            self._leave_by("out_of_window", _outside(record, after_ms, window_ms), record)

    def _anchor(self, is_click: bool, impression_ms: int, click_ms: int | None) -> tuple[int, int]:
        """What a fact is measured from, and how long after it may come."""
        if is_click:
            return impression_ms, self._windows.click_ms
        assert click_ms is not None
        return click_ms, self._windows.attribution_ms

    def _is_within(self, after_ms: int, window_ms: int) -> bool:
        return -self._windows.clock_skew_ms <= after_ms <= window_ms

    def _click(self, joined: JoinedImpression, record: Record, now_ms: int) -> None:
        impression_ms = joined.impression.event_time_ms
        if not self._is_within(record.event.event_time_ms - impression_ms, self._windows.click_ms):
            self._leave_by("out_of_window", _outside(record, impression_ms, self._windows.click_ms), record)
            return
        joined.click_ms = max(record.event.event_time_ms, impression_ms)
        joined.click_known_ms = now_ms
        for slot, after_ms in self._schedule.after_click_ms:
            due_ms = max(joined.click_ms + after_ms, now_ms)
            heapq.heappush(self._timers, (due_ms, joined.impression.impression_id, slot, joined))
        if joined.impression.impression_id in self._held.names:
            self._release_held(joined.impression.impression_id, now_ms)

    def _convert(self, joined: JoinedImpression, record: Record, now_ms: int) -> None:
        assert joined.click_ms is not None
        assert type(record.event) is Conversion
        if not self._is_within(record.event.event_time_ms - joined.click_ms, self._windows.attribution_ms):
            self._leave_by("out_of_window", _outside(record, joined.click_ms, self._windows.attribution_ms), record)
            return
        joined.conversion_ms = max(record.event.event_time_ms, joined.click_ms)
        joined.conversion_known_ms = now_ms
        joined.value = record.event.value
        name = joined.impression.impression_id
        if self._schedule.tells_conversion:
            heapq.heappush(self._timers, (max(joined.conversion_ms, now_ms), name, CONVERSION_SLOT, joined))
        for slot, age_ms in self._schedule.at_ages_ms:
            if age_ms >= joined.conversion_ms - joined.click_ms:
                heapq.heappush(self._timers, (max(joined.click_ms + age_ms, now_ms), name, slot, joined))

    def _held_until_ms(self) -> float:
        until_ms = self._held.next_ms
        return inf if until_ms is None else until_ms

    def _release_held(self, name: str, now_ms: int) -> None:
        """Lets what was held for an impression take effect, clicks before the conversions that follow them."""
        records = self._held.release(name)
        for kind in (Click, Conversion):
            for record in records:
                if type(record.event) is kind:
                    self._on_fact(record, now_ms)

    def _expire_held(self, now_ms: int) -> None:
        for record in self._held.expire(now_ms):
            if record.is_late:
                self._leave_by("late", "nothing it could belong to was there any more when it arrived", record)
            else:
                self._leave_by("orphans", "nothing it could belong to came within orphan_hold_ms", record)

    def _leave_by(self, door: Door, reason: str, record: Record) -> None:
        self._sides.append(Side(door, reason, record))

    def _let_leave(self, watermark_ms: int) -> None:
        """Emits what is due before the watermark, and lets impressions go that nothing more can come to."""
        closed = self._let_close(watermark_ms)
        timed = self._let_time_out(watermark_ms)
        self._due += _merged(closed, timed) if timed else closed
        self._expire_held(watermark_ms)
        self._remembered.forget(watermark_ms)

    def _let_close(self, watermark_ms: int) -> list[Due]:
        closing, open_impressions = self._closing, self._open
        click_window_ms = self._windows.click_ms
        bound_ms = watermark_ms - click_window_ms
        closed: list[Due] = []
        names: list[str] = []
        times_ms: list[int] = []
        while closing:
            joined = closing[0]
            impression = joined.impression
            impression_ms = impression.event_time_ms
            if impression_ms >= bound_ms:
                break
            closing.popleft()
            closed.append(Due(impression_ms + click_window_ms, CLICK_SLOT, joined))
            if joined.click_ms is None:
                names.append(impression.impression_id)
                times_ms.append(impression_ms)
        for name in names:
            del open_impressions[name]
        self._remembered.add_unclicked(names, times_ms)
        return closed

    def _let_time_out(self, watermark_ms: int) -> list[Due]:
        timers, leave_slot = self._timers, self._schedule.after_click_ms[-1][0]
        timed: list[Due] = []
        while timers and timers[0][0] < watermark_ms:
            due_ms, name, slot, joined = heapq.heappop(timers)
            timed.append(Due(due_ms, slot, joined))
            impression_ms = joined.impression.event_time_ms
            if slot == CLICK_SLOT and joined.click_ms is None:
                del self._open[name]
                self._remembered.add(name, due_ms, Left(impression_ms, None, False))
            elif slot == leave_slot:
                del self._open[name]
                left = Left(impression_ms, joined.click_ms, joined.conversion_ms is not None)
                self._remembered.add(name, due_ms, left)
        return timed

    @property
    def open_impressions(self) -> int:
        """Impressions that something may still come to."""
        return len(self._open)

    @property
    def open_clicks(self) -> int:
        """Those of them that were clicked."""
        return sum(joined.click_ms is not None for joined in self._open.values())

    @property
    def remembered_impressions(self) -> int:
        """Impressions that have left and are remembered."""
        return len(self._remembered)

    @property
    def pending_records(self) -> int:
        """Records that have arrived and not yet taken effect."""
        return len(self._pending)

    @property
    def held_facts(self) -> int:
        """Clicks and conversions that wait for what they belong to."""
        return len(self._held)

    def snapshot(self) -> JoinSnapshot:
        """The whole state, as a value."""
        waiting = {id(joined): joined for joined in self._open.values()}
        waiting |= {id(joined): joined for joined in self._closing}
        waiting |= {id(timer[3]): timer[3] for timer in self._timers}
        number = {key: index for index, key in enumerate(waiting)}
        timers = sorted(self._timers, key=lambda timer: timer[:3])  # a heap too, and the same however it was filled
        return JoinSnapshot(
            watermark_ms=self._watermark_ms,
            impressions=[pack_joined(joined) for joined in waiting.values()],
            opened=[number[id(joined)] for joined in self._open.values()],
            closing=[number[id(joined)] for joined in self._closing],
            timers=[(due_ms, slot, number[id(joined)]) for due_ms, _, slot, joined in timers],
            remembered=self._remembered.snapshot(),
            held=self._held.snapshot(),
            pending=self._pending.snapshot(),
        )

    def restore(self, snapshot: JoinSnapshot) -> None:
        """Takes up where the snapshot was taken, in a new join of the same settings."""
        joined = [unpack_joined(packed) for packed in snapshot.impressions]
        self._watermark_ms = snapshot.watermark_ms
        self._open = {joined[index].impression.impression_id: joined[index] for index in snapshot.opened}
        self._closing = deque(joined[index] for index in snapshot.closing)
        self._timers = [
            (due_ms, joined[index].impression.impression_id, slot, joined[index])
            for due_ms, slot, index in snapshot.timers
        ]
        self._remembered.restore(snapshot.remembered)
        self._held.restore(snapshot.held)
        self._pending.restore(snapshot.pending)


def _outside(record: Record, after_ms: int, window_ms: int) -> str:
    return f"it came {record.event.event_time_ms - after_ms} ms after what it follows, the window is {window_ms} ms"


def _merged(closed: list[Due], timed: list[Due]) -> list[Due]:
    """Two sorted lists as one; `timed` is short, so it is laid into `closed` by bisection."""
    merged: list[Due] = []
    start = 0
    for due in timed:
        end = bisect_left(closed, _order_of(due), lo=start, key=_order_of)
        merged += closed[start:end]
        merged.append(due)
        start = end
    return merged + closed[start:]


def _order_of(due: Due) -> tuple[int, str, int]:
    return due.due_ms, due.joined.impression.impression_id, due.slot
