"""Records that have arrived and wait to take effect, in the order in which they will. Must not know what they will do."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.arrivals import Arrivals
from streaming.events import Click, Conversion, Event, Impression, PackedEvent, RecordKind, pack, unpack
from streaming.log_file import Int64

Bool = npt.NDArray[np.bool_]

_KIND_OF = {Impression: RecordKind.IMPRESSION, Click: RecordKind.CLICK, Conversion: RecordKind.CONVERSION}


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record on its way: what is needed to let it take effect, to hold it, or to send it out by a side door.

    Args:
        event: decoded. line: as it was. at: `file:line` or `topic[partition]@offset`.
        watermark_ms: on arrival. is_late: whether its event time was below that.
    """

    event: Event
    line: bytes
    at: str
    watermark_ms: int
    is_late: bool

    @property
    def kind(self) -> RecordKind:
        """Which stream it came by."""
        return _KIND_OF[type(self.event)]


class PackedRecord(msgspec.Struct, frozen=True, array_like=True):
    """A `Record` as a value that msgpack can carry."""

    event: PackedEvent
    line: bytes
    at: str
    watermark_ms: int
    is_late: bool


def pack_record(record: Record) -> PackedRecord:
    """The record as a value; `unpack_record` gives it back."""
    return PackedRecord(pack(record.event), record.line, record.at, record.watermark_ms, record.is_late)


def unpack_record(packed: PackedRecord) -> Record:
    """The record that `pack_record` was given."""
    return Record(unpack(packed.event), packed.line, packed.at, packed.watermark_ms, packed.is_late)


class Pending:
    """Arrived records, sorted by when and in which order they take effect.

    A record that is on time takes effect at its event time, in the order (event time, kind, id, bytes); a late one at the
    watermark it met, before those at that time, in order of arrival. Both fit into one sortable number a record:

        order = ((now * 2) + (0 late | 1 on time)) * 4 + (0 late | kind on time)
    """

    def __init__(self) -> None:
        self._order = np.empty(0, np.int64)
        self._watermarks = np.empty(0, np.int64)
        self._files = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.int64)
        self._names: tuple[str, ...] = ()
        self.events: list[Event] = []
        self._lines: list[bytes] = []
        self._taken = 0
        self._is_sorted = True

    def __len__(self) -> int:
        return len(self.events) - self._taken

    def add(self, arrivals: Arrivals) -> None:
        """Takes in records that have arrived after those already here."""
        self._clear_taken()
        late = arrivals.times < arrivals.watermarks
        now = np.where(late, arrivals.watermarks, arrivals.times)
        order = np.where(late, now * 8, now * 8 + 4 + arrivals.kinds)
        files = arrivals.files
        if self.events and self._names[-len(arrivals.names) :] != arrivals.names:
            self._names += arrivals.names
        elif not self.events:
            self._names = arrivals.names
        files = files + (len(self._names) - len(arrivals.names))
        self._order = np.concatenate([self._order, order])
        self._watermarks = np.concatenate([self._watermarks, arrivals.watermarks])
        self._files = np.concatenate([self._files, files])
        self._numbers = np.concatenate([self._numbers, arrivals.numbers])
        self.events += arrivals.events
        self._lines += arrivals.lines
        self._is_sorted = False

    @property
    def next_ms(self) -> int | None:
        """When the next record takes effect; None if there is none."""
        self._sort()
        return int(self._order[self._taken]) // 8 if len(self) else None

    def is_ready(self, watermark_ms: int) -> bool:
        """Whether `take` would give any."""
        self._sort()
        return len(self) > 0 and bool(self._order[self._taken] < watermark_ms * 8 + 4)

    def take(self, watermark_ms: int, *, is_halt: bool = False) -> tuple[range, list[int]]:
        """The positions of the records that take effect once the watermark is here, and when each does.

        Those on time take effect when the watermark is strictly beyond their event time, late ones at the watermark they met,
        or, if this `is_halt`, when it is strictly beyond that.
        """
        self._sort()
        end = int(np.searchsorted(self._order, watermark_ms * 8 + (0 if is_halt else 4), "left"))
        taken = range(self._taken, max(end, self._taken))
        self._taken = taken.stop
        return taken, (self._order[taken.start : taken.stop] // 8).tolist()

    def shown_on_time(self, positions: range) -> Bool:
        """(n,) whether each of these positions, which `take` gave, is an impression that was not late."""
        return np.asarray(self._order[positions.start : positions.stop] & 7 == 4 + RecordKind.IMPRESSION)

    def record(self, position: int) -> Record:
        """The record at a position that `take` gave, until the next `add`."""
        number = int(self._numbers[position])
        name = self._names[self._files[position]]
        return Record(
            event=self.events[position],
            line=self._lines[position],
            at=name if number < 0 else f"{name}:{number}",
            watermark_ms=int(self._watermarks[position]),
            is_late=self.is_late(position),
        )

    def is_late(self, position: int) -> bool:
        """Whether the record at a position was late on arrival."""
        return bool(self._order[position] & 4 == 0)

    def _clear_taken(self) -> None:
        if self._taken:
            start = self._taken
            self._order, self._watermarks = self._order[start:], self._watermarks[start:]
            self._files, self._numbers = self._files[start:], self._numbers[start:]
            del self.events[:start], self._lines[:start]
            self._taken = 0

    def _sort(self) -> None:
        if self._is_sorted:
            return
        index = np.argsort(self._order, kind="stable")
        order = self._order[index]
        index = self._settle_ties(order, index)
        self._order = order
        self._watermarks, self._files = self._watermarks[index], self._files[index]
        self._numbers = self._numbers[index]
        positions = index.tolist()
        self.events = [self.events[i] for i in positions]
        self._lines = [self._lines[i] for i in positions]
        self._is_sorted = True

    def _settle_ties(self, order: Int64, index: Int64) -> Int64:
        """Sorts records on time with equal time and kind by (id, bytes)."""
        equal = np.flatnonzero((order[1:] == order[:-1]) & (order[1:] & 4 != 0))
        if not len(equal):
            return index
        events, lines = self.events, self._lines
        for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1):
            tied = slice(int(run[0]), int(run[-1]) + 2)
            index[tied] = sorted(index[tied].tolist(), key=lambda i: (events[i].impression_id, lines[i]))
        return index

    def snapshot(self) -> list[PackedRecord]:
        """The waiting records, as a value."""
        self._clear_taken()
        self._sort()
        return [pack_record(self.record(position)) for position in range(len(self.events))]

    def restore(self, snapshot: list[PackedRecord]) -> None:
        """Takes in the records of a snapshot, while empty."""
        records = [unpack_record(packed) for packed in snapshot]
        watermarks = np.array([record.watermark_ms for record in records], np.int64)
        self.add(
            Arrivals(
                times=np.array([record.event.event_time_ms for record in records], np.int64),
                watermarks=watermarks,
                kinds=np.array([int(record.kind) for record in records], np.int64),
                events=[record.event for record in records],
                lines=[record.line for record in records],
                names=tuple(record.at for record in records),
                files=np.arange(len(records)),
                numbers=np.full(len(records), -1),
                refused=[],
                watermark_ms=None,
                is_last=False,
            )
        )
