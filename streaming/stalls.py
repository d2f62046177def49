"""Whether one stream has stopped following another, by counts alone. Must not know event times, clocks or idleness."""

from __future__ import annotations

import msgspec
import numpy as np

from streaming.log_file import Bool, Int64

EXPECTED = 20
"""So many followers must be missing: by chance, that happens once in exp(20), half a billion times."""

MEMORY = 1_000
"""Followers that the running rate remembers, up to twice as many: its error is then about 3 %."""


class FollowingSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state of a `Following` as a value."""

    led: int
    followed: int
    since: int


class Following:
    """How often records of one stream are followed by records of another: impressions by clicks, clicks by conversions.

    The follower has stalled when the leaders since its last record, times the running rate, exceed 20. Leaders since then count in
    the rate, so nothing is called stalled on the strength of 20 followers or fewer. A leader that is older than the follower's newest counts in
    the rate alone: where a backlog is read with the followers ahead, they have been shown already, and are not missing. However records are
    portioned, the counts are the same.

    Example:
        >>> clicks = Following()
        >>> clicks.lead(np.ones(1_000, bool)), clicks.follow(100)
        (None, None)
        >>> clicks.turns(np.ones(300, bool)), clicks.is_stalled  # the 251st is one too many
        (array([250]), False)
        >>> clicks.lead(np.ones(251, bool))
        >>> clicks.is_stalled
        True
    """

    def __init__(self) -> None:
        self._led = self._followed = self._since = 0

    def lead(self, is_since: Bool) -> None:
        """Counts records of the leading stream.

        Args:
            is_since: (n,) whether each is as new as the newest of the following stream.
        """
        self._led += len(is_since)
        self._since += int(is_since.sum())

    def follow(self, count: int) -> None:
        """Counts records of the following stream."""
        if not count:
            return
        self._since = 0
        self._followed += count
        if self._followed >= 2 * MEMORY:  # one by one: each time 2 * MEMORY is reached, both are halved
            halvings = self._followed // MEMORY - 1
            self._followed -= halvings * MEMORY
            self._led >>= halvings

    @property
    def is_stalled(self) -> bool:
        """Whether more followers are missing than chance explains."""
        return self._since > EXPECTED and self._since * self._followed > EXPECTED * self._led

    def turns(self, is_since: Bool) -> Int64:
        """The numbers of those leaders, of these to come, with which it becomes stalled, or is so no longer."""
        if self._followed <= EXPECTED:  # so few have followed that no number of leaders makes it stalled
            return np.empty(0, np.int64)
        since = self._since + np.cumsum(is_since)
        led = self._led + np.arange(1, len(is_since) + 1)
        is_stalled = (since > EXPECTED) & (since * self._followed > EXPECTED * led)
        return np.flatnonzero(np.diff(is_stalled, prepend=self.is_stalled))

    def snapshot(self) -> FollowingSnapshot:
        """The counts, as a value."""
        return FollowingSnapshot(self._led, self._followed, self._since)

    def restore(self, snapshot: FollowingSnapshot) -> None:
        """Takes up the counts of a snapshot."""
        self._led, self._followed, self._since = snapshot.led, snapshot.followed, snapshot.since
