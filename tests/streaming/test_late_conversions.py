"""What `dfm` is told of a click over its life, when conversions become known hours after they came: its likelihood, once."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from worlds import HOUR_MS, small_log, small_settings

from models.batch import Event, Float64
from models.likelihoods import DAY_MS, Dfm, Told
from models.teaching import Teaching
from streaming.batching import collate
from streaming.features import FeatureReader
from streaming.lab.compare.stream import Stream
from streaming.settings import Settings

P, HAZARD = 0.3, 2.5  # of every click, a day
LOGITS = np.array([[np.log(P / (1 - P))], [np.log(np.expm1(HAZARD))]])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four conversions of five are logged up to eight hours after they came."""
    path = small_log(tmp_path_factory.mktemp("late") / "log", impressions=3_000, late_share=0.0, malformed_share=0.0)
    chance = random.Random(1)
    lines = (path / "conversions.jsonl").read_text().splitlines(keepends=True)
    arrives = [
        json.loads(line)["event_time_ms"] + (chance.random() < 0.8) * chance.randrange(8 * HOUR_MS) for line in lines
    ]
    order = sorted(range(len(lines)), key=arrives.__getitem__)
    (path / "conversions.jsonl").write_text("".join(lines[place] for place in order))
    return path


def settings_of(log: Path) -> Settings:
    windows = {"observation_window_ms": HOUR_MS}
    return small_settings(
        log, labels={"method": "dfm", "growth": False}, network={"objective": "composed"}, windows=windows
    )


def row_of(told: Told, row: int) -> Told:
    some = slice(row, row + 1)
    columns: tuple[Float64, ...] = (told.weight[some], told.age_ms[some], told.delay_ms[some], told.before_ms[some])
    return Told(told.events[some], *columns)


def test_a_conversion_that_becomes_known_late_undoes_the_looks_that_it_had_come_before(log: Path) -> None:
    settings = settings_of(log)
    windows = settings.windows
    teaching = Teaching(
        settings.features,
        labels=settings.labels,
        objective="composed",
        observation_window_ms=windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
        kappa_half_life_ms=DAY_MS,
    )
    reader, likelihood = FeatureReader(settings.features), Dfm(attribution_window_ms=windows.attribution_window_ms)
    nats: dict[str, float] = defaultdict(float)
    settled: dict[str, int | None] = {}
    overtaken = 0
    for group in Stream(log, settings).groups(close_at_end=True):
        batch = collate(group.rows, reader)
        told = teaching.weigh(batch, np.full(len(batch), P), at_ms=group.at_ms).told
        for row, example in enumerate(group.rows):
            if example.kind in (Event.UNCLICKED, Event.CLICKED):
                continue
            name = example.impression.impression_id
            nats[name] += likelihood.cost(LOGITS, row_of(told, row))[0]
            if example.kind in (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE, Event.REAL_NEGATIVE):
                settled[name] = int(batch.delay_ms[row]) if example.converted else None
                overtaken += batch.age_ms[row] > batch.delay_ms[row] + HOUR_MS > 0 and example.converted
    assert overtaken > 30
    never = 1 - P + P * np.exp(-HAZARD * windows.attribution_window_ms / DAY_MS)
    assert len(settled) > 200
    for name, delay_ms in settled.items():
        then = never if delay_ms is None else P * HAZARD * np.exp(-HAZARD * delay_ms / DAY_MS)
        assert nats[name] == pytest.approx(-np.log(then)), (name, delay_ms)
