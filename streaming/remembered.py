"""Impressions that have left, remembered in little space so that what follows is called what it is. Must not know why they left."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128_intdigest

_DIGEST_BYTES = 16


class Left(NamedTuple):
    """What is known of an impression that has left."""

    impression_ms: int
    click_ms: int | None
    is_converted: bool


class LeftSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """`Remembered` as a value: digests and event times of the unclicked, (id, leave_ms, *Left) of the others."""

    unclicked: bytes  # 16 bytes each, most significant first
    unclicked_ms: list[int]
    others: list[tuple[str, int, int, int | None, bool]]


class Times:
    """A queue of ascending times, as offsets from the first: 4 bytes each, 8 while they span more than 49 days."""

    def __init__(self) -> None:
        self._base_ms = 0
        self._offsets = array("I")
        self._head = 0  # offsets that were dropped

    def __getitem__(self, place: int) -> int:
        return self._base_ms + self._offsets[self._head + place]

    def __len__(self) -> int:
        return len(self._offsets) - self._head

    def extend(self, times_ms: Sequence[int]) -> None:
        """Adds times; none is below one that is there."""
        if not times_ms:
            return
        if self._head == len(self._offsets):
            self._base_ms, self._offsets, self._head = times_ms[0], array("I"), 0
        base_ms = self._base_ms
        if self._offsets.typecode == "I" and times_ms[-1] - base_ms >= 2**32:
            self._offsets = array("q", self._offsets)
        self._offsets.extend([at_ms - base_ms for at_ms in times_ms])

    def drop_below(self, bound_ms: int) -> int:
        """Drops what is before the bound; says how many that were."""
        head = bisect_left(self._offsets, bound_ms - self._base_ms, lo=self._head)
        dropped, self._head = head - self._head, head
        if head > 4096 and head * 2 > len(self._offsets):
            rest = self.to_list()
            self._offsets = array("I")
            self._head = 0
            self.extend(rest)
        return dropped

    def take_below(self, bound_ms: int) -> list[int]:
        """Drops what is before the bound; gives it."""
        head = bisect_left(self._offsets, bound_ms - self._base_ms, lo=self._head)
        base_ms = self._base_ms
        taken = [base_ms + offset for offset in self._offsets[self._head : head]]
        self.drop_below(bound_ms)
        return taken

    def to_list(self) -> list[int]:
        """The times that are left, in order."""
        base_ms = self._base_ms
        return [base_ms + offset for offset in self._offsets[self._head :]]


class Remembered:
    """Identities of impressions for a while after they left.

    Unclicked ones are nearly all there is, so they are kept as a set of digests of 128 bits and two queues in leaving order:
    88 to 117 B however long ids are, by how full the set is (tests/bench/open_impression.py). That any two of a billion ids
    share a digest has a chance below 1 in 10^20.

    Args:
        click_window_ms: an unclicked impression leaves this long after its event time.
        hold_ms: how long after leaving it is remembered; it is forgotten once the watermark is beyond that.

    Example:
        >>> remembered = Remembered(click_window_ms=10, hold_ms=5)
        >>> remembered.add_unclicked(["a"], [100])    # leaves at 110, remembered up to and including 115
        >>> remembered.get("a", now_ms=115), remembered.get("a", now_ms=116)
        (Left(impression_ms=100, click_ms=None, is_converted=False), None)
    """

    def __init__(self, *, click_window_ms: int, hold_ms: int) -> None:
        self._unclicked_for_ms = click_window_ms + hold_ms
        self._hold_ms = hold_ms
        self._ids: set[int] = set()
        self._order: list[int] = []
        self._times = Times()
        self._others: dict[str, Left] = {}
        self._others_order: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        return len(self._ids) + len(self._others)

    def add_unclicked(self, impression_ids: Sequence[str], impressions_ms: Sequence[int]) -> None:
        """Remembers impressions that left unclicked; they and the calls come in the order of leaving."""
        digests = list(map(xxh3_128_intdigest, map(str.encode, impression_ids)))
        self._ids.update(digests)
        self._order.extend(digests)
        self._times.extend(impressions_ms)

    def add(self, impression_id: str, leave_ms: int, left: Left) -> None:
        """Remembers any other impression that left; to be called in the order of leaving among these."""
        self._others[impression_id] = left
        self._others_order.append((leave_ms, impression_id))

    def holds(self, impression_id: str, *, now_ms: int) -> bool:
        """Whether it is still remembered at a time that never falls from call to call."""
        digest = xxh3_128_intdigest(impression_id.encode())
        if digest in self._ids or impression_id in self._others:
            self.forget(now_ms)
            return digest in self._ids or impression_id in self._others
        return False

    def may_hold(self, impression_ids: Sequence[str]) -> set[str]:
        """Those of these that were remembered when time was last asked for; only of them `holds` can say yes, now or later."""
        digests = list(map(xxh3_128_intdigest, map(str.encode, impression_ids)))
        found = set(self._others.keys() & impression_ids) if self._others else set()
        if not self._ids.isdisjoint(digests):
            found |= {name for name, digest in zip(impression_ids, digests, strict=True) if digest in self._ids}
        return found

    def get(self, impression_id: str, *, now_ms: int) -> Left | None:
        """What is remembered of it; None if nothing (any more). Unlike `holds` it may have to search."""
        if not self.holds(impression_id, now_ms=now_ms):
            return None
        if impression_id in self._others:
            return self._others[impression_id]
        digest = xxh3_128_intdigest(impression_id.encode())
        return Left(self._times[self._order.index(digest)], None, False)

    def forget(self, now_ms: int) -> None:
        """Drops what is no longer to be remembered at this time."""
        dropped = self._times.drop_below(now_ms - self._unclicked_for_ms)
        self._ids.difference_update(self._order[:dropped])
        del self._order[:dropped]
        while self._others_order and self._others_order[0][0] + self._hold_ms < now_ms:
            del self._others[self._others_order.popleft()[1]]

    def snapshot(self) -> LeftSnapshot:
        """Everything remembered, as a value."""
        return LeftSnapshot(
            unclicked=b"".join(digest.to_bytes(_DIGEST_BYTES) for digest in self._order),
            unclicked_ms=self._times.to_list(),
            others=[
                (name, leave_ms, left.impression_ms, left.click_ms, left.is_converted)
                for leave_ms, name in self._others_order
                for left in (self._others[name],)
            ],
        )

    def restore(self, snapshot: LeftSnapshot) -> None:
        """Remembers what the snapshot holds, in an empty memory."""
        self._order.extend(
            int.from_bytes(snapshot.unclicked[at : at + _DIGEST_BYTES])
            for at in range(0, len(snapshot.unclicked), _DIGEST_BYTES)
        )
        self._ids.update(self._order)
        self._times.extend(snapshot.unclicked_ms)
        for name, leave_ms, impression_ms, click_ms, is_converted in snapshot.others:
            self.add(name, leave_ms, Left(impression_ms, click_ms, is_converted))
