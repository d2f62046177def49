"""Holds a replay back to a multiple of real time. Decides nothing about what is replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streaming.arrivals import Arrivals
from streaming.log_file import Place
from streaming.ports import Source

_LONGEST_SLEEP = 3_600.0
"""Seconds; no system sleeps for the centuries that a gap in a log may take at a small speed."""


class Paced:
    """A source whose records come no faster than they were logged, times `speed`.

    Args:
        source: what is slowed down; in small blocks, since a block is handed on whole.
        speed: seconds of event time a second; 60 replays an hour in a minute.
        clock, sleep: of processing time, in seconds.

    Raises:
        ValueError: `speed` is not above 0.
    """

    def __init__(
        self,
        source: Source,
        speed: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"--speed must be above 0 (got {speed}): seconds of event time a second, or max")
        self._source, self._speed = source, speed
        self._clock, self._sleep = clock, sleep

    def __iter__(self) -> Iterator[Arrivals]:
        first_ms: int | None = None
        started = self._clock()
        for arrivals in self._source:
            assert isinstance(arrivals, Arrivals)
            if len(arrivals.times):
                newest_ms = int(arrivals.times.max())
                first_ms = newest_ms if first_ms is None else first_ms
                until = started + (newest_ms - first_ms) / 1000 / self._speed
                while (ahead := until - self._clock()) > 0:
                    self._sleep(min(ahead, _LONGEST_SLEEP))
            yield arrivals

    @property
    def partitions(self) -> tuple[int, ...]:
        """Those of the source."""
        return self._source.partitions

    def places(self) -> Mapping[str, Place]:
        """How far each file was handed on."""
        return self._source.places()

    def snapshot(self) -> Any:
        """What the source must know."""
        return self._source.snapshot()
