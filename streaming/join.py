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

from collections import Counter
from itertools import compress
from math import inf
from operator import attrgetter

import msgspec
import numpy as np

from streaming.arrivals import Arrivals
from streaming.events import Click, Conversion, Event, Fact, Impression
from streaming.held import Held
from streaming.joined import Door, Dues, JoinedImpression, Schedule, Side, Windows
from streaming.opened import Opened, OpenedSnapshot
from streaming.pending import PackedRecord, Pending, Record
from streaming.remembered import Left, LeftSnapshot, Remembered

_name = attrgetter("impression_id")


class JoinSnapshot(msgspec.Struct, frozen=True):
    """The state of a `Join` as a value."""

    watermark_ms: int | None
    opened: OpenedSnapshot
    remembered: LeftSnapshot
    held: list[tuple[str, PackedRecord]]
    pending: list[PackedRecord]


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
        self._watermark_ms: int | None = None
        self._remembered = Remembered(click_window_ms=windows.click_ms, hold_ms=windows.orphan_hold_ms)
        self._opened = Opened(windows, schedule, self._remembered)
        self._held = Held(windows.orphan_hold_ms)
        self._pending = Pending()
        self._due: list[Dues] = []
        self._sides: list[Side] = []

    def on_arrivals(self, arrivals: Arrivals) -> None:
        """Takes in records; they take effect, and what they cause leaves, with `on_watermark`."""
        self._pending.add(arrivals)

    @property
    def next_ms(self) -> int | None:
        """No watermark up to this one (it included) lets anything take effect or leave; None: none does, however far."""
        times_ms = (self._pending.next_ms, self._held.next_ms, self._opened.next_ms)
        return min((ms for ms in times_ms if ms is not None), default=None)

    def on_watermark(self, watermark_ms: int, *, is_halt: bool = False) -> tuple[Dues, list[Side]]:
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
            self._due.append(self._opened.let_leave(bound_ms))
            self._expire_held(bound_ms)
            self._remembered.forget(bound_ms)
            self._watermark_ms = bound_ms
        due, sides, self._due, self._sides = self._due, self._sides, [], []
        return Dues.joined(due), sides

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
        if not positions:
            return
        events = self._pending.events[positions.start : positions.stop]
        names = list(map(_name, events))
        start = 0
        # Nearly all are impressions on time that nobody has heard of: they go in by stretches, .7 us each in place of 4.
        for odd in [*self._odd_ones(positions, events, names), len(events)]:
            if odd > start:
                self._open_many(events[start:odd], names[start:odd], nows[start:odd], positions[start:odd])
            if odd < len(events):
                self._take_one(events[odd], positions[odd], nows[odd])
            start = odd + 1

    def _odd_ones(self, positions: range, events: list[Event], names: list[str]) -> list[int]:
        """Which of these need to be looked at: facts, late impressions, and those whose name may be known when their turn comes."""
        is_plain = self._pending.shown_on_time(positions)
        plain = list(compress(names, is_plain.tolist()))
        different = set(plain)
        known = self._remembered.may_hold(plain)
        known |= self._opened.among(different)
        if len(different) < len(plain):
            known |= {name for name, count in Counter(plain).items() if count > 1}
        for number in np.flatnonzero(~is_plain).tolist():
            if type(events[number]) is Impression:
                known.add(names[number])
        if known:
            is_plain &= np.fromiter((name not in known for name in names), np.bool_, len(names))
        odd: list[int] = np.flatnonzero(~is_plain).tolist()
        return odd

    def _open_many(self, events: list[Event], names: list[str], nows: list[int], positions: range) -> None:
        """Opens impressions that are on time and of new names."""
        if self._held and (self._held_until_ms() < nows[-1] or not self._held.names.isdisjoint(names)):
            for event, position, now_ms in zip(events, positions, nows, strict=True):
                self._take_one(event, position, now_ms)
            return
        self._opened.add(names, events, nows)  # type: ignore[arg-type]

    def _take_one(self, event: Event, position: int, now_ms: int) -> None:
        if self._held_until_ms() < now_ms:
            self._expire_held(now_ms)
        if type(event) is not Impression:
            self._on_fact(self._pending.record(position), now_ms)
            return
        name = event.impression_id
        is_known = name in self._opened or self._remembered.holds(name, now_ms=now_ms)
        if is_known or now_ms != event.event_time_ms:
            if not self._may_open(self._pending.record(position), is_known, now_ms):
                return
            self._opened.add_late(event)
        else:
            self._opened.add([name], [event], [now_ms])
        if name in self._held.names:
            self._release_held(name, now_ms)

    def _may_open(self, record: Record, is_known: bool, now_ms: int) -> bool:
        """Whether an impression that came late, or whose id is known, is the first of its name and still in its window."""
        if is_known:
            self._leave_by("duplicates", "an impression with this id is there or has just left", record)
            return False
        if record.event.event_time_ms + self._windows.click_ms < now_ms:
            self._leave_by("late", "its click window was over when it arrived", record)
            return False
        return True

    def _on_fact(self, record: Record, now_ms: int) -> None:
        """What becomes of a click or conversion: the table at the top of this module."""
        name = owner_of(record.event)  # type: ignore[arg-type]
        is_click = type(record.event) is Click
        joined, shown = self._opened.clicked.get(name), self._opened.unclicked.get(name)
        if joined is not None and self._opened.leave_ms(joined) >= now_ms:
            if is_click or joined.conversion_ms is not None:
                self._leave_by("duplicates", f"the impression has its {record.kind.name.lower()} already", record)
            else:
                self._convert(joined, record, now_ms)
        elif shown is not None and self._opened.close_ms(shown) >= now_ms:
            if is_click:
                self._click(shown, record, now_ms)
            else:
                self._held.add(name, record)
        else:
            left = self._left(joined, shown) or self._remembered.get(name, now_ms=now_ms)
            if left is None or (left.click_ms is None and not is_click):
                self._held.add(name, record)
            else:
                self._on_fact_of_left(record, left, is_click)

    def _left(self, joined: JoinedImpression | None, shown: Impression | None) -> Left | None:
        """What is known of an impression whose time is over, and that is still here."""
        if joined is not None:
            return Left(joined.impression.event_time_ms, joined.click_ms, joined.conversion_ms is not None)
        return None if shown is None else Left(shown.event_time_ms, None, False)

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

    def _click(self, shown: Impression, record: Record, now_ms: int) -> None:
        impression_ms, name = shown.event_time_ms, shown.impression_id
        if not self._is_within(record.event.event_time_ms - impression_ms, self._windows.click_ms):
            self._leave_by("out_of_window", _outside(record, impression_ms, self._windows.click_ms), record)
            return
        self._opened.click(name, max(record.event.event_time_ms, impression_ms), now_ms=now_ms)
        if name in self._held.names:
            self._release_held(name, now_ms)

    def _convert(self, joined: JoinedImpression, record: Record, now_ms: int) -> None:
        assert joined.click_ms is not None
        assert type(record.event) is Conversion
        if not self._is_within(record.event.event_time_ms - joined.click_ms, self._windows.attribution_ms):
            self._leave_by("out_of_window", _outside(record, joined.click_ms, self._windows.attribution_ms), record)
            return
        conversion_ms = max(record.event.event_time_ms, joined.click_ms)
        self._opened.convert(joined, conversion_ms, record.event.value, now_ms=now_ms)

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

    @property
    def open_impressions(self) -> int:
        """Impressions that something may still come to."""
        return len(self._opened)

    @property
    def open_clicks(self) -> int:
        """Those of them that were clicked."""
        return len(self._opened.clicked)

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
        return JoinSnapshot(
            watermark_ms=self._watermark_ms,
            opened=self._opened.snapshot(),
            remembered=self._remembered.snapshot(),
            held=self._held.snapshot(),
            pending=self._pending.snapshot(),
        )

    def restore(self, snapshot: JoinSnapshot) -> None:
        """Takes up where the snapshot was taken, in a new join of the same settings."""
        self._watermark_ms = snapshot.watermark_ms
        self._opened.restore(snapshot.opened)
        self._remembered.restore(snapshot.remembered)
        self._held.restore(snapshot.held)
        self._pending.restore(snapshot.pending)


def _outside(record: Record, after_ms: int, window_ms: int) -> str:
    return f"it came {record.event.event_time_ms - after_ms} ms after what it follows, the window is {window_ms} ms"
