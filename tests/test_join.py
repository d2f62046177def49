"""`afterclick join` on a real broker: workers that are killed, stopped and added lose no example, and double none in effect."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from join_faults import JoinRun, assert_as_replayed, join_settings
from services import Server
from worlds import small_log

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disorder, redeliveries, orphans and garbage, but nothing beyond the bound: what is late depends on the order of arrival."""
    path = tmp_path_factory.mktemp("join") / "log"
    return small_log(path, impressions=3_000, days=2.0, late_share=0.0, future_share=0.0)


def test_one_worker_gives_exactly_the_examples_of_a_replay(kafka: Server, log: Path, tmp_path: Path) -> None:
    run = JoinRun(tmp_path, join_settings(kafka, log, partitions=3), log)
    try:
        run.feed()
        run.start()
        run.settle()
        counts = assert_as_replayed(run, log)
        assert counts["appended"] == counts["different"]
        run.signal(0, signal.SIGTERM)
        assert run.workers[0].wait(30) == 0, run.said(0)
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
    finally:
        run.close()
