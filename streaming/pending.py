"""Records that have arrived and wait to take effect, in the order in which they will. Must not know what they will do."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.arrivals import Arrivals, picker, place_of
from streaming.events import Click, Conversion, Event, Impression, PackedEvent, RecordKind, pack, unpack

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
        # In order of arrival, taken ones too until they are cleared away.
        self._arrived: list[Event] = []
        self._lines: list[bytes] = []
        self._watermarks = np.empty(0, np.int64)
        self._files = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.int64)
        self._names: tuple[str, ...] = ()
        # By when they take effect: the numbers, and where in order of arrival each stands.
        self._order = np.empty(0, np.int64)
        self._index = np.empty(0, np.int64)
        self.events: list[Event] = []
        """At the positions that `take` gave since the last `add`."""

    def __len__(self) -> int:
        return len(self._order) - len(self.events)

    def add(self, arrivals: Arrivals) -> None:
        """Takes in records that have arrived after those already here."""
        self._clear_taken()
        late = arrivals.times < arrivals.watermarks
        now = np.where(late, arrivals.watermarks, arrivals.times)
        order = np.where(late, now * 8, now * 8 + 4 + arrivals.kinds)
        files = arrivals.files
        if self._arrived and self._names[-len(arrivals.names) :] != arrivals.names:
            self._names += arrivals.names
        elif not self._arrived:
            self._names = arrivals.names
        files = files + (len(self._names) - len(arrivals.names))
        index = np.arange(len(self._arrived), len(self._arrived) + len(order))
        self._arrived += arrivals.events
        self._lines += arrivals.lines
        self._watermarks = np.concatenate([self._watermarks, arrivals.watermarks])
        self._files = np.concatenate([self._files, files])
        self._numbers = np.concatenate([self._numbers, arrivals.numbers])
        order, index = np.concatenate([self._order, order]), np.concatenate([self._index, index])
        sort = np.argsort(order, kind="stable")  # what was here is sorted, and the rest nearly: that costs little
        self._order, self._index = order[sort], index[sort]

    @property
    def next_ms(self) -> int | None:
        """When the next record takes effect; None if there is none."""
        return int(self._order[len(self.events)]) // 8 if len(self) else None

    def is_ready(self, watermark_ms: int) -> bool:
        """Whether `take` would give any."""
        return len(self) > 0 and bool(self._order[len(self.events)] < watermark_ms * 8 + 4)

    def take(self, watermark_ms: int, *, is_halt: bool = False) -> tuple[range, list[int]]:
        """The positions of the records that take effect once the watermark is here, and when each does.

        Those on time take effect when the watermark is strictly beyond their event time, late ones at the watermark they met,
        or, if this `is_halt`, when it is strictly beyond that.
        """
        start = len(self.events)
        end = int(np.searchsorted(self._order, watermark_ms * 8 + (0 if is_halt else 4), "left"))
        taken = range(start, max(end, start))
        self._settle_ties(taken)
        self.events += picker(self._index[taken.start : taken.stop])(self._arrived)
        return taken, (self._order[taken.start : taken.stop] // 8).tolist()

    def shown_on_time(self, positions: range) -> Bool:
        """(n,) whether each of these positions, which `take` gave, is an impression that was not late."""
        return np.asarray(self._order[positions.start : positions.stop] & 7 == 4 + RecordKind.IMPRESSION)

    def record(self, position: int) -> Record:
        """The record at a position that `take` gave, until the next `add`."""
        place = int(self._index[position])
        number = int(self._numbers[place])
        name = self._names[self._files[place]]
        return Record(
            event=self._arrived[place],
            line=self._lines[place],
            at=name if number < 0 else place_of(name, number),
            watermark_ms=int(self._watermarks[place]),
            is_late=self.is_late(position),
        )

    def is_late(self, position: int) -> bool:
        """Whether the record at a position was late on arrival."""
        return bool(self._order[position] & 4 == 0)

    def _clear_taken(self) -> None:
        start = len(self.events)
        if not start:
            return
        self._order, index, self.events = self._order[start:], self._index[start:], []
        if 2 * len(index) > len(self._arrived):  # where many wait, they are not copied for every few that go
            self._index = index
            return
        kept = np.sort(index)
        self._index = np.searchsorted(kept, index)
        pick = picker(kept)
        self._arrived, self._lines = pick(self._arrived), pick(self._lines)
        self._watermarks, self._files = self._watermarks[kept], self._files[kept]
        self._numbers = self._numbers[kept]

    def _settle_ties(self, positions: range) -> None:
        """Sorts records on time with equal time and kind by (id, bytes)."""
        order, index = self._order[positions.start : positions.stop], self._index[positions.start : positions.stop]
        equal = np.flatnonzero((order[1:] == order[:-1]) & (order[1:] & 4 != 0))
        if not len(equal):
            return
        events, lines = self._arrived, self._lines
        for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1):
            tied = slice(int(run[0]), int(run[-1]) + 2)
            index[tied] = sorted(index[tied].tolist(), key=lambda i: (events[i].impression_id, lines[i]))

    def snapshot(self) -> list[PackedRecord]:
        """The waiting records, as a value."""
        waiting = range(len(self.events), len(self._order))
        self._settle_ties(waiting)
        return [pack_record(self.record(position)) for position in waiting]

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
