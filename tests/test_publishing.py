"""A whole run that publishes to a directory, a real Redis and a real Kafka: each ends with the same bytes; a second run takes over."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from brokers import NOBODY
from services import Server, free_ports
from worlds import HOUR_MS, small_log, small_settings

from models.manifest import encode_manifest
from models.weights import encode
from streaming.adapters.kafka_topics import create_topics
from streaming.adapters.redis_weights import RedisWeightsError
from streaming.connection import Kafka, Redis
from streaming.ports import StaleVersionError
from streaming.publication import Publishing
from streaming.replay import Replay
from streaming.settings import Settings
from streaming.target_choice import source_of
from streaming.warm_start import weights_named
from streaming.whole import read_whole

pytestmark = pytest.mark.integration

TARGETS = ("directory", "redis", "kafka")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("publishing") / "log", impressions=1_500, days=2.0)


@pytest.fixture
def settings(log: Path, kafka: Server, redis: Server) -> Settings:
    model = uuid.uuid4().hex
    publishing = {"targets": TARGETS, "delta_interval_ms": HOUR_MS, "least_interval_ms": 0, "snapshot_every": 4}
    found = msgspec.structs.replace(
        small_settings(log, publishing=publishing, cuts={"cut_interval_ms": 12 * HOUR_MS}),
        kafka=Kafka(bootstrap_servers=(kafka.bootstrap,), model=model, weights_chunk_bytes=2_000),
        redis=Redis(url=f"redis://{redis.bootstrap}/0", model=model, chunk_bytes=2_000),
    )
    create_topics(found, NOBODY)
    return found


def replayed(log: Path, out: Path, settings: Settings, *, resume: bool = False) -> Replay:
    replay = Replay(log, out, settings, resume=resume, tell=pytest.fail)
    for _ in replay.run():
        pass
    return replay


def finish(running: Iterator[int]) -> None:
    """Runs to the end, slowly enough for the threads behind to have their turn."""
    for _ in running:
        time.sleep(0.05)


def read(name: str, run: Path, settings: Settings, expected: tuple[int, int]) -> dict[str, bytes]:
    """The current version in a target, whole, as the bytes of a snapshot; once it is the expected one."""
    source = source_of(name, run, settings, {})
    try:
        assert any(source.current() == expected for _ in range(500)), (name, source.current())
        published = encode(read_whole(source, *expected))
        return {**published.parts, "manifest.json": encode_manifest(published.manifest)}
    finally:
        source.close()


def test_every_target_ends_with_the_same_version_and_a_resumed_run_takes_over_in_all(
    log: Path, settings: Settings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    replay = replayed(log, run, settings)
    last = (1, replay.pipeline.metrics().weights_version)
    bytes_of = {name: read(name, run, settings, last) for name in TARGETS}
    assert bytes_of["directory"] == bytes_of["redis"] == bytes_of["kafka"]
    figures = replay.pipeline.live_metrics().targets
    assert [figures[name].version for name in TARGETS] == [f"000001-{last[1]:010d}"] * 3
    assert figures["directory"].published > 8

    resumed = replayed(log, run, settings, resume=True)
    again = (2, resumed.pipeline.metrics().weights_version)
    assert len({tuple(sorted(read(name, run, settings, again).items())) for name in TARGETS}) == 1


def test_a_run_in_another_directory_takes_over_and_the_first_is_refused(
    log: Path, settings: Settings, tmp_path: Path
) -> None:
    first = Replay(log, tmp_path / "first", settings)
    running = first.run()
    next(running)
    second = replayed(log, tmp_path / "second", settings)
    expected = (2, second.pipeline.metrics().weights_version)
    with pytest.raises(StaleVersionError, match=r"000002-.* is current: .*end this one"):
        finish(running)
    for name in ("redis", "kafka"):
        assert read(name, tmp_path / "second", settings, expected)


def test_a_run_may_begin_with_what_redis_and_kafka_hold(log: Path, settings: Settings, tmp_path: Path) -> None:
    replay = replayed(log, tmp_path / "run", settings)
    rows = replay.pipeline.metrics().embedding_rows
    last = (1, replay.pipeline.metrics().weights_version)
    assert settings.redis.url is not None
    for number, named in enumerate(("redis", "kafka", settings.redis.url)):
        assert read(named.partition(":")[0], tmp_path / "run", settings, last)
        own = msgspec.structs.replace(settings, publishing=Publishing())
        start = weights_named(named, own, {})
        begun = Replay(log, tmp_path / f"begun{number}", own, warm_start=start)
        assert begun.begun_with[0] == f"begins with version 000001-{last[1]:010d}, mature: {rows:,} rows"
        assert sum(begun.run()) > 0


def test_a_run_does_not_begin_where_a_target_does_not_answer(log: Path, settings: Settings, tmp_path: Path) -> None:
    away = Redis(url=f"redis://127.0.0.1:{free_ports(1)[0]}/0", timeout_ms=200)
    with pytest.raises(RedisWeightsError, match="could not issue an epoch"):
        Replay(log, tmp_path / "run", msgspec.structs.replace(settings, redis=away))
