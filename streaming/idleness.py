"""When a stream is idle: it has been read to its end, twice, a while apart. Must not know brokers, event times or the time of day."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


class Idleness:
    """Which streams are idle, told when it changes.

    A stream is idle if its end was asked for, was where reading stood, and was so again `timeout_ms` later, and nobody held the
    reading back meanwhile. A dead broker or an unread backlog is no idleness. The first time each is told to be not idle: what a
    run knew before it was stopped is no longer so.

    Args:
        names: of the streams.
        timeout_ms: between the two looks, at least.

    Example:
        >>> idleness = Idleness(["clicks[0]"], timeout_ms=30_000)
        >>> idleness.on_ends({"clicks[0]": 7}, positions={"clicks[0]": 7}, paused=(), now_ms=0)
        {'clicks[0]': False}
        >>> idleness.on_ends({"clicks[0]": 7}, positions={"clicks[0]": 7}, paused=(), now_ms=30_000)
        {'clicks[0]': True}
        >>> idleness.on_records(["clicks[0]"])
        {'clicks[0]': False}
    """

    def __init__(self, names: Iterable[str], *, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._is_idle: dict[str, bool | None] = dict.fromkeys(names)
        self._at_end_since_ms: dict[str, int] = {}

    def on_records(self, shown: Collection[str]) -> dict[str, bool]:
        """Takes in which streams have just shown records."""
        for name in shown:
            self._at_end_since_ms.pop(name, None)
        return self._told(dict.fromkeys(shown, False))

    def on_ends(
        self, ends: Mapping[str, int], *, positions: Mapping[str, int], paused: Collection[str], now_ms: int
    ) -> dict[str, bool]:
        """Takes in where the streams end and where reading stands.

        Args:
            ends: by stream; left out if its broker did not say: then nobody knows, and it is not idle.
            positions: offset of the next record to read.
            paused: streams that we do not read now.
            now_ms: processing time, which must not run backwards.
        """
        found = {}
        for name in self._is_idle:
            is_at_end = name not in paused and name in ends and positions[name] == ends[name]
            found[name] = is_at_end and now_ms - self._at_end_since_ms.setdefault(name, now_ms) >= self._timeout_ms
            if not is_at_end:
                self._at_end_since_ms.pop(name, None)
        return self._told(found)

    def _told(self, found: Mapping[str, bool]) -> dict[str, bool]:
        changed = {name: is_idle for name, is_idle in found.items() if self._is_idle[name] is not is_idle}
        self._is_idle |= changed
        return changed
