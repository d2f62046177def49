"""Impressions that have left, remembered in little space so that what follows is called what it is. Must not know why they left."""

from __future__ import annotations

from array import array
from collections import deque
from typing import NamedTuple

import msgspec


class Left(NamedTuple):
    """What is known of an impression that has left."""

    impression_ms: int
    click_ms: int | None
    is_converted: bool


class LeftSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """`Remembered` as a value: (id, impression_ms) of the unclicked, (id, leave_ms, *Left) of the others."""

    unclicked: list[tuple[str, int]]
    others: list[tuple[str, int, int, int | None, bool]]


class Remembered:
    """Identities of impressions for a while after they left.

    Unclicked ones are nearly all there is, so they are kept as a set of encoded ids and two queues in leaving order:
    127 to 133 B for an id of 16 characters, by how full the set is (tests/bench/open_impression.py).

    Args:
        click_window_ms: an unclicked impression leaves this long after its event time.
        hold_ms: how long after leaving it is remembered; it is forgotten once the watermark is beyond that.

    Example:
        >>> remembered = Remembered(click_window_ms=10, hold_ms=5)
        >>> remembered.add_unclicked("a", 100)      # leaves at 110, remembered up to and including 115
        >>> remembered.get("a", now_ms=115), remembered.get("a", now_ms=116)
        (Left(impression_ms=100, click_ms=None, is_converted=False), None)
    """

    def __init__(self, *, click_window_ms: int, hold_ms: int) -> None:
        self._unclicked_for_ms = click_window_ms + hold_ms
        self._hold_ms = hold_ms
        self._ids: set[bytes] = set()
        self._order: deque[bytes] = deque()
        self._times = array("q")
        self._head = 0  # entries of _times that are forgotten
        self._others: dict[str, Left] = {}
        self._others_order: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        return len(self._ids) + len(self._others)

    def add_unclicked(self, impression_id: str, impression_ms: int) -> None:
        """Remembers an impression that left unclicked; to be called in the order of leaving."""
        key = impression_id.encode()
        self._ids.add(key)
        self._order.append(key)
        self._times.append(impression_ms)

    def add(self, impression_id: str, leave_ms: int, left: Left) -> None:
        """Remembers any other impression that left; to be called in the order of leaving among these."""
        self._others[impression_id] = left
        self._others_order.append((leave_ms, impression_id))

    def holds(self, impression_id: str, *, now_ms: int) -> bool:
        """Whether it is still remembered at a time that never falls from call to call."""
        if impression_id.encode() in self._ids or impression_id in self._others:
            self.forget(now_ms)
            return impression_id.encode() in self._ids or impression_id in self._others
        return False

    def get(self, impression_id: str, *, now_ms: int) -> Left | None:
        """What is remembered of it; None if nothing (any more). Unlike `holds` it may have to search."""
        if not self.holds(impression_id, now_ms=now_ms):
            return None
        if impression_id in self._others:
            return self._others[impression_id]
        return Left(self._times[self._head + self._order.index(impression_id.encode())], None, False)

    def forget(self, now_ms: int) -> None:
        """Drops what is no longer to be remembered at this time."""
        times, head = self._times, self._head
        bound = now_ms - self._unclicked_for_ms
        while head < len(times) and times[head] < bound:
            self._ids.discard(self._order.popleft())
            head += 1
        if head > 4096 and head * 2 > len(times):
            del times[:head]
            head = 0
        self._head = head
        while self._others_order and self._others_order[0][0] + self._hold_ms < now_ms:
            del self._others[self._others_order.popleft()[1]]

    def snapshot(self) -> LeftSnapshot:
        """Everything remembered, as a value."""
        return LeftSnapshot(
            unclicked=[(key.decode(), ms) for key, ms in zip(self._order, self._times[self._head :], strict=True)],
            others=[
                (name, leave_ms, left.impression_ms, left.click_ms, left.is_converted)
                for leave_ms, name in self._others_order
                for left in (self._others[name],)
            ],
        )

    def restore(self, snapshot: LeftSnapshot) -> None:
        """Remembers what the snapshot holds, in an empty memory."""
        for name, impression_ms in snapshot.unclicked:
            self.add_unclicked(name, impression_ms)
        for name, leave_ms, impression_ms, click_ms, is_converted in snapshot.others:
            self.add(name, leave_ms, Left(impression_ms, click_ms, is_converted))
