"""A run fed by a real broker: the same examples as a replay of the log, a tape that gives the same bits, and nothing lost or doubled by crashes."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zstandard
from brokers import NOBODY, settings_on
from mortal import Mortals
from services import Server
from worlds import HOUR_MS, small_log, small_settings

from streaming.adapters.kafka_feed import KafkaFeed
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.live_run import LiveRun
from streaming.log_source import LogSource
from streaming.metrics import RunMetrics
from streaming.replay import Replay
from streaming.settings import Settings, dump
from streaming.warm_start import weights_named

pytestmark = pytest.mark.integration

PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disorder, redeliveries, orphans and garbage, but nothing beyond the bound: what is late depends on the order of arrival."""
    path = tmp_path_factory.mktemp("live") / "log"
    return small_log(path, impressions=3_000, days=2.0, late_share=0.0, future_share=0.0)


def live_settings(kafka: Server, log: Path, **sections: dict[str, object]) -> Settings:
    broker = settings_on(kafka, partitions=3)
    return msgspec.structs.replace(
        small_settings(
            log,
            **(
                {"event_time": {"idle_timeout_ms": 500, "stall_hold_ms": 1}, "cuts": {"cut_interval_ms": 3 * HOUR_MS}}
                | sections
            ),  # type: ignore[arg-type]
        ),
        kafka=broker.kafka,
    )


def produce(log: Path, settings: Settings) -> None:
    create_topics(settings, NOBODY)
    sink = KafkaSink(settings.kafka, NOBODY)
    feed = KafkaFeed(sink, settings.kafka)
    for arrivals in LogSource(log, settings):
        feed.produce(arrivals)
    sink.flush()
    sink.close()


def go(live: LiveRun, until: Callable[[RunMetrics], bool]) -> RunMetrics:
    """Runs until that is so, and stops."""
    deadline = time.monotonic() + PATIENCE_S
    is_stopped = False
    for _ in live.run():
        metrics = live.pipeline.metrics()
        if not is_stopped and until(metrics):
            live.stop()
            is_stopped = True
        assert time.monotonic() < deadline, (metrics.events, metrics.partitions)
    live.close()
    return live.pipeline.metrics()


def all_idle(metrics: RunMetrics) -> bool:
    return len(metrics.partitions) > 0 and all(own.is_idle for own in metrics.partitions.values())


class Settled:
    """Says so once nothing has moved for some seconds: where traffic ends a stream may be called stalled, and then is never idle."""

    def __init__(self, seconds: float = 4.0) -> None:
        self._seconds = seconds
        self._last: object = None
        self._since = time.monotonic()

    def __call__(self, metrics: RunMetrics) -> bool:
        now = (dict(metrics.events), {p: own.watermark_ms for p, own in metrics.partitions.items()})
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        return all_idle(metrics) or time.monotonic() - self._since > self._seconds


def rows_of(run: Path) -> list[dict[str, Any]]:
    with (run / "examples.jsonl.zst").open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return [msgspec.json.decode(line) for line in data.splitlines()]


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        row[key] for key in ("impression_id", "slot", "kind", "due_ms", "click_ms", "conversion_ms", "converted")
    )


def files_of(run: Path) -> dict[str, bytes]:
    """All that a run leaves behind, but for the state in its cuts: a run that records knows how long its tape is."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name not in ("state.msgpack", "manifest.json")
    }


def assert_examples_are_those_of_a_replay(
    run: Path, metrics: RunMetrics, log: Path, settings: Settings, tmp_path: Path
) -> None:
    """Up to the watermark that every partition has passed; each once, each taught or counted once."""
    for _ in Replay(log, tmp_path / "replay", settings).run():
        pass
    reached_ms = min(own.watermark_ms or 0 for own in metrics.partitions.values())
    mine, expected = rows_of(run), rows_of(tmp_path / "replay")
    counts = Counter((row["impression_id"], row["impression_ms"], row["slot"]) for row in mine)
    assert [key for key, count in counts.items() if count > 1] == []
    found = {identity(row) for row in mine if row["due_ms"] < reached_ms}
    wanted = {identity(row) for row in expected if row["due_ms"] < reached_ms}
    assert found == wanted
    assert len(wanted) > 3_000
    assert {row["p"] for row in mine} == {0, 1, 2}
    assert metrics.taught == sum(row["step"] is not None for row in mine)
    assert Counter(row["kind"] for row in mine) == Counter(metrics.examples)


@pytest.mark.parametrize("method", ["survival"])
def test_a_run_gives_the_examples_of_a_replay_and_its_tape_the_same_bits(
    kafka: Server, log: Path, tmp_path: Path, method: str
) -> None:
    settings = live_settings(kafka, log, labels={"method": method})
    produce(log, settings)
    run, tape = tmp_path / "run", tmp_path / "tape"
    metrics = go(LiveRun(run, settings, begin="earliest", record=tape, environ={}), all_idle)
    assert_examples_are_those_of_a_replay(run, metrics, log, settings, tmp_path)
    for _ in Replay(tape, tmp_path / "again", settings).run():
        pass
    assert files_of(tmp_path / "again") == files_of(run)


def test_a_run_that_begins_with_published_weights_goes_on_from_its_cuts_and_its_tape_gives_the_same_bits(
    kafka: Server, log: Path, tmp_path: Path
) -> None:
    settings = live_settings(kafka, log)
    produce(log, settings)
    for _ in Replay(log, tmp_path / "old", settings).run():
        pass
    run, tape = tmp_path / "run", tmp_path / "tape"
    start = weights_named(str(tmp_path / "old"), settings, {})
    live = LiveRun(run, settings, begin="earliest", record=tape, environ={}, warm_start=start)
    assert live.begun_with[0].startswith("begins with version 000001-")
    go(live, all_idle)
    again = Replay(tape, tmp_path / "again", settings, warm_start=weights_named(str(run / "warm_start"), settings, {}))
    for _ in again.run():
        pass
    assert files_of(tmp_path / "again") == files_of(run)

    on = LiveRun(run, settings, begin="earliest", record=None, environ={}, warm_start=lambda: pytest.fail("read again"))
    assert on.begun_with == []
    go(on, all_idle)


def test_stopped_and_started_again_its_tape_still_gives_the_same_bits(kafka: Server, log: Path, tmp_path: Path) -> None:
    settings = live_settings(kafka, log, labels={"method": "survival"})
    produce(log, settings)
    run, tape = tmp_path / "run", tmp_path / "tape"
    go(LiveRun(run, settings, begin="earliest", record=tape, environ={}), lambda metrics: metrics.taught > 500)
    again = LiveRun(run, settings, begin="latest", record=tape, environ={})
    assert again.resumed_at_ms is not None
    metrics = go(again, all_idle)
    assert_examples_are_those_of_a_replay(run, metrics, log, settings, tmp_path)
    replay = Replay(tape, tmp_path / "again", settings)
    for _ in replay.run():
        pass
    assert rows_of(tmp_path / "again") == rows_of(run)  # what they taught, too
    mine, others = (one.pipeline._learner.snapshot().tensors for one in (again, replay))
    assert [name for name, tensor in mine.items() if not torch.equal(tensor, others[name])] == []


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as started:
        yield started


def test_killed_at_every_step_and_at_any_moment_nothing_is_lost_or_doubled(
    kafka: Server, log: Path, tmp_path: Path, mortals: Mortals
) -> None:
    settings = live_settings(kafka, log, labels={"method": "survival"})
    produce(log, settings)
    config, run = tmp_path / "live.toml", tmp_path / "run"
    config.write_text(dump(settings), encoding="utf-8")
    rng = random.Random(7)
    command = ("run", "--config", config, "--out", run)
    for step in (1, 2, 3, 4, 5):
        crash = {"AFTERCLICK_CRASH_AT": f"{step}@{rng.randint(1, 2)}"}
        assert mortals.run(*command, environ=crash) == -signal.SIGKILL
    for _ in range(3):
        due = time.monotonic() + rng.uniform(0.3, 2.5)
        assert mortals.run(*command, doom=lambda due=due: time.monotonic() > due) == -signal.SIGKILL
    metrics = go(LiveRun(run, settings, begin="earliest", record=None, environ={}), all_idle)
    assert_examples_are_those_of_a_replay(run, metrics, log, settings, tmp_path)


def test_a_broker_that_goes_away_and_comes_back_is_read_on(kafka: Server, log: Path, tmp_path: Path) -> None:
    kafka.mortal()
    settings = live_settings(kafka, log)
    produce(log, settings)
    live = LiveRun(tmp_path / "run", settings, begin="earliest", record=None, environ={})
    is_killed = threading.Event()

    def until(metrics: RunMetrics) -> bool:
        if metrics.taught > 300 and not is_killed.is_set():
            is_killed.set()
            kafka.kill()
            threading.Timer(1.0, kafka.start).start()
        return all_idle(metrics)

    metrics = go(live, until)
    assert is_killed.is_set()
    assert_examples_are_those_of_a_replay(tmp_path / "run", metrics, log, settings, tmp_path)
