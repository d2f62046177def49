"""Stalls: called by counts alone, the same however records are portioned, and never on the strength of a few."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streaming.stalls import EXPECTED, MEMORY, Following, FollowingSnapshot

STEPS = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(0, 40), st.integers(900, 2_500), st.integers(9_000, 12_000))),
    max_size=20,
)


class OneByOne:
    """The second writing: a record at a time, fractions in floating point."""

    def __init__(self) -> None:
        self.led = self.followed = self.since = 0

    def take(self, is_leader: bool) -> None:
        if is_leader:
            self.led, self.since = self.led + 1, self.since + 1
            return
        self.followed, self.since = self.followed + 1, 0
        if self.followed == 2 * MEMORY:
            self.followed, self.led = MEMORY, self.led // 2

    @property
    def is_stalled(self) -> bool:
        rate = min(self.followed / self.led, 1) if self.led else 0
        return self.since * rate > EXPECTED


def fed(following: Following, steps: list[tuple[bool, int]]) -> Following:
    for is_leader, count in steps:
        (following.lead if is_leader else following.follow)(count)
    return following


@given(STEPS)
def test_blocks_count_as_one_by_one(steps: list[tuple[bool, int]]) -> None:
    following, slow = Following(), OneByOne()
    for is_leader, count in steps:
        until = following.until_stall()
        for number in range(count):
            slow.take(is_leader)
            if is_leader:
                assert slow.is_stalled == (until is not None and number + 1 >= until)
        fed(following, [(is_leader, count)])
        assert following.snapshot() == FollowingSnapshot(slow.led, slow.followed, slow.since)
        assert following.is_stalled == slow.is_stalled


def test_few_followers_are_no_ground_to_call_a_stall() -> None:
    assert fed(Following(), [(True, 20), (False, 20), (True, 10**9)]).until_stall() is None
    assert fed(Following(), [(True, 21), (False, 21), (True, 10**9)]).is_stalled


def test_more_followers_than_leaders_are_a_rate_of_one() -> None:
    following = fed(Following(), [(False, 500), (True, 20)])
    assert not following.is_stalled
    assert fed(following, [(True, 1)]).is_stalled


def test_a_follower_ends_the_stall() -> None:
    following = fed(Following(), [(True, 100), (False, 50), (True, 200)])
    assert following.is_stalled
    assert not fed(following, [(False, 1)]).is_stalled


@given(STEPS, STEPS)
def test_a_snapshot_goes_on_as_the_original(before: list[tuple[bool, int]], after: list[tuple[bool, int]]) -> None:
    following, again = fed(Following(), before), Following()
    packed = msgspec.msgpack.encode(following.snapshot())
    again.restore(msgspec.msgpack.decode(packed, type=FollowingSnapshot))
    assert fed(again, after).snapshot() == fed(following, after).snapshot()
