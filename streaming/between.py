"""When a version is due between two cuts. Must not know what is published.

Version numbers are counted in event time, so that they are the same however the stream was read and whether or not a version was
published: one for each multiple of `delta_interval_ms` that the watermark has passed since the last cut, and one for the cut.

    cut          |                                         cut |
    event time   +----|-------|-------|-------|-------|--------+
    number       7    8       9      10      11      12       13
    published    7    8              10      11               13       9 and 12 came too soon after another, in processing time
"""

from __future__ import annotations

from collections.abc import Callable

from streaming.publication import Publishing


class Between:
    """Counts the versions between cuts, from the first cut on.

    Args:
        settings: how often.
        monotonic_ms: processing time; None if `least_interval_ms` is no matter.

    Example:
        >>> between = Between(Publishing(delta_interval_ms=10), None)
        >>> between.due(25), between.passed(30), between.due(38), between.due(41), between.due(65), between.passed(70)
        ((0, False), 0, (0, False), (1, True), (2, True), 1)
    """

    def __init__(self, settings: Publishing, monotonic_ms: Callable[[], int] | None) -> None:
        self._interval_ms = settings.delta_interval_ms
        self._least_ms = settings.least_interval_ms
        self._monotonic_ms = monotonic_ms
        self._last: int | None = None  # the multiple that was counted last; None before the first cut
        self._published_ms: int | None = None

    def due(self, watermark_ms: int | None) -> tuple[int, bool]:
        """How many numbers have passed since it was last asked, and whether a version may be published now."""
        if self._last is None:
            return 0, False
        versions = self._count(watermark_ms)
        if not versions:
            return 0, False
        if self._monotonic_ms is not None:
            now_ms = self._monotonic_ms()
            if self._published_ms is not None and now_ms - self._published_ms < self._least_ms:
                return versions, False
            self._published_ms = now_ms
        return versions, True

    def passed(self, watermark_ms: int | None) -> int:
        """How many numbers have passed before a cut; they are counted, and are not published."""
        return self._count(watermark_ms)

    def _count(self, watermark_ms: int | None) -> int:
        if self._interval_ms is None or watermark_ms is None:
            return 0
        before, self._last = self._last, watermark_ms // self._interval_ms
        return 0 if before is None else self._last - before
