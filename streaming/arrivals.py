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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from streaming.events import Event, RecordKind
from streaming.log_file import ALWAYS, NEVER, Int64, LogFile, Place, Refused, Taken


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
        p: the join partition they belong to.
        is_idle: live: all streams of p are idle; nobody waits for its watermark.
        now_ms: live: processing time, UTC epoch ms. held_ms: event time held back because a stream has stalled.
        is_away: live: whether the brokers do not answer.
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
    p: int = 0
    is_idle: bool = False
    now_ms: int | None = None
    held_ms: int = 0
    is_away: bool = False

    @property
    def records(self) -> int:
        """How many there are, refused ones among them."""
        return len(self.times) + len(self.refused)

    @property
    def first_watermark_ms(self) -> int | None:
        """The watermark that the first record met; None without one."""
        return int(self.watermarks[0]) if len(self.times) else None

    def at(self, index: int) -> str:
        """Where a record was read, as `file:line` or `topic[partition]@offset`."""
        return place_of(self.names[self.files[index]], int(self.numbers[index]))


def place_of(name: str, number: int) -> str:
    """Where a record was read, in words.

    Example:
        >>> place_of("clicks.jsonl", 17), place_of("ads.clicks[3]", 17)
        ('clicks.jsonl:17', 'ads.clicks[3]@17')
    """
    return f"{name}@{number}" if name.endswith("]") else f"{name}:{number}"


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
        bound_ms = NEVER
        while bound_ms != ALWAYS:
            unread = [file for file in self._files if not file.is_exhausted]
            if unread:
                file = min(unread, key=lambda file: file.bound_ms)
                file.fill(self._future_skew_ms, self._leads_ms[file.kind])
            self._decide_tails()
            next_bound_ms = min((file.bound_ms for file in self._files), default=ALWAYS)
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
            if largest_ms == NEVER and not is_all_read:
                continue
            lead_ms = self._leads_ms[file.kind] + self._future_skew_ms
            if largest_ms == NEVER or tail_ms <= largest_ms + lead_ms:
                file.decide_tail(is_future=False)
            elif is_all_read:
                file.decide_tail(is_future=True)

    def _take(self, bound_ms: int) -> Arrivals:
        taken: list[Taken] = []
        refused: list[tuple[int, Refused]] = []
        for file in self._files:
            some, bad = file.take(bound_ms, self._out_of_orderness_ms)
            taken.append(some)
            refused += bad
        keys = np.concatenate([some.keys for some in taken]) if taken else np.empty(0, np.int64)
        order = np.argsort(keys, kind="stable")  # files stand in tie order, so that equal keys stay in it
        events, lines = _merged(taken, order)
        counts = [len(some.events) for some in taken]
        newest_ms = max((file.place.key_ms for file in self._files), default=NEVER)
        reached_ms = newest_ms if bound_ms == ALWAYS else bound_ms
        return Arrivals(
            times=_column([some.times for some in taken])[order],
            watermarks=keys[order] - self._out_of_orderness_ms,
            kinds=np.repeat(np.array([file.kind for file in self._files], np.int64), counts)[order],
            events=events,
            lines=lines,
            names=self._names,
            files=np.repeat(np.arange(len(counts)), counts)[order],
            numbers=_column([some.numbers for some in taken])[order],
            refused=[record for _, record in sorted(refused, key=itemgetter(0))],  # stable: by key, file, line
            watermark_ms=None if reached_ms == NEVER else reached_ms - self._out_of_orderness_ms,
            is_last=bound_ms == ALWAYS,
        )


def _column(parts: list[Int64]) -> Int64:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _merged(taken: list[Taken], order: Int64) -> tuple[list[Event], list[bytes]]:
    """The records of sorted files in the order that argsort gave."""
    filled = [some for some in taken if some.events]
    if len(filled) == 1:
        return filled[0].events, filled[0].lines
    pick = picker(order)
    events = pick(list(chain.from_iterable(some.events for some in filled)))
    lines = pick(list(chain.from_iterable(some.lines for some in filled)))
    return events, lines


def picker(index: Int64) -> Callable[[list[Any]], list[Any]]:
    """Picks the items at these positions out of a list: .03 us each, half of what a comprehension takes."""
    if len(index) < 2:  # itemgetter gives no tuple then
        positions = index.tolist()
        return lambda items: [items[position] for position in positions]
    pick = itemgetter(*index.tolist())
    return lambda items: list(pick(items))
