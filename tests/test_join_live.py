"""`afterclick join` on a real broker: workers that are killed, stopped and added lose no example, and double none in effect."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import pytest
from brokers import NOBODY, replaced
from join_faults import JoinRun, assert_as_replayed, join_settings
from services import Server
from test_live_run import Settled, go, rows_of
from worlds import small_log

from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.cli import main
from streaming.connection import Topics
from streaming.example_blocks import encode_claim
from streaming.joiner import identity_of
from streaming.live_run import LiveRun
from streaming.settings import dump

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disorder, redeliveries, orphans and garbage, but nothing beyond the bound: what is late depends on the order of arrival."""
    path = tmp_path_factory.mktemp("join") / "log"
    return small_log(path, impressions=3_000, days=2.0, late_share=0.0, future_share=0.0)


def test_one_worker_gives_exactly_the_examples_of_a_replay_and_who_has_not_its_snapshots_cannot_follow(
    kafka: Server, log: Path, tmp_path: Path
) -> None:
    run = JoinRun(tmp_path, join_settings(kafka, log, partitions=3), log)
    try:
        run.feed()
        run.start()
        run.settle()
        counts = assert_as_replayed(run, log)
        assert counts["appended"] == counts["different"]
        run.signal(0, signal.SIGTERM)
        assert run.workers[0].wait(30) == 0, run.said(0)
        other = JoinRun(tmp_path / "elsewhere", run.settings, log)
        other.start()
        other.until(lambda: other.workers[0].poll() is not None, "it ends")
        assert other.workers[0].returncode == 1
        assert re.search(r"join partition \d of \w+ cannot be taken over", other.said(0))
        other.close()
    finally:
        run.close()


def test_workers_killed_stopped_and_added_lose_nothing(kafka: Server, log: Path, tmp_path: Path) -> None:
    run = JoinRun(tmp_path, join_settings(kafka, log, partitions=6), log)
    try:
        for _ in range(3):
            run.start()
        run.feed(seconds=15.0)
        run.until(lambda: sum(run.ends().values()) > 30, "some blocks")
        run.signal(0, signal.SIGKILL)
        run.signal(1, signal.SIGSTOP)  # long enough to be taken for dead: its partitions go to others
        stopped = time.monotonic()
        run.start()
        run.start()
        run.until(lambda: time.monotonic() - stopped > 9.0, "a while")
        run.signal(1, signal.SIGCONT)
        run.settle()
        assert_as_replayed(run, log)
        for number in (1, 2, 3, 4):
            assert run.workers[number].poll() is None, run.said(number)
        trained = LiveRun(tmp_path / "trained", run.settings, begin="earliest", record=None, environ={}, of="examples")
        sent = {(*identity_of(one)[:2], one.kind.name, one.due_ms) for one in run.emitted()[0]}
        settled = Settled()
        metrics = go(trained, lambda told: settled(told) and sum(told.examples.values()) >= len(sent))
        learned = [
            (row["impression_id"], row["impression_ms"], row["kind"], row["due_ms"])
            for row in rows_of(tmp_path / "trained")
        ]
        assert len(set(learned)) == len(learned) == sum(metrics.examples.values())
        assert set(learned) == sent
    finally:
        run.close()


def test_what_another_has_claimed_and_does_not_hold_is_held_again(kafka: Server, log: Path, tmp_path: Path) -> None:
    run = JoinRun(tmp_path, join_settings(kafka, log, partitions=3), log)
    try:
        run.start()
        run.feed(seconds=8.0)
        run.until(lambda: sum(run.ends().values()) > 15, "some blocks")
        sink = KafkaSink(
            run.settings.kafka, NOBODY
        )  # a worker that fell asleep before it claimed, and wakes up too late
        for p in range(3):
            sink.send("examples", encode_claim(p), partition=p)
        sink.flush()
        sink.close()
        run.settle()
        counts = assert_as_replayed(run, log)
        assert run.void == counts["appended"] - counts["different"] > 0
        assert run.workers[0].poll() is None
        assert "was taken over by another worker" in run.said(0)
    finally:
        run.close()


def test_what_keeps_a_worker_from_starting_is_said_in_a_sentence(
    kafka: Server, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["join", *map(str, arguments)])
        return int(ended.value.code or 0), " ".join(capsys.readouterr().err.split())

    settings = join_settings(kafka, log, partitions=2)
    config = tmp_path / "join.toml"
    config.write_text(dump(settings), encoding="utf-8")
    code, said = ends("--config", config)
    assert code == 1
    assert "not there on" in said
    assert "afterclick topics create" in said

    create_topics(settings, NOBODY)
    unequal = replaced(settings, topics=Topics(clicks=settings.kafka.topic("weights")))
    config.write_text(dump(unequal), encoding="utf-8")
    code, said = ends("--config", config)
    assert code == 1
    assert "must have equally many partitions" in said

    monkeypatch.setitem(sys.modules, "faust", None)
    monkeypatch.delitem(sys.modules, "streaming.adapters.faust_join", raising=False)
    monkeypatch.delitem(sys.modules, "streaming.adapters.faust_connection", raising=False)
    monkeypatch.delitem(sys.modules, "streaming.adapters.faust_transport", raising=False)
    code, said = ends("--config", config)
    assert code == 2
    assert "needs Faust, which is not installed" in said
