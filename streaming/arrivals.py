"""Several log files read as one stream, in arrival order, with the watermark each record meets. Must not know what joins to what.

The rule (replay): read the file whose next unread record has the smallest event time; on ties impressions before clicks before
conversions, then the order of parts, then the line. A file's clock is max(seen, next unread) - out_of_orderness; the watermark is the
minimum over the files that are not exhausted. Both follow from one number a record, its *key*, the running maximum of
event time within its own file:

    arrival order            = stable sort by (key, file)       (a record behind its file's maximum is read at once)
    watermark on arrival     = key - out_of_orderness           (no other file's next record is below it)
    late                     = event time < key - out_of_orderness

so that files are merged block by block with a sort, not record by record with a heap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streaming.events import Event, EventDecoder, Malformed, RecordKind

FUTURE_LOOKAHEAD = 16
"""How many of the next records of its file must contradict a record before it is called a future one.

Where fewer follow, the whole file must, and by the stream's lead more; the very last record is held against the whole log."""

Int64 = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).min
_ALWAYS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Lines:
    """A block of consecutive records of one file, as bytes.

    Args:
        first_line: number of the first one, from 1. lines: without their ends; empty ones are skipped but counted.
        start: bytes of the (unpacked) file before the first one.
    """

    first_line: int
    lines: list[bytes]
    start: int


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: where its unread part starts, and the largest event time before that."""

    line: int = 1
    start: int = 0
    key_ms: int = _NEVER


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that takes no part in the stream: malformed, or stamped in the future."""

    kind: RecordKind
    at: str
    line: bytes
    reason: str
    is_future: bool
    impression_id: str | None
    event_time_ms: int | None
    watermark_ms: int | None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Records in arrival order, as columns of equal length, and what was refused among them.

    Args:
        times, watermarks: (n,) event time, and the watermark on arrival; a record is late if times < watermarks.
        kinds: (n,) `RecordKind` codes. events, lines: (n,) decoded, and as they were.
        names, files, numbers: record i came from line numbers[i] of names[files[i]].
        refused: records that take no part.
        watermark_ms: the watermark once these have arrived; None before the first record.
        is_last: whether the log is exhausted: `watermark_ms` is then the final one.
    """

    times: Int64
    watermarks: Int64
    kinds: Int64
    events: list[Event]
    lines: list[bytes]
    names: tuple[str, ...]
    files: Int64
    numbers: Int64
    refused: list[Refused]
    watermark_ms: int | None
    is_last: bool

    def at(self, index: int) -> str:
        """Where a record was read, as `file:line`."""
        return f"{self.names[self.files[index]]}:{self.numbers[index]}"


class Taken(NamedTuple):
    """Records of one file, in its order, as columns."""

    times: Int64
    keys: Int64
    numbers: Int64
    events: list[Event]
    lines: list[bytes]


class LogFile:
    """One file of a log while it is read: what was decoded and not yet handed on.

    Args:
        name: how places call it, relative to the log.
        kind: its stream. decoder: of that stream.
        blocks: its lines from `place` on.
        place: where reading starts.
    """

    def __init__(
        self, name: str, kind: RecordKind, decoder: EventDecoder, blocks: Iterator[Lines], place: Place
    ) -> None:
        self.name, self.kind = name, kind
        self.is_exhausted = False
        self.place = place
        self._read = place  # where the next block starts
        self._decoder, self._blocks = decoder, blocks
        self._times = np.empty(0, np.int64)
        self._events: list[Event] = []
        self._lines: list[bytes] = []
        self._numbers = np.empty(0, np.int64)
        self._ends = np.empty(0, np.int64)  # bytes of the file up to and including each record
        self._malformed: list[tuple[int, bytes, Malformed]] = []
        self._is_future = np.empty(0, np.bool_)  # decided for the first len(_is_future) records

    def fill(self, future_skew_ms: int, lead_ms: int) -> None:
        """Decodes one more block and decides which of the records in hand are future ones.

        Args:
            future_skew_ms: how far ahead of what follows it a record must be.
            lead_ms: how much further its stream may run ahead; asked where fewer than 16 records follow.
        """
        block = next(self._blocks, None)
        if block is None:
            self.is_exhausted = True
        else:
            self._append(block)
        times, decided = self._times, len(self._is_future)
        known = len(times) - FUTURE_LOOKAHEAD
        if known > decided:
            following = np.lib.stride_tricks.sliding_window_view(times[decided + 1 :], FUTURE_LOOKAHEAD).max(axis=1)
            is_future = times[decided:known] > following[: known - decided] + future_skew_ms
            self._is_future = np.concatenate([self._is_future, is_future])
        if self.is_exhausted:
            self._decide_end(future_skew_ms + lead_ms)

    def _decide_end(self, ahead_ms: int) -> None:
        """Decides the records that fewer than 16 follow, by the rest of the file; the very last one is left to `decide_tail`."""
        times = self._times
        largest_ms = self.largest_ms
        for index in range(len(self._is_future), len(times) - 1):
            others_ms = max(largest_ms, int(times[index + 1 :].max()))
            is_future = int(times[index]) > others_ms + ahead_ms
            self._is_future = np.append(self._is_future, is_future)
            largest_ms = largest_ms if is_future else max(largest_ms, int(times[index]))

    def _append(self, block: Lines) -> None:
        lengths = np.fromiter(map(len, block.lines), np.int64, len(block.lines))
        ends = block.start + np.cumsum(lengths + 1)
        numbers = np.arange(block.first_line, block.first_line + len(block.lines))
        lines = block.lines
        if lines:
            self._read = Place(int(numbers[-1]) + 1, int(ends[-1]))
        if not lengths.all():
            kept = np.flatnonzero(lengths)
            lines, ends, numbers = [lines[i] for i in kept], ends[kept], numbers[kept]
        events = self._decoder.decode(lines)
        bad = [index for index, event in enumerate(events) if type(event) is Malformed]
        if bad:
            self._malformed += [(int(numbers[i]), lines[i], events[i]) for i in bad]  # type: ignore[misc]
            good = np.delete(np.arange(len(events)), bad)
            lines, events, ends, numbers = (
                [lines[i] for i in good],
                [events[i] for i in good],
                ends[good],
                numbers[good],
            )
        self._events += events  # type: ignore[arg-type]
        self._lines += lines
        times = np.fromiter((event.event_time_ms for event in events), np.int64, len(events))
        self._times = np.concatenate([self._times, times])
        self._numbers = np.concatenate([self._numbers, numbers])
        self._ends = np.concatenate([self._ends, ends])

    @property
    def tail_ms(self) -> int | None:
        """Event time of the file's last record while it waits to be decided; None if there is no such record."""
        return int(self._times[-1]) if self.is_exhausted and len(self._times) == len(self._is_future) + 1 else None

    def decide_tail(self, is_future: bool) -> None:
        """Says whether the file's last record is a future one."""
        self._is_future = np.append(self._is_future, is_future)

    @property
    def largest_ms(self) -> int:
        """The largest event time known of it that is not a future one's, its undecided last record left out."""
        decided = len(self._is_future)
        times = self._times[:decided][~self._is_future]
        return max(int(times.max(initial=_NEVER)), self.place.key_ms)

    def keys(self) -> Int64:
        """(n,) running maxima of the decided records; a future one takes that of the record before it."""
        times = np.where(self._is_future, _NEVER, self._times[: len(self._is_future)])
        return np.maximum(np.maximum.accumulate(times), self.place.key_ms) if len(times) else times

    @property
    def bound_ms(self) -> int:
        """No record still to be read or decided has a smaller key than this."""
        if self.is_exhausted:
            return _ALWAYS
        keys = self.keys()
        return int(keys[-1]) if len(keys) else self.place.key_ms

    def take(self, bound_ms: int, out_of_orderness_ms: int) -> tuple[Taken, list[Refused]]:
        """Hands on what has a smaller key than the bound, and what was refused on the way there."""
        keys = self.keys()
        count = len(keys) if bound_ms == _ALWAYS else int(np.searchsorted(keys, bound_ms, "left"))
        keys, future = keys[:count], self._is_future[:count]
        times, numbers = self._times[:count], self._numbers[:count]
        events, lines = self._events[:count], self._lines[:count]
        is_done = self.is_exhausted and count == len(self._times)
        last_line = self._read.line - 1 if is_done else int(numbers[-1]) if count else self.place.line - 1
        refused = self._refuse_malformed(last_line)
        if future.any():
            for index in np.flatnonzero(future):
                watermark_ms = None if keys[index] == _NEVER else int(keys[index]) - out_of_orderness_ms
                refused.append(self._refuse_future(events[index], lines[index], int(numbers[index]), watermark_ms))
            kept = np.flatnonzero(~future)
            times, keys, numbers = times[kept], keys[kept], numbers[kept]
            events, lines = [events[i] for i in kept], [lines[i] for i in kept]
        self._leave_behind(count, is_done)
        return Taken(times, keys, numbers, events, lines), refused

    def _leave_behind(self, count: int, is_done: bool) -> None:
        largest = int(self.keys()[count - 1]) if count else self.place.key_ms
        if is_done:
            self.place = Place(self._read.line, self._read.start, largest)
        elif count:
            self.place = Place(int(self._numbers[count - 1]) + 1, int(self._ends[count - 1]), largest)
        del self._events[:count], self._lines[:count]
        self._times, self._numbers, self._ends = self._times[count:], self._numbers[count:], self._ends[count:]
        self._is_future = self._is_future[count:]

    def _refuse_malformed(self, last_line: int) -> list[Refused]:
        passed = [item for item in self._malformed if item[0] <= last_line]
        del self._malformed[: len(passed)]
        return [
            Refused(
                self.kind, f"{self.name}:{number}", line, why.reason, False, why.impression_id, why.event_time_ms, None
            )
            for number, line, why in passed
        ]

    def _refuse_future(self, event: Event, line: bytes, number: int, watermark_ms: int | None) -> Refused:
        reason = "stamped more than future_skew_ms ahead of what follows it"
        at = f"{self.name}:{number}"
        return Refused(self.kind, at, line, reason, True, event.impression_id, event.event_time_ms, watermark_ms)


class ArrivalOrder:
    """The files of a log as one stream.

    Args:
        files: in tie order: impressions, clicks, conversions, and the parts of each in name order.
        out_of_orderness_ms: how far behind its file's newest a record may be and still be on time.
        future_skew_ms: how far ahead of each of the next 16 records of its file a record must be stamped to be a future one.
        leads_ms: by kind, how far the last records of a file may rightly run ahead of what else there is: a conversion by the
            attribution window, a click by the click window. Beyond that plus `future_skew_ms` they are future ones.
    """

    def __init__(
        self,
        files: Sequence[LogFile],
        *,
        out_of_orderness_ms: int,
        future_skew_ms: int,
        leads_ms: Mapping[RecordKind, int],
    ) -> None:
        self._files = list(files)
        self._names = tuple(file.name for file in files)
        self._out_of_orderness_ms = out_of_orderness_ms
        self._future_skew_ms = future_skew_ms
        self._leads_ms = leads_ms

    def __iter__(self) -> Iterator[Arrivals]:
        bound_ms = _NEVER
        while bound_ms != _ALWAYS:
            unread = [file for file in self._files if not file.is_exhausted]
            if unread:
                file = min(unread, key=lambda file: file.bound_ms)
                file.fill(self._future_skew_ms, self._leads_ms[file.kind])
            self._decide_tails()
            next_bound_ms = min((file.bound_ms for file in self._files), default=_ALWAYS)
            if next_bound_ms > bound_ms:
                bound_ms = next_bound_ms
                yield self._take(bound_ms)

    def places(self) -> list[Place]:
        """How far each file was handed on, in the order of the files."""
        return [file.place for file in self._files]

    def _decide_tails(self) -> None:
        is_all_read = all(file.is_exhausted for file in self._files)
        for file in self._files:
            tail_ms = file.tail_ms
            if tail_ms is None:
                continue
            others = [other.largest_ms for other in self._files]
            others += [other.tail_ms for other in self._files if other is not file and other.tail_ms is not None]
            largest_ms = max(others)
            if largest_ms == _NEVER and not is_all_read:
                continue
            lead_ms = self._leads_ms[file.kind] + self._future_skew_ms
            if largest_ms == _NEVER or tail_ms <= largest_ms + lead_ms:
                file.decide_tail(is_future=False)
            elif is_all_read:
                file.decide_tail(is_future=True)

    def _take(self, bound_ms: int) -> Arrivals:
        taken: list[Taken] = []
        refused: list[Refused] = []
        for file in self._files:
            some, bad = file.take(bound_ms, self._out_of_orderness_ms)
            taken.append(some)
            refused += bad
        keys = np.concatenate([some.keys for some in taken]) if taken else np.empty(0, np.int64)
        order = np.argsort(keys, kind="stable")  # files stand in tie order, so that equal keys stay in it
        events = [event for some in taken for event in some.events]
        lines = [line for some in taken for line in some.lines]
        counts = [len(some.events) for some in taken]
        newest_ms = max((file.place.key_ms for file in self._files), default=_NEVER)
        reached_ms = newest_ms if bound_ms == _ALWAYS else bound_ms
        index = order.tolist()
        return Arrivals(
            times=_column([some.times for some in taken])[order],
            watermarks=keys[order] - self._out_of_orderness_ms,
            kinds=np.repeat([int(file.kind) for file in self._files], counts)[order],
            events=[events[i] for i in index],
            lines=[lines[i] for i in index],
            names=self._names,
            files=np.repeat(np.arange(len(counts)), counts)[order],
            numbers=_column([some.numbers for some in taken])[order],
            refused=refused,
            watermark_ms=None if reached_ms == _NEVER else reached_ms - self._out_of_orderness_ms,
            is_last=bound_ms == _ALWAYS,
        )


def _column(parts: list[Int64]) -> Int64:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
