"""One file of a log while it is read: decodes ahead, tells records from the future, gives them up in order. Must not know other files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streaming.events import Event, EventDecoder, Malformed, RecordKind

FUTURE_LOOKAHEAD = 16
"""How many of the next records of its file must contradict a record before it is called a future one.

Where fewer follow, the whole file must, and by the stream's lead more; the very last record is held against the whole log."""

Int64 = npt.NDArray[np.int64]
NEVER = np.iinfo(np.int64).min
ALWAYS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Lines:
    """A block of consecutive records of one file, as bytes.

    Args:
        first_line: number of the first one, from 1. lines: without their ends; blank ones are skipped but counted.
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
    key_ms: int = NEVER


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
            self._malformed += [
                (int(numbers[i]), lines[i], events[i])  # type: ignore[misc]
                for i in bad
                if not lines[i].isspace()
            ]
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
        return max(int(times.max(initial=NEVER)), self.place.key_ms)

    def keys(self) -> Int64:
        """(n,) running maxima of the decided records; a future one takes that of the record before it."""
        times = np.where(self._is_future, NEVER, self._times[: len(self._is_future)])
        return np.maximum(np.maximum.accumulate(times), self.place.key_ms) if len(times) else times

    @property
    def bound_ms(self) -> int:
        """No record still to be read or decided has a smaller key than this."""
        if self.is_exhausted:
            return ALWAYS
        keys = self.keys()
        return int(keys[-1]) if len(keys) else self.place.key_ms

    def take(self, bound_ms: int, out_of_orderness_ms: int) -> tuple[Taken, list[tuple[int, Refused]]]:
        """Hands on what has a smaller key than the bound, and, each with its key, what was refused up to the next record."""
        keys = self.keys()
        count = len(keys) if bound_ms == ALWAYS else int(np.searchsorted(keys, bound_ms, "left"))
        keys, future = keys[:count], self._is_future[:count]
        times, numbers = self._times[:count], self._numbers[:count]
        events, lines = self._events[:count], self._lines[:count]
        refused = [
            (
                int(keys[index]),
                self._refuse_future(
                    events[index], lines[index], int(numbers[index]), int(keys[index]) - out_of_orderness_ms
                ),
            )
            for index in np.flatnonzero(future)
        ]
        if count < len(self._times):
            next_line, next_start = int(self._numbers[count]), int(self._ends[count]) - len(self._lines[count]) - 1
        else:
            next_line, next_start = self._read.line, self._read.start
        refused += self._refuse_malformed(next_line, numbers, keys)
        refused.sort(key=lambda item: (item[0], int(item[1].at.rpartition(":")[2])))
        self.place = Place(next_line, next_start, int(keys[-1]) if count else self.place.key_ms)
        del self._events[:count], self._lines[:count]
        self._times, self._numbers, self._ends = self._times[count:], self._numbers[count:], self._ends[count:]
        self._is_future = self._is_future[count:]
        if future.any():
            kept = np.flatnonzero(~future)
            times, keys, numbers = times[kept], keys[kept], numbers[kept]
            events, lines = [events[i] for i in kept], [lines[i] for i in kept]
        return Taken(times, keys, numbers, events, lines), refused

    def _refuse_malformed(self, next_line: int, numbers: Int64, keys: Int64) -> list[tuple[int, Refused]]:
        """The malformed records before a line; the key of one is that of the record before it."""
        passed = [item for item in self._malformed if item[0] < next_line]
        del self._malformed[: len(passed)]
        refused: list[tuple[int, Refused]] = []
        for number, line, why in passed:
            before = int(np.searchsorted(numbers, number)) - 1
            at = f"{self.name}:{number}"
            record = Refused(self.kind, at, line, why.reason, False, why.impression_id, why.event_time_ms, None)
            refused.append((int(keys[before]) if before >= 0 else self.place.key_ms, record))
        return refused

    def _refuse_future(self, event: Event, line: bytes, number: int, watermark_ms: int) -> Refused:
        reason = "stamped more than future_skew_ms ahead of what follows it"
        met_ms = watermark_ms if watermark_ms > 0 else None  # nothing came before it
        at = f"{self.name}:{number}"
        return Refused(self.kind, at, line, reason, True, event.impression_id, event.event_time_ms, met_ms)
