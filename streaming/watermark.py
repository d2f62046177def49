"""How far event time has come in one join partition that is read live. Must not know records, topics or the time of day.

    clock of a stream    largest event time it has shown - out_of_orderness        (None until it has shown one; `jumps.py` says which count)
    unheld watermark     smallest clock of the streams that are not idle;
                         all idle: the largest of their clocks, and there it stops
    watermark            the same with a stalled stream counted as not idle, but at most stall_hold behind the unheld one
    ahead                newest event time > unheld watermark + alignment: to be read no further for now

Neither watermark ever falls. A stream that has shown nothing holds both at None until it is idle.

    held by a stall   |<- - stall_hold at most - ->|
    ------------------W----------------------------U----------- event time
                      watermark                    unheld
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from streaming.events import RecordKind
from streaming.jumps import FOLLOWED, Jumps, JumpsSnapshot
from streaming.log_file import ALWAYS, NEVER, Bool, Int64
from streaming.stalls import Following, FollowingSnapshot

_LEADER = {RecordKind.CLICK: RecordKind.IMPRESSION, RecordKind.CONVERSION: RecordKind.CLICK}


class Met(NamedTuple):
    """What the records of one block met on arrival.

    Args:
        watermarks: (n,) the watermark; where there was none yet, the record's own time less the bound: it is not late.
        is_future: (n,) stamped too far ahead of processing time: takes no part, and moved no clock.
    """

    watermarks: Int64
    is_future: Bool


class ClockSnapshot(msgspec.Struct, frozen=True):
    """The state of a `PartitionClock` as a value; streams in the order of `RecordKind`."""

    newest_ms: tuple[int | None, ...]
    is_idle: tuple[bool, ...]
    start_ms: int | None
    unheld_ms: int | None
    watermark_ms: int | None
    following: tuple[FollowingSnapshot, ...]
    jumps: tuple[JumpsSnapshot, ...] = (JumpsSnapshot(),) * 3


class PartitionClock:
    """The watermark of a join partition and of its three streams.

    The same calls give the same answers; a block given in any portions gives the same as whole.

    Args:
        out_of_orderness_ms: how far behind its stream's newest a record may be and still be on time.
        alignment_ms: how far ahead of the watermark a stream may be read, and a single record move its clock; more than the above.
        future_skew_ms: how far ahead of processing time a record may be stamped.
        stall_hold_ms: how much event time a stream that has stalled may hold back.

    Example:
        >>> clock = PartitionClock(out_of_orderness_ms=5, alignment_ms=50, future_skew_ms=1_000, stall_hold_ms=0)
        >>> clock.observe(RecordKind.IMPRESSION, np.array([100, 107, 103]), now_ms=200).watermarks
        array([ 95, 102,  98])
        >>> clock.watermark_ms   # clicks and conversions have shown nothing yet, and are not idle
        >>> clock.set_idle(RecordKind.CLICK, True)
        >>> clock.set_idle(RecordKind.CONVERSION, True)
        >>> clock.watermark_ms
        102
    """

    def __init__(self, *, out_of_orderness_ms: int, alignment_ms: int, future_skew_ms: int, stall_hold_ms: int) -> None:
        self._out_of_orderness_ms, self._alignment_ms = out_of_orderness_ms, alignment_ms
        self._future_skew_ms, self._stall_hold_ms = future_skew_ms, stall_hold_ms
        self._jumps = {kind: Jumps(alignment_ms=alignment_ms) for kind in RecordKind}
        self._idle = dict.fromkeys(RecordKind, False)
        self._following = {kind: Following() for kind in _LEADER}
        self._start_ms = self._unheld_ms = self._watermark_ms = NEVER

    def observe(self, kind: RecordKind, times: Int64, now_ms: int) -> Met:
        """Takes in records of one stream, in their order.

        Args:
            kind: which stream.
            times: (n,) event times.
            now_ms: processing time. The only use of it: who is ahead of it by more than the skew moves no clock.
        """
        is_future = times > now_ms + self._future_skew_ms
        watermarks = np.empty_like(times)
        known = np.flatnonzero(~is_future)
        leads = {
            follower: times[known] >= self.newest_ms(follower) for follower, leader in _LEADER.items() if leader == kind
        }
        for start, end in pairwise(self._stops(kind, known, leads, len(times))):
            some = slice(start, end)
            counted = slice(*np.searchsorted(known, (start, end)).tolist())
            count = counted.stop - counted.start
            if kind in _LEADER:
                self._following[kind].follow(count)
            for follower, is_since in leads.items():
                self._following[follower].lead(is_since[counted])
            watermarks[some] = self._advance(kind, np.where(is_future[some], NEVER, times[some]), count > 0)
        return Met(np.where(watermarks == NEVER, times - self._out_of_orderness_ms, watermarks), is_future)

    def _stops(self, kind: RecordKind, known: Int64, leads: dict[RecordKind, Bool], count: int) -> list[int]:
        """Where to halt in a block: what follows is stalled or not from one stop to the next, and a stream begins record by record."""
        jumps = self._jumps[kind]
        stops = {0, count, *range(1, min(FOLLOWED + 1 + count - len(known), count) if jumps.is_beginning else 0)}
        for follower, is_since in leads.items():
            stops |= set(known[self._following[follower].turns(is_since)].tolist())
        return sorted(stops)

    def _advance(self, kind: RecordKind, times: Int64, is_shown: bool) -> Int64:
        """Moves the clock of a stream; the watermark after each record. NEVER is a time that moves nothing, or no watermark."""
        if is_shown:
            self._idle[kind] = False
        is_beginning = self._jumps[kind].is_beginning
        newest = self._jumps[kind].newest(times, reached_ms=self._unheld_ms)
        if is_beginning and newest[0] != NEVER:  # one record
            self._start_ms = int(newest[0]) if self._start_ms == NEVER else min(self._start_ms, int(newest[0]))
        clocks = np.where(newest == NEVER, NEVER, newest - self._out_of_orderness_ms)
        if self._idle[kind]:  # nothing but future records
            return np.full(len(times), self._watermark_ms)
        stalled = self.stalled
        others = [other for other in RecordKind if other != kind]
        running = np.minimum(clocks, self._smallest([other for other in others if not self._idle[other]]))
        held = np.minimum(
            clocks, self._smallest([other for other in others if not self._idle[other] or other in stalled])
        )
        unheld = np.maximum(np.maximum.accumulate(running), self._unheld_ms)
        let_go = np.where(unheld == NEVER, NEVER, unheld - self._stall_hold_ms)
        watermarks = np.maximum(np.maximum.accumulate(np.maximum(held, let_go)), self._watermark_ms)
        self._unheld_ms, self._watermark_ms = int(unheld[-1]), int(watermarks[-1])
        return watermarks

    def _smallest(self, kinds: list[RecordKind]) -> int:
        """The smallest clock of some streams: NEVER if one has shown nothing, ALWAYS if there are none."""
        newest_ms = min((self.newest_ms(kind) for kind in kinds), default=ALWAYS)
        return newest_ms if newest_ms in (NEVER, ALWAYS) else newest_ms - self._out_of_orderness_ms

    def set_idle(self, kind: RecordKind, is_idle: bool) -> None:
        """Takes in that a stream has become idle, or is no longer: it has shown all that there is, and for a while nothing more."""
        if self._idle[kind] == is_idle:
            return
        self._idle[kind] = is_idle
        if is_idle:
            self._jumps[kind].end()
        running = [other for other in RecordKind if not self._idle[other]]
        stalled = self.stalled
        largest_ms = max(map(self.newest_ms, RecordKind))
        unheld_ms = self._smallest(running)
        if unheld_ms == ALWAYS:
            unheld_ms = NEVER if largest_ms == NEVER else largest_ms - self._out_of_orderness_ms
        self._unheld_ms = max(self._unheld_ms, unheld_ms)
        held_ms = unheld_ms if not stalled else self._smallest([*running, *stalled])
        let_go_ms = NEVER if self._unheld_ms == NEVER else self._unheld_ms - self._stall_hold_ms
        self._watermark_ms = max(self._watermark_ms, held_ms, let_go_ms)

    @property
    def watermark_ms(self) -> int | None:
        """Event time before which nothing more is expected; None while there is no saying."""
        return _or_none(self._watermark_ms)

    @property
    def is_idle(self) -> bool:
        """Whether all streams are idle, and none of them has stalled."""
        return all(self._idle.values()) and not self.stalled

    @property
    def stalled(self) -> tuple[RecordKind, ...]:
        """The streams that show nothing although by all that is known they should: they count as not idle, for a while.

        A stream with unread records is waited for in any case, and called nothing.
        """
        return tuple(kind for kind, following in self._following.items() if self._idle[kind] and following.is_stalled)

    @property
    def held_ms(self) -> int:
        """How much event time is held back on account of stalled streams."""
        return 0 if self._watermark_ms == NEVER else self._unheld_ms - self._watermark_ms

    def newest_ms(self, kind: RecordKind) -> int:
        """The largest event time of a stream that counts, NEVER if it has shown none."""
        return self._jumps[kind].newest_ms

    def ahead(self) -> list[RecordKind]:
        """The streams to be read no further until the others have caught up; never all of those that are waited for, nor one that begins.

        While there is no watermark, measured from where the streams began: one may show hours before another shows that it is there.
        """
        base_ms = self._unheld_ms
        if base_ms == NEVER:
            if self._start_ms == NEVER:
                return []
            base_ms = self._start_ms - self._out_of_orderness_ms
        return [
            kind
            for kind, jumps in self._jumps.items()
            if jumps.newest_ms > base_ms + self._alignment_ms and (not jumps.is_beginning or self._idle[kind])
        ]

    def snapshot(self) -> ClockSnapshot:
        """All of it, as a value."""
        return ClockSnapshot(
            newest_ms=tuple(_or_none(self.newest_ms(kind)) for kind in RecordKind),
            is_idle=tuple(self._idle.values()),
            start_ms=_or_none(self._start_ms),
            unheld_ms=_or_none(self._unheld_ms),
            watermark_ms=_or_none(self._watermark_ms),
            following=tuple(following.snapshot() for following in self._following.values()),
            jumps=tuple(jumps.snapshot() for jumps in self._jumps.values()),
        )

    def restore(self, snapshot: ClockSnapshot) -> None:
        """Takes up where a snapshot was taken."""
        for jumps, newest_ms, waiting in zip(self._jumps.values(), snapshot.newest_ms, snapshot.jumps, strict=True):
            jumps.restore(_or_never(newest_ms), waiting)
        self._idle = dict(zip(RecordKind, snapshot.is_idle, strict=True))
        self._start_ms, self._unheld_ms = _or_never(snapshot.start_ms), _or_never(snapshot.unheld_ms)
        self._watermark_ms = _or_never(snapshot.watermark_ms)
        for following, counts in zip(self._following.values(), snapshot.following, strict=True):
            following.restore(counts)


def _or_none(ms: int) -> int | None:
    return None if ms == NEVER else ms


def _or_never(ms: int | None) -> int:
    return NEVER if ms is None else ms
