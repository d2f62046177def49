"""When a worker's membership counts as hung: never while it was dealt nothing to do or its brokers are away, surely after long enough."""

from __future__ import annotations

import pytest

from streaming.adapters.group_watch import GroupWatch

HUNG_S = 180.0  # four sessions of 45 s


def watch() -> GroupWatch:
    return GroupWatch(session_timeout_ms=45_000, snapshot_interval_ms=10_000, now_s=0.0)


def test_who_is_never_dealt_anything_hangs():
    own = watch()
    assert own.hung(now_s=HUNG_S) is None
    assert own.hung(now_s=HUNG_S + 1) == "it was dealt nothing for 181 s"


def test_who_was_dealt_no_partition_has_nothing_to_wait_for():
    own = watch()
    own.assigned(0, now_s=1.0)
    assert own.hung(now_s=10_000.0) is None
    assert own.commit_age_s(now_s=10_000.0) == 0


def test_who_gives_up_its_partitions_and_is_dealt_no_others_hangs():
    own = watch()
    own.assigned(3, now_s=1.0)
    own.committed(now_s=500.0)
    own.revoked(now_s=510.0)
    assert own.hung(now_s=510 + HUNG_S) is None
    assert own.hung(now_s=510 + HUNG_S + 1) is not None
    own.assigned(2, now_s=700.0)
    assert own.hung(now_s=710.0) is None


def test_who_commits_does_not_hang_and_who_can_no_longer_does():
    own = watch()
    own.assigned(3, now_s=1.0)
    for now_s in range(10, 2_000, 10):
        own.committed(now_s=float(now_s))
        assert own.hung(now_s=now_s + 9.0) is None
    assert own.commit_age_s(now_s=2_000.0) == 10
    assert own.hung(now_s=1_990 + HUNG_S) is None
    assert own.hung(now_s=1_990 + HUNG_S + 1) == "it could commit nothing for 181 s"


def test_who_was_dealt_nothing_looks_whether_anybody_reads():
    own = watch()
    assert not own.is_idle
    own.assigned(0, now_s=1.0)
    assert own.is_idle
    ends = {"clicks[0]": 9}
    for now_s in range(10, 1_000, 10):  # others do
        assert own.group_is_at({"clicks[0]": now_s // 120}, ends, now_s=float(now_s)) is None
    for now_s in range(1_000, 2_000, 10):  # there is nothing more to read
        assert own.group_is_at({"clicks[0]": 9}, ends, now_s=float(now_s)) is None
    ends = {"clicks[0]": 10}
    assert own.group_is_at({"clicks[0]": 9}, ends, now_s=1_990 + HUNG_S) is None
    told = own.group_is_at({"clicks[0]": 9}, ends, now_s=1_990 + HUNG_S + 1)
    assert told == "nobody in its group has committed anything for 181 s"
    own.brokers_were_away(now_s=3_000.0)
    assert own.group_is_at({"clicks[0]": 9}, ends, now_s=3_001.0) is None
    own.assigned(0, now_s=4_000.0)
    assert own.group_is_at({}, ends, now_s=4_000 + HUNG_S) is None
    assert own.group_is_at({}, ends, now_s=4_000 + HUNG_S + 1) is not None
    own.assigned(2, now_s=5_000.0)
    assert not own.is_idle


@pytest.mark.parametrize("is_dealt", [False, True])
def test_while_brokers_are_away_nothing_hangs_and_after_it_there_is_time_again(is_dealt):
    own = watch()
    if is_dealt:
        own.assigned(3, now_s=1.0)
    for now_s in (200.0, 400.0, 600.0):
        assert own.hung(now_s=now_s) is not None
        own.brokers_were_away(now_s=now_s)
        assert own.hung(now_s=now_s + HUNG_S) is None
    assert own.hung(now_s=600 + HUNG_S + 1) is not None


def test_a_short_session_does_not_make_it_hasty():
    own = GroupWatch(session_timeout_ms=6_000, snapshot_interval_ms=100, now_s=0.0)
    assert own.hung(now_s=120.0) is None
    assert own.hung(now_s=121.0) is not None
    assert own.still_s == 30
