"""Whether a worker's membership in its group has hung, by when it was dealt partitions and could commit. Must not know what a group client is."""

from __future__ import annotations

from collections.abc import Mapping

_STILL_INTERVALS, _LEAST_STILL_S = 6, 30.0
"""Snapshots, and time, in which nothing could be committed before a person is told."""

_HUNG_SESSIONS, _LEAST_HUNG_S = 4, 120.0
"""Sessions, and time, in which a client whose brokers answer should have come back by itself: it has not, and never will."""


class GroupWatch:
    """What has happened to a worker in its group, and since when nothing has.

    Args:
        session_timeout_ms, snapshot_interval_ms: as in [kafka].
        now_s: when the worker begins, on a clock that only goes forward.

    Example:
        >>> watch = GroupWatch(session_timeout_ms=45_000, snapshot_interval_ms=10_000, now_s=0.0)
        >>> watch.assigned(4, now_s=3.0)
        >>> watch.revoked(now_s=10.0)  # another has come; what is dealt next is never told
        >>> watch.hung(now_s=60.0), watch.hung(now_s=200.0)
        (None, 'it was dealt nothing for 190 s')
    """

    def __init__(self, *, session_timeout_ms: int, snapshot_interval_ms: int, now_s: float) -> None:
        self.still_s = max(_STILL_INTERVALS * snapshot_interval_ms / 1_000, _LEAST_STILL_S)
        self._hung_s = max(_HUNG_SESSIONS * session_timeout_ms / 1_000, _LEAST_HUNG_S)
        self._waits_s: float | None = now_s  # since when it waits to be dealt partitions; None: it has been
        self._committed_s = now_s
        self._partitions = 0
        self._group_at: Mapping[str, int | None] = {}
        self._group_s = now_s  # since when the group has committed that
        self._back_s = now_s  # when the brokers did not answer last: commits are not missed from before that

    def assigned(self, partitions: int, *, now_s: float) -> None:
        """It was dealt so many partitions, none perhaps."""
        self._partitions, self._waits_s, self._committed_s = partitions, None, now_s
        self._group_at, self._group_s = {}, now_s

    def revoked(self, *, now_s: float) -> None:
        """What it was dealt is no longer its own; it will be dealt anew."""
        self._partitions, self._waits_s = 0, now_s

    def committed(self, *, now_s: float) -> None:
        """All that it has done is committed."""
        self._committed_s = now_s

    def brokers_were_away(self, *, now_s: float) -> None:
        """The brokers do not answer: nothing hangs, and once they do, the client has its time again."""
        self._waits_s = None if self._waits_s is None else now_s
        self._back_s = now_s

    def commit_age_s(self, *, now_s: float) -> float:
        """How long it is that everything was committed; 0 where there is nothing to commit."""
        return now_s - self._committed_s if self._partitions else 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it was dealt no partitions: others hold them all, or nobody does."""
        return self._waits_s is None and not self._partitions

    def group_is_at(self, committed: Mapping[str, int | None], ends: Mapping[str, int], *, now_s: float) -> str | None:
        """Takes in what an idle member sees of its group: that nobody reads what there is; None: somebody does, or may.

        Args:
            committed: by the group, by stream. ends: of the streams.
        """
        is_all = all((committed.get(name) or 0) >= end for name, end in ends.items())
        if is_all or committed != self._group_at:
            self._group_at, self._group_s = committed, now_s
        still_s = now_s - max(self._group_s, self._back_s)
        return f"nobody in its group has committed anything for {still_s:.0f} s" if still_s > self._hung_s else None

    def hung(self, *, now_s: float) -> str | None:
        """What has not come for so long that it never will, if the brokers answer; None: nothing hangs."""
        if self._waits_s is not None:
            waits_s = now_s - self._waits_s
            return f"it was dealt nothing for {waits_s:.0f} s" if waits_s > self._hung_s else None
        still_s = min(self.commit_age_s(now_s=now_s), now_s - self._back_s)
        return f"it could commit nothing for {still_s:.0f} s" if still_s > self._hung_s else None
