"""Publishing to several targets: one that is away holds nobody up, is told of once, and is made good by a snapshot."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest
from services import Server
from weights_made import version

from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import current_name
from streaming.adapters.redis_weights import RedisSource, RedisTarget
from streaming.adapters.targets import Targets
from streaming.connection import Redis
from streaming.ports import GapError, HeldError, StaleVersionError, TargetError
from streaming.publication import Publishing

QUICK = Publishing(retry_ms=1, retry_most_ms=4, waiting_most=3, close_timeout_ms=5_000)


class FakeTarget:
    """A target that answers as a list says, the last answer again and again; None takes the version."""

    def __init__(self, *answers: Exception | None, epoch: int = 0) -> None:
        self.answers = list(answers) or [None]
        self.taken: list[str] = []
        self.epoch = epoch
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_closed = False

    def issue_epoch(self, *, at_least: int = 1) -> int:
        if not self.epoch >= at_least > 1:
            self.epoch = max(self.epoch + 1, at_least)
        return self.epoch

    def newest_epoch(self) -> int:
        return self.epoch

    def publish(self, published, *, past_hold=False):
        self.may_answer.wait(10)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        self.taken.append(published.manifest.name)
        return published.manifest.name

    def hold(self, why): ...

    def release(self): ...

    def held(self): ...

    def close(self):
        self.is_closed = True


@pytest.fixture
def made(tmp_path) -> Iterator:
    opened = []

    def make(told=None, settings=QUICK, **others):
        directory = DirectoryPublisher(tmp_path / "weights", versions_kept=20)
        opened.append(Targets(directory, others, settings, tell=(told if told is not None else []).append))
        return opened[-1]

    yield make
    for targets in opened:
        targets.close()


def numbers(target):
    return [int(name[-10:]) for name in target.taken]


def settled(targets, is_so):
    """Waits until it is so of the figures."""
    for _ in range(100_000):
        if is_so(targets.figures()):
            return
        threading.Event().wait(0.001)
    raise AssertionError(targets.figures())


def test_versions_go_to_the_directory_at_once_and_to_the_others_in_order(made, tmp_path):
    other = FakeTarget()
    other.may_answer.clear()
    targets = made(other=other)
    targets.publish(version(1, 1))
    targets.publish(version(1, 2, base=1))
    assert current_name(tmp_path / "weights") == "000001-0000000002"
    assert targets.figures()["other"].waiting == 2
    other.may_answer.set()
    targets.close()
    assert numbers(other) == [1, 2]
    assert other.is_closed
    assert targets.figures()["other"].version == "000001-0000000002"


def test_an_epoch_is_issued_that_all_have_issued(made):
    one, other = FakeTarget(epoch=8), FakeTarget(epoch=3)
    targets = made(one=one, other=other)
    assert targets.issue_epoch() == one.epoch == other.epoch == 9
    assert targets.issue_epoch() > 9


def test_a_target_that_is_away_is_tried_again_and_told_of_once(made):
    told, away = [], TargetError("nobody answers")
    other = FakeTarget(away, away, away, None)
    targets = made(told, other=other)
    targets.publish(version(1, 1))
    settled(targets, lambda figures: figures["other"].published == 1)
    assert told == [
        "nobody answers. Training goes on; publishing there is tried again, with growing pauses",
        "other is back, version 000001-0000000001 is there",
    ]
    assert targets.figures()["other"].retries == 3
    assert not targets.figures()["other"].is_away


def test_what_waits_too_long_is_dropped_and_a_snapshot_makes_it_good(made):
    other = FakeTarget(TargetError("away"))
    targets = made(other=other)
    targets.publish(version(1, 1))
    settled(targets, lambda figures: figures["other"].is_away)
    for number in range(2, 6):
        assert not targets.needs_snapshot
        targets.publish(version(1, number, base=number - 1))
        if targets.needs_snapshot:
            break
    assert targets.needs_snapshot
    assert targets.figures()["other"].waiting == 0
    other.answers = [None]
    targets.publish(version(1, 9))
    assert not targets.needs_snapshot
    settled(targets, lambda figures: figures["other"].published == 1)
    assert numbers(other) == [9]


@pytest.mark.parametrize("error", [GapError("gap"), HeldError("held")], ids=["a gap", "a hold"])
def test_after_a_gap_or_a_hold_the_deltas_after_it_are_dropped_up_to_the_next_snapshot(made, error):
    other = FakeTarget(None, error, None)
    other.may_answer.clear()
    targets = made(other=other)
    targets.publish(version(1, 1))
    targets.publish(version(1, 2, base=1))
    targets.publish(version(1, 3, base=2))
    other.may_answer.set()
    settled(targets, lambda figures: figures["other"].waiting == 0 and targets.needs_snapshot)
    assert numbers(other) == [1]
    targets.publish(version(1, 4))
    settled(targets, lambda figures: figures["other"].published == 2)
    assert numbers(other) == [1, 4]


def test_a_rollback_in_a_target_is_passed_over(made):
    other = FakeTarget(StaleVersionError("rolled back", current="000001-0000000001"), None)
    targets = made(other=other)
    targets.publish(version(1, 1))
    settled(targets, lambda _: targets.needs_snapshot)
    targets.publish(version(1, 2))
    settled(targets, lambda figures: figures["other"].published == 1)


def test_a_run_that_another_has_taken_over_from_is_ended_with_its_next_version(made):
    other = FakeTarget(StaleVersionError("a newer run", current="000002-0000000001"))
    targets = made(other=other)
    targets.publish(version(1, 1))
    settled(targets, lambda _: targets._behind["other"].ended is not None)
    with pytest.raises(StaleVersionError, match="a newer run"):
        targets.publish(version(1, 2))


def test_a_fault_of_ours_behind_the_directory_ends_the_run_and_is_not_lost(made):
    targets = made(other=FakeTarget(ZeroDivisionError("ours")))
    targets.publish(version(1, 1))
    settled(targets, lambda _: targets._behind["other"].ended is not None)
    with pytest.raises(ZeroDivisionError, match="ours"):
        targets.publish(version(1, 2))


def test_what_a_target_did_not_take_by_the_end_is_told(made):
    told = []
    targets = made(told, msgspec.structs.replace(QUICK, close_timeout_ms=50), other=FakeTarget(TargetError("away")))
    targets.publish(version(1, 1))
    targets.close()
    assert told[-1] == "other: 1 versions were not published there; the next run begins with a snapshot"


@pytest.mark.integration
def test_redis_killed_and_restarted_empty_is_healed_by_the_next_snapshot(made, redis: Server):
    redis.mortal()
    settings = Redis(url=f"redis://{redis.bootstrap}/0", model="killed", timeout_ms=500)
    targets = made(redis=RedisTarget(settings, None, versions_kept=5))
    source = RedisSource(settings, None)
    targets.publish(version(1, 1))
    targets.publish(version(1, 2, base=1))
    settled(targets, lambda figures: figures["redis"].published == 2)
    source._redis.flushall()  # written to its log, so that it comes back empty
    redis.kill()
    targets.publish(version(1, 3, base=2))
    settled(targets, lambda figures: figures["redis"].is_away)
    redis.start()
    settled(targets, lambda _: targets.needs_snapshot)  # the delta waited, and its base is gone
    targets.publish(version(1, 4, 4.0))
    settled(targets, lambda figures: figures["redis"].published == 3)
    assert source.current() == (1, 4)
    assert source.fetch(1, 4) == version(1, 4, 4.0)
    source.close()
