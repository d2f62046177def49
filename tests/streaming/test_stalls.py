"""Stalls: called by counts alone, the same however records are portioned, and never on the strength of a few."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.stalls import EXPECTED, MEMORY, Following, FollowingSnapshot

COUNTS = st.one_of(st.integers(0, 40), st.integers(900, 2_500), st.integers(9_000, 12_000))
STEPS = st.lists(st.tuples(st.booleans(), COUNTS, st.integers(0, 3)), max_size=20)
"""Whether they lead, how many there are, and every how many-th of them is older than the newest follower: 0 is none."""


def leaders(count: int, older_every: int = 0) -> npt.NDArray[np.bool_]:
    return np.arange(1, count + 1) % older_every != 0 if older_every else np.ones(count, np.bool_)


class OneByOne:
    """The second writing: a record at a time, fractions in floating point."""

    def __init__(self) -> None:
        self.led = self.followed = self.since = 0

    def take(self, is_leader: bool, is_since: bool = True) -> None:
        if is_leader:
            self.led, self.since = self.led + 1, self.since + is_since
            return
        self.followed, self.since = self.followed + 1, 0
        if self.followed == 2 * MEMORY:
            self.followed, self.led = MEMORY, self.led // 2

    @property
    def is_stalled(self) -> bool:
        rate = min(self.followed / self.led, 1) if self.led else 0
        return self.since * rate > EXPECTED


def fed(following: Following, steps: Sequence[tuple[bool, int] | tuple[bool, int, int]]) -> Following:
    for is_leader, count, *older in steps:
        if is_leader:
            following.lead(leaders(count, *older))
        else:
            following.follow(count)
    return following


@settings(deadline=None)
@given(STEPS)
def test_blocks_count_as_one_by_one(steps: list[tuple[bool, int, int]]) -> None:
    following, slow = Following(), OneByOne()
    for is_leader, count, older in steps:
        is_since = leaders(count, older)
        turns = following.turns(is_since).tolist()
        found, is_stalled = [], slow.is_stalled
        for number in range(count):
            slow.take(is_leader, bool(is_since[number]))
            if is_leader and slow.is_stalled != is_stalled:
                found.append(number)
                is_stalled = not is_stalled
        assert not is_leader or found == turns
        fed(following, [(is_leader, count, older)])
        assert following.snapshot() == FollowingSnapshot(slow.led, slow.followed, slow.since)
        assert following.is_stalled == slow.is_stalled


def test_few_followers_are_no_ground_to_call_a_stall() -> None:
    few = fed(Following(), [(True, 20), (False, 20), (True, 10**6)])
    assert not few.is_stalled
    assert len(few.turns(leaders(10**6))) == 0
    assert fed(Following(), [(True, 21), (False, 21), (True, 10**6)]).is_stalled


def test_leaders_older_than_the_newest_follower_count_in_the_rate_alone() -> None:
    following = fed(Following(), [(False, 100), (True, 1_000, 1)])  # a backlog, followers read first
    assert following.snapshot() == FollowingSnapshot(1_000, 100, 0)
    assert not following.is_stalled
    assert following.turns(leaders(300)).tolist() == [250]  # as if each had come in its turn


def test_more_followers_than_leaders_are_a_rate_of_one() -> None:
    following = fed(Following(), [(False, 500), (True, 20)])
    assert not following.is_stalled
    assert fed(following, [(True, 1)]).is_stalled


def test_a_follower_ends_the_stall() -> None:
    following = fed(Following(), [(True, 100), (False, 50), (True, 200)])
    assert following.is_stalled
    assert not fed(following, [(False, 1)]).is_stalled


@given(STEPS, STEPS)
def test_a_snapshot_goes_on_as_the_original(
    before: list[tuple[bool, int, int]], after: list[tuple[bool, int, int]]
) -> None:
    following, again = fed(Following(), before), Following()
    packed = msgspec.msgpack.encode(following.snapshot())
    again.restore(msgspec.msgpack.decode(packed, type=FollowingSnapshot))
    assert fed(again, after).snapshot() == fed(following, after).snapshot()
