"""One file of a log while it is read: decodes ahead, tells records from the future, gives them up in order. Must not know other files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from streaming.events import Event, EventDecoder, Malformed, RecordKind

FUTURE_LOOKAHEAD = 16
"""How many of the next records of its file must contradict a record before it is called a future one.

Where fewer follow, the whole file must, and by the stream's lead more; the very last record is held against the whole log."""

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Item = TypeVar("Item")
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
        # Records in hand, as columns; future or not, and so their keys, is decided for the first len(_keys).
        self._times = np.empty(0, np.int64)
        self._events: list[Event] = []
        self._lines: list[bytes] = []
        self._numbers = np.empty(0, np.int64)
        self._ends = np.empty(0, np.int64)  # bytes of the file up to and including each record
        self._is_future = np.empty(0, np.bool_)
        self._keys = np.empty(0, np.int64)
        self._malformed: list[tuple[int, bytes, Malformed]] = []

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
        decided, known = len(self._keys), len(self._times) - FUTURE_LOOKAHEAD
        if known > decided:
            self._decide(_is_ahead(self._times[decided:], future_skew_ms))
        if self.is_exhausted:
            self._decide_end(future_skew_ms + lead_ms)

    def _decide_end(self, ahead_ms: int) -> None:
        """Decides the records that fewer than 16 follow, by the rest of the file; the very last one is left to `decide_tail`."""
        times = self._times
        for index in range(len(self._keys), len(times) - 1):
            others_ms = max(self.largest_ms, int(times[index + 1 :].max()))
            self._decide(times[index : index + 1] > others_ms + ahead_ms)

    def _decide(self, is_future: Bool) -> None:
        """Says which of the next undecided records are future ones."""
        times = self._times[len(self._keys) :][: len(is_future)]
        keys = np.maximum.accumulate(np.where(is_future, NEVER, times))
        self._keys = np.concatenate([self._keys, np.maximum(keys, self.largest_ms)])
        self._is_future = np.concatenate([self._is_future, is_future])

    def _append(self, block: Lines) -> None:
        lines = block.lines.copy()
        lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        ends = block.start + np.cumsum(lengths + 1)
        numbers = np.arange(block.first_line, block.first_line + len(lines))
        if lines:
            self._read = Place(int(numbers[-1]) + 1, int(ends[-1]))
        if not lengths.all():
            kept = lengths > 0
            lines, ends, numbers = list(filter(None, lines)), ends[kept], numbers[kept]
        events, malformed = self._decoder.decode_apart(lines)
        if malformed:
            bad = [index for index, _ in malformed]
            self._malformed += [
                (int(numbers[index]), lines[index], why) for index, why in malformed if not lines[index].isspace()
            ]
            for index in reversed(bad):
                del lines[index]
            ends, numbers = np.delete(ends, bad), np.delete(numbers, bad)
        times = np.fromiter([event.event_time_ms for event in events], np.int64, len(events))
        # A handful is left of the block before: it goes in front, so that the new block is not copied.
        events[:0], lines[:0] = self._events, self._lines
        self._events, self._lines = events, lines
        self._times = np.concatenate([self._times, times])
        self._numbers = np.concatenate([self._numbers, numbers])
        self._ends = np.concatenate([self._ends, ends])

    @property
    def tail_ms(self) -> int | None:
        """Event time of the file's last record while it waits to be decided; None if there is no such record."""
        return int(self._times[-1]) if self.is_exhausted and len(self._times) == len(self._keys) + 1 else None

    def decide_tail(self, is_future: bool) -> None:
        """Says whether the file's last record is a future one."""
        self._decide(np.array([is_future]))

    @property
    def largest_ms(self) -> int:
        """The largest event time known of it that is not a future one's, its undecided last record left out."""
        return int(self._keys[-1]) if len(self._keys) else self.place.key_ms

    @property
    def bound_ms(self) -> int:
        """No record still to be read or decided has a smaller key than this."""
        return ALWAYS if self.is_exhausted else self.largest_ms

    def take(self, bound_ms: int, out_of_orderness_ms: int) -> tuple[Taken, list[tuple[int, Refused]]]:
        """Hands on what has a smaller key than the bound, and, each with its key, what was refused up to the next record."""
        count = len(self._keys) if bound_ms == ALWAYS else int(np.searchsorted(self._keys, bound_ms, "left"))
        times, keys, numbers = self._times[:count], self._keys[:count], self._numbers[:count]
        future, self._is_future = self._is_future[:count], self._is_future[count:]
        self._times, self._keys = self._times[count:], self._keys[count:]
        self._numbers, self._ends = self._numbers[count:], self._ends[count:]
        events, self._events = _cut(self._events, count)
        lines, self._lines = _cut(self._lines, count)
        if self._lines:
            next_line, next_start = int(self._numbers[0]), int(self._ends[0]) - len(self._lines[0]) - 1
        else:
            next_line, next_start = self._read.line, self._read.start
        refused = self._refuse_malformed(next_line, numbers, keys)
        key_ms = int(keys[-1]) if count else self.place.key_ms
        if future.any():
            for index in np.flatnonzero(future).tolist():
                met_ms = int(keys[index]) - out_of_orderness_ms
                record = self._refuse_future(events[index], lines[index], int(numbers[index]), met_ms)
                refused.append((int(keys[index]), record))
            refused.sort(key=lambda item: (item[0], int(item[1].at.rpartition(":")[2])))
            kept = ~future
            times, keys, numbers = times[kept], keys[kept], numbers[kept]
            events, lines = list(compress(events, kept)), list(compress(lines, kept))
        self.place = Place(next_line, next_start, key_ms)
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


def _is_ahead(times: Int64, skew_ms: int) -> Bool:
    """(n - 16,) whether each is more than `skew_ms` ahead of each of the 16 that follow it."""
    checked = len(times) - FUTURE_LOOKAHEAD
    is_ahead: Bool = times[:checked] > times[1 : checked + 1] + skew_ms
    if is_ahead.any():  # of the next one; nearly none is, and only those are held against the others
        ahead = np.flatnonzero(is_ahead)
        following = times[ahead[:, None] + np.arange(1, FUTURE_LOOKAHEAD + 1)]  # (ahead, 16)
        is_ahead[ahead] = times[ahead] > following.max(axis=1) + skew_ms
    return is_ahead


def _cut(items: list[Item], count: int) -> tuple[list[Item], list[Item]]:
    """The first `count` items and the rest. The list becomes the longer of the two, so that few are copied."""
    if 2 * count > len(items):
        rest = items[count:]
        del items[count:]
        return items, rest
    first = items[:count]
    del items[:count]
    return first, items
