"""`afterclick train` on a real broker: what joiners sent is learned once each, however often it was sent and whoever was killed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import NOBODY
from joined_elsewhere import blocks_of
from mortal import Mortals
from services import Server
from test_live_run import all_idle, go, live_settings, rows_of
from worlds import small_log

from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.example_blocks import decode_block
from streaming.live_run import LiveRun
from streaming.settings import dump

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as started:
        yield started


def test_killed_again_and_again_each_example_is_learned_once(kafka: Server, tmp_path: Path, mortals: Mortals) -> None:
    log = small_log(tmp_path / "log", impressions=3_000, days=2.0)
    settings = live_settings(kafka, log, labels={"method": "survival"})
    create_topics(settings, NOBODY)
    sent, rng = blocks_of(log, settings, 3), random.Random(5)
    sink = KafkaSink(settings.kafka, NOBODY)
    for p, blocks in enumerate(sent):
        for number, block in enumerate(blocks):
            for value in [block, *(blocks[max(1, number - 3) : number + 1] if rng.random() < 0.1 else [])]:
                sink.send("examples", value, partition=p)
    sink.flush()
    sink.close()

    config, run = tmp_path / "live.toml", tmp_path / "run"
    config.write_text(dump(settings), encoding="utf-8")
    command = ("train", "--config", config, "--out", run)
    for step in (3, 4):
        crash = {"AFTERCLICK_CRASH_AT": f"{step}@2"}
        assert mortals.run(*command, environ=crash) == -signal.SIGKILL
    due = time.monotonic() + 1.5
    assert mortals.run(*command, doom=lambda: time.monotonic() > due) == -signal.SIGKILL
    metrics = go(LiveRun(run, settings, begin="earliest", record=None, environ={}, of="examples"), all_idle)

    expected = [
        (one.impression.impression_id, one.kind.name, one.due_ms, one.p)
        for blocks in sent
        for block in blocks
        for one in decode_block(block)[1]
    ]
    found = [(row["impression_id"], row["kind"], row["due_ms"], row["p"]) for row in rows_of(run)]
    assert Counter(found) == Counter(expected)
    assert metrics.taught == sum(row["step"] is not None for row in rows_of(run))
    assert metrics.duplicate_examples > 0
