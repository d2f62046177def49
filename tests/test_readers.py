"""Readers of a real Redis and a real Kafka that are killed, paused and started late; a broker that goes while versions are published to it."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from brokers import NOBODY
from following import Follower, digest_of
from services import Server
from worlds import HOUR_MS, small_log, small_settings

from streaming.adapters.directory_source import DirectorySource, current_name, read_manifest
from streaming.adapters.kafka_topics import create_topics
from streaming.connection import Kafka, Redis
from streaming.publication import TargetName
from streaming.replay import Replay
from streaming.settings import Settings
from streaming.target_choice import source_of
from streaming.whole import read_whole

pytestmark = pytest.mark.integration

BEHIND: tuple[TargetName, ...] = ("redis", "kafka")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("readers") / "log", impressions=2_000, days=3.0)


def settings_of(log: Path, **sections: object) -> Settings:
    publishing = {"targets": ("directory", *sections), "snapshot_every": 8, "retry_ms": 50, "retry_most_ms": 200}
    settings = small_settings(log, publishing=publishing, cuts={"cut_interval_ms": 2 * HOUR_MS, "versions_kept": 4})
    return msgspec.structs.replace(settings, **sections)


def kafka_of(server: Server) -> Kafka:
    model = uuid.uuid4().hex
    return Kafka(
        bootstrap_servers=(server.bootstrap,), model=model, weights_chunk_bytes=2_000, connect_timeout_ms=2_000
    )


def current(run: Path) -> str:
    return current_name(run / "weights") or ""


def until_delta(running: Iterator[int], run: Path, more: int) -> str:
    """Goes on for some versions, and until one is a delta; its name."""
    first = current(run)
    for _ in running:
        time.sleep(0.05)  # for the threads behind to have their turn
        name = current(run)
        if int(name[7:] or 0) >= int(first[7:] or 0) + more and read_manifest(run / "weights", name).kind == "delta":
            return name
    raise AssertionError("the log is too short")


def digest_in_directory(run: Path, name: str) -> str:
    return digest_of(read_whole(DirectorySource(run / "weights"), int(name[:6]), int(name[7:])).tensors)


def test_readers_that_were_killed_paused_or_started_late_end_with_what_the_trainer_has(
    log: Path, kafka: Server, redis: Server, tmp_path: Path
) -> None:
    at_redis = Redis(url=f"redis://{redis.bootstrap}/0", model=uuid.uuid4().hex, chunk_bytes=2_000)
    run, settings = tmp_path / "run", settings_of(log, redis=at_redis, kafka=kafka_of(kafka))
    create_topics(settings, NOBODY)
    replay = Replay(log, run, settings, tell=pytest.fail)
    running = replay.run()
    until_delta(running, run, 1)
    with ExitStack() as stack:
        killed, paused = (
            [stack.enter_context(Follower(target, run)) for target in BEHIND] for _ in range(2)
        )  # one of each target
        for each in (*killed, *paused):
            each.until(current(run))
        until_delta(running, run, 2)
        for each in killed:
            os.kill(each.process.pid or 0, signal.SIGKILL)
            each.process.join()
            assert each.process.exitcode == -signal.SIGKILL
        for each in paused:
            os.kill(each.process.pid or 0, signal.SIGSTOP)
        name = until_delta(running, run, 10)  # past a snapshot, and past what the targets keep
        late = [stack.enter_context(Follower(target, run)) for target in (*BEHIND, *BEHIND)]
        for each in paused:
            os.kill(each.process.pid or 0, signal.SIGCONT)
        expected = digest_in_directory(run, name)
        assert expected == digest_of(replay.pipeline._learner.published())
        assert [each.until(name) for each in (*paused, *late)] == [expected] * 6
        for _ in running:
            pass
        last, expected = current(run), digest_of(replay.pipeline._learner.published())
        assert last > name
        assert [each.until(last) for each in (*paused, *late)] == [expected] * 6
        for each in (*paused, *late):
            names = [seen for seen, _ in each.seen]
            assert names == sorted(set(names)), "it went back"


def test_a_broker_that_is_restarted_while_versions_go_to_it_holds_each_whole_or_not_at_all(
    log: Path, kafka: Server, tmp_path: Path
) -> None:
    kafka.mortal()
    told: list[str] = []
    run, settings = tmp_path / "run", settings_of(log, kafka=kafka_of(kafka))
    create_topics(settings, NOBODY)
    replay = Replay(log, run, settings, tell=told.append)
    digests: dict[str, str] = {}

    def watched() -> Iterator[int]:
        for count in replay.run():
            digests.setdefault(current(run), digest_of(replay.pipeline._learner.published()))
            yield count

    running = watched()
    first = until_delta(running, run, 2)
    with Follower("kafka", run) as follower:
        follower.until(first)
        steps = replay.pipeline.metrics().steps
        next(running)  # a version is on its way
        kafka.kill()
        before = current(run)
        for _ in range(8):
            next(running)
        assert replay.pipeline.metrics().steps > steps
        assert current(run) > before  # training goes on, and publishes to its directory
        kafka.start()
        for _ in running:
            pass
        last, expected = current(run), digest_of(replay.pipeline._learner.published())
        assert follower.until(last) == expected
        digests[last] = expected
        names = [name for name, _ in follower.seen]
        assert names == sorted(set(names))
        assert follower.seen == [(name, digests[name]) for name in names]  # each a version as the trainer had it
    figures = replay.pipeline.live_metrics().targets["kafka"]
    assert (figures.version, figures.is_away) == (last, False)
    assert all(
        "Training goes on" in each or each.endswith("is there") for each in told
    )  # the client may have waited long enough
    source = source_of("kafka", run, settings, {})
    assert source.current() == (int(last[:6]), int(last[7:]))
    source.close()
