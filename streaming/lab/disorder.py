"""What befalls records on their way into a file: delay, redelivery, damage. Must not know what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from streaming.lab.delays import Ints
from streaming.lab.dials import DAY_MS, HOUR_MS, MINUTE_MS, World
from streaming.lab.facts import Records

_LATE_MS = (MINUTE_MS, 6 * HOUR_MS)  # how far beyond the bound, log-uniform: a phone in a tunnel, a broken shipper
_REDELIVERED_MS = (1_000, 10 * MINUTE_MS)  # how long after the first delivery: a consumer that restarts from its commit
_FUTURE_MS = (DAY_MS, 30 * DAY_MS)  # beyond the end of everything, so that it is wrong wherever it stands
_BETWEEN_FUTURES = 64  # lines: a stamp is recognised as wrong by the records behind it, so it must stand alone


class Road:
    """From when a thing happens to when its record arrives.

    Args:
        world: its dials.
        rng: where the draws come from.
    """

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng
        self.counts = dict.fromkeys(("disordered", "late", "late_beyond_closing", "redelivered"), 0)

    def arrivals(self, records: Records, lines: list[bytes]) -> tuple[Ints, list[bytes]]:
        """When each line arrives, and the lines, with redelivered ones behind; in no order."""
        rng, world, n = self._rng, self._world, len(records)
        bound_ms = world.out_of_orderness_ms
        arrival_ms = records.event_time_ms.copy()
        fate = rng.random(n)
        late = fate < world.late_share
        disordered = ~late & (fate < world.late_share + world.disorder_share)
        # Within the bound: all that arrived before are stamped at most bound_ms later, so this one is on time.
        arrival_ms[disordered] += rng.integers(1, max(bound_ms, 1), int(disordered.sum()), endpoint=True)
        beyond = late & (rng.random(n) < world.late_beyond_closing_share)
        lateness_ms = _log_uniform(rng, _LATE_MS, n)
        # One that is late, but not beyond closing, arrives when its impression is open, if there is time for that.
        before = np.maximum(records.closes_ms, records.event_time_ms + bound_ms + 1)
        arrival_ms = np.where(late, np.minimum(arrival_ms + bound_ms + lateness_ms, before), arrival_ms)
        after = np.maximum(records.closes_ms, records.event_time_ms) + bound_ms + lateness_ms
        arrival_ms = np.where(beyond, after, arrival_ms)
        again = np.flatnonzero(rng.random(n) < world.redelivered_share)
        again_ms = arrival_ms[again] + rng.integers(*_REDELIVERED_MS, len(again))
        for name, which in (("disordered", disordered), ("late", late), ("late_beyond_closing", beyond)):
            self.counts[name] += int(which.sum())
        self.counts["redelivered"] += len(again)
        return np.concatenate((arrival_ms, again_ms)), lines + [lines[row] for row in again.tolist()]


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int], n: int) -> Ints:
    low, high = np.log(bounds)
    return np.asarray(np.exp(low + (high - low) * rng.random(n)).astype(np.int64))


def _rename(line: bytes) -> bytes:
    return line.replace(b'"impression_id"', b'"imp_id"', 1)


def _in_seconds(line: bytes) -> bytes:
    head, time, rest = line.split(b",", 2)
    return b",".join((head, time[:-3], rest))


def _in_words(line: bytes) -> bytes:
    head, _, rest = line.split(b",", 2)
    return b",".join((head, b'"event_time_ms":"yesterday"', rest))


def _truncate(line: bytes) -> bytes:
    return line[: len(line) // 2] + b"\n"


def _break_utf8(line: bytes) -> bytes:
    return line[:20] + b"\xff\xfe" + line[20:]


def _garble(line: bytes) -> bytes:
    return b"<!doctype html> 502 " + line[18:34] + b"\n"


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (_rename, _in_seconds, _in_words, _truncate, _break_utf8, _garble)
"""What makes a line unreadable: a field is missing, has the wrong unit, or the wrong type; half a line; no UTF-8; no JSON."""


class ArrivalFile:
    """A file that records stand in in the order of their arrival, with some that no honest clock or encoder wrote between.

    Args:
        world: its dials.
        file: where lines go.
        rng: where the draws come from.
    """

    def __init__(self, world: World, file: BinaryIO, rng: np.random.Generator) -> None:
        self._world, self._file, self._rng = world, file, rng
        self._end_ms = world.start_ms + world.duration_ms + world.attribution_window_ms
        self._arrival_ms: Ints = np.empty(0, dtype=np.int64)
        self._lines: list[bytes] = []
        self._since_future = _BETWEEN_FUTURES
        self.lines = 0
        self.counts = dict.fromkeys(("malformed", "future"), 0)

    def add(self, arrival_ms: Ints, lines: list[bytes]) -> None:
        """Lines that arrive at these times, none of them before what has been written."""
        self._arrival_ms = np.concatenate((self._arrival_ms, arrival_ms))
        self._lines += lines

    def write_until(self, before_ms: int | None) -> None:
        """Writes what arrives before this time, or all there is; equal arrivals in the order of `add`."""
        order = np.argsort(self._arrival_ms, kind="stable")
        arrived = len(order)
        if before_ms is not None:
            arrived = int(np.searchsorted(self._arrival_ms, before_ms, sorter=order))
        lines = self._lines
        out = self._spoil([lines[row] for row in order[:arrived].tolist()])
        self._file.write(b"".join(out))
        self.lines += len(out)
        waiting = np.sort(order[arrived:])
        self._arrival_ms, self._lines = self._arrival_ms[waiting], [lines[row] for row in waiting.tolist()]

    def _spoil(self, lines: list[bytes]) -> list[bytes]:
        """The lines, with unreadable ones and ones from the future in addition."""
        malformed = np.flatnonzero(self._rng.random(len(lines)) < self._world.malformed_share).tolist()
        future = np.flatnonzero(self._rng.random(len(lines)) < self._world.future_share).tolist()
        extra = {row: DAMAGES[self._rng.integers(len(DAMAGES))](lines[row]) for row in malformed}
        last = -self._since_future
        for row in future:
            if row - last >= _BETWEEN_FUTURES and row not in extra:
                extra[row], last = self._stamp_in_the_future(lines[row]), row
                self.counts["future"] += 1
        self._since_future = len(lines) - last
        self.counts["malformed"] += len(malformed)
        for row in sorted(extra, reverse=True):
            lines.insert(row, extra[row])
        return lines

    def _stamp_in_the_future(self, line: bytes) -> bytes:
        """A record like this one, of an impression of its own."""
        head, _, rest = line.split(b",", 2)
        stamp_ms = self._end_ms + int(self._rng.integers(*_FUTURE_MS))
        return b'%b%b","event_time_ms":%d,%b' % (head[:18], head[-2:17:-1], stamp_ms, rest)
