"""Whether one stream has stopped following another, by counts alone. Must not know event times, clocks or idleness."""

from __future__ import annotations

import msgspec

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
    the rate, so nothing is called stalled on the strength of 20 followers or fewer. However records are
    portioned, the counts are the same.

    Example:
        >>> clicks = Following()
        >>> clicks.lead(1_000), clicks.follow(100)
        (None, None)
        >>> clicks.until_stall(), clicks.is_stalled
        (251, False)
        >>> clicks.lead(251)
        >>> clicks.is_stalled
        True
    """

    def __init__(self) -> None:
        self._led = self._followed = self._since = 0

    def lead(self, count: int) -> None:
        """Counts records of the leading stream."""
        self._led += count
        self._since += count

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

    def until_stall(self) -> int | None:
        """How many more leaders make it stalled, 0 if it is; None if so few have followed that none would."""
        if self.is_stalled:
            return 0
        if self._followed <= EXPECTED:
            return None
        missing = EXPECTED * self._led - self._since * self._followed
        return max(EXPECTED + 1 - self._since, missing // (self._followed - EXPECTED) + 1)

    def snapshot(self) -> FollowingSnapshot:
        """The counts, as a value."""
        return FollowingSnapshot(self._led, self._followed, self._since)

    def restore(self, snapshot: FollowingSnapshot) -> None:
        """Takes up the counts of a snapshot."""
        self._led, self._followed, self._since = snapshot.led, snapshot.followed, snapshot.since
