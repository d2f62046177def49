"""Calibration while labels are open: what a run tells of it, beside a second count of its own files, and what recalibration does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput
from worlds import HOUR_MS, lines_of, small_log, small_settings

from models.weights import decode
from streaming.ingest import Ingest
from streaming.pipeline import Pipeline
from streaming.settings import Settings, SettingsError, parse

W_A_MS = 12 * HOUR_MS


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("calibrating") / "log")


def settings_of(log: Path, **sections: dict[str, object]) -> Settings:
    windows = {"observation_window_ms": HOUR_MS}
    return small_settings(log, **({"labels": {"method": "es_dfm"}, "windows": windows} | sections))


def run_of(
    log: Path, settings: Settings, *, resume_at: int | None = None
) -> tuple[Pipeline, MemoryOutput, MemoryCuts, ListPublisher]:
    """A run to the end; or one that ends, and another that goes on from one of its cuts."""
    lines = lines_of(log)
    output, cuts, publisher = MemoryOutput(), MemoryCuts(), ListPublisher()
    pipeline = Pipeline(
        settings, feed=Ingest(settings, ListLog(lines, settings)), output=output, cuts=cuts, publisher=publisher
    )
    for _ in pipeline.run():
        pass
    if resume_at is None:
        return pipeline, output, cuts, publisher
    cut, tensors = cuts.get(resume_at)
    again = Pipeline(
        settings,
        feed=Ingest(settings, ListLog(lines, settings, cut.ingest.places)),
        output=output,
        cuts=MemoryCuts(),
        publisher=ListPublisher(),
    )
    output.cut_back(cut.lengths)
    again.restore(cut, tensors)
    for _ in again.run():
        pass
    return again, output, cuts, publisher


def lines_in(output: MemoryOutput, name: str) -> Iterator[dict[str, Any]]:
    yield from map(msgspec.json.decode, output.files[name].splitlines())


def test_early_conversions_are_those_of_the_files_counted_again(log: Path) -> None:
    pipeline, output, _, _ = run_of(log, settings_of(log))
    metrics = pipeline.metrics()
    early = metrics.early["model"]
    scored = {line["impression_id"]: line["pcvr"] for line in lines_in(output, "predictions.jsonl.zst")}
    clicks: dict[str, int] = {}
    conversions: dict[str, int] = {}
    for line in lines_in(output, "examples.jsonl.zst"):
        if line["kind"] == "CLICKED":
            clicks[line["impression_id"]] = line["click_ms"]
        if line["kind"] == "AGED":
            conversions[line["impression_id"]] = line["conversion_ms"]
    assert early.cohorts
    for cohort in early.cohorts:
        assert cohort.start_ms is not None
        assert cohort.age_ms is not None
        mine = {name: at for name, at in clicks.items() if cohort.start_ms <= at < cohort.start_ms + HOUR_MS}
        assert cohort.clicks == len(mine)
        came = [name for name, at in mine.items() if name in conversions and conversions[name] - at <= cohort.age_ms]
        assert cohort.observed == len(came)
        assert 0 < cohort.expected <= sum(scored[name] for name in mine)
    assert early.total.clicks == sum(cohort.clicks for cohort in early.cohorts)
    assert [each.age_ms for each in early.ages] == sorted({cohort.age_ms or 0 for cohort in early.cohorts})
    for each in early.ages:
        mine = [cohort for cohort in early.cohorts if cohort.age_ms == each.age_ms]
        assert (each.clicks, each.observed) == (sum(c.clicks for c in mine), sum(c.observed for c in mine))
    assert early.total.observed == sum(cohort.observed for cohort in early.cohorts)
    assert early.total.expected == pytest.approx(sum(cohort.expected for cohort in early.cohorts))


def test_effective_sample_size_is_that_of_the_weights_written(log: Path) -> None:
    pipeline, output, _, _ = run_of(log, settings_of(log))
    taught = [
        abs(line["pos"]) + abs(line["neg"])
        for line in lines_in(output, "examples.jsonl.zst")
        if line["click_ms"] is not None and line["pos"] is not None and (line["pos"] or line["neg"])
    ]
    metrics = pipeline.metrics()
    assert (
        metrics.conversion_rows <= len(taught) <= metrics.conversion_rows + 256
    )  # the last batch may not be in the count
    assert metrics.effective_sample_size == pytest.approx(
        metrics.conversion_weight**2 / metrics.conversion_weight_square
    )
    assert 0 < metrics.effective_sample_size <= metrics.conversion_rows


def test_recalibration_mends_a_model_that_started_far_off(log: Path) -> None:
    slow = {"optimizer": {"embedding_learning_rate": 1e-6, "dense_learning_rate": 1e-7}}  # it hardly learns: .3 convert
    wrong = {"network": {"prior_cvr": 0.05, "threads": 1, "objective": "composed"}}

    def calibration(kind: str) -> float:
        own = settings_of(log, recalibrating={"kind": kind, "least_conversions": 20.0}, **slow, **wrong)
        found = run_of(log, own)[0].metrics().tasks["cvr"]["model"].calibration
        assert found is not None
        return found

    assert calibration("none") < 0.25
    assert calibration("platt") > 0.6  # the first hours, before anything was known, are in it too
    assert calibration("isotonic") > 0.6


@pytest.mark.parametrize("field", [None, "category"])
def test_a_run_taken_up_recalibrates_and_watches_on_bit_for_bit(log: Path, field: str | None) -> None:
    settings = settings_of(log, recalibrating={"kind": "platt", "field": field, "least_conversions": 20.0})
    whole, output, _, publisher = run_of(log, settings)
    again, other, _, _ = run_of(log, settings, resume_at=3)  # its files cut back to the third cut, and written on
    assert msgspec.structs.replace(again.metrics(), weights_epoch=0) == msgspec.structs.replace(
        whole.metrics(), weights_epoch=0
    )
    assert output.files["predictions.jsonl.zst"] == other.files["predictions.jsonl.zst"]
    for one, two in zip(whole._calibrating.snapshot(), again._calibrating.snapshot(), strict=True):
        assert one.keys() == two.keys()
        assert all(
            torch.equal(one[name], two[name]) if isinstance(one[name], torch.Tensor) else one[name] == two[name]
            for name in one
        )
    published = decode(publisher.published[-1]).tensors
    assert published["recalibration.at"].dtype == torch.float64
    assert len(published["recalibration.value.ids"]) > 0 if field else len(published["recalibration.value.ids"]) == 0


def test_what_is_published_corrects_as_the_run_does(log: Path) -> None:
    settings = settings_of(log, recalibrating={"kind": "platt", "least_conversions": 20.0})
    pipeline, _, _, publisher = run_of(log, settings)
    maps = decode(publisher.published[-1]).tensors
    at, to, slope = (maps[f"recalibration.{name}"].numpy() for name in ("at", "to", "slope"))
    p = np.array([0.001, 0.2, 0.9])
    s = np.log(p / (1 - p))
    z = np.interp(s, at, to)
    z = np.where(s < at[0], to[0] + slope[0] * (s - at[0]), np.where(s > at[-1], to[-1] + slope[0] * (s - at[-1]), z))
    recalibrator = pipeline._calibrating._recalibrator
    assert recalibrator is not None
    np.testing.assert_allclose(recalibrator._recalibration.apply(p), 1 / (1 + np.exp(-z)))


def test_a_field_that_is_no_categorical_feature_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"recalibrating.field names 'price', which is no categorical feature"):
        parse('[recalibrating]\nkind = "platt"\nfield = "price"\n[[features]]\nname = "price"\nkind = "numeric"')
