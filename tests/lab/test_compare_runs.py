"""The runs of a comparison: what each is taught before an hour is scored, and that they can be taken up."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from models.trainer import Learner
from streaming.lab.compare import runs
from streaming.lab.compare.command import compare
from streaming.lab.compare.files import ResultsError, read_clicks, read_predictions, read_records
from streaming.lab.compare.protocol import plan_of, read_inputs, read_outcomes
from streaming.lab.compare.runs import Task, initial_of, pretrain, run
from streaming.lab.compare.stream import HOUR_MS, Stream, as_compared
from streaming.lab.world import World, generate
from streaming.settings import Settings, SettingsError, load

DAY_MS = 24 * HOUR_MS
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "log"
    generate(out, World(impressions=9_000, days=4.0, attribution_window_ms=DAY_MS, users=300, items=200, ctr=0.15))
    return out


@pytest.fixture(scope="module")
def settings(log: Path) -> Settings:
    found = load(log / "settings.toml", {})
    network = replace(found.network, objective="composed", towers=(8,), threads=1)
    return replace(found, network=network, batching=replace(found.batching, batch_size=256))


@pytest.fixture(scope="module")
def out(log: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compared in one process, window and survival."""
    path = tmp_path_factory.mktemp("compared") / "out"
    compare(log, settings, path, methods=["window", "survival"], seeds=[3], close_at_end=True, processes=1)
    return path


def test_every_method_with_pretrained_and_oracle_has_predicted_every_streamed_click(out: Path) -> None:
    records, unfinished = read_records(out)
    assert [record.method for record in records] == ["oracle", "pretrained", "survival", "window"]
    assert not unfinished
    clicks, plan = read_clicks(out), msgspec.json.decode((out / "plan.json").read_bytes())
    for record in records:
        scored = ~np.isnan(read_predictions(out, record, len(clicks.click_ms)))
        assert (scored == (clicks.click_ms >= plan["starts_ms"])).all(), record.method
        assert record.ended is None
    by_method = {record.method: record for record in records}
    assert by_method["pretrained"].rows == 0
    assert by_method["survival"].conversion_events > by_method["window"].conversion_events > 0


def test_labels_are_those_that_the_log_ends_with(out: Path, log: Path, settings: Settings) -> None:
    stream = Stream(log, as_compared(settings, "mature", 3))
    final = {
        example.impression.impression_id: example
        for group in stream.groups(close_at_end=True)
        for example in group.outcomes
    }
    clicks = read_clicks(out)
    assert len(clicks.click_ms) == len(final) == len(read_outcomes(out)) == len(read_inputs(out))
    assert clicks.label.sum() == sum(example.converted for example in final.values())
    assert ((clicks.delay_ms >= 0) == (clicks.label == 1)).all()


def test_an_hour_is_scored_before_anything_due_in_it_or_later_is_learned(
    log: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(log, settings, tmp_path, pretrain_days=None, close_at_end=True)
    tell = lambda share: None  # noqa: E731
    pretrain(log, tmp_path, plan, settings, Task("mature", 0), tell)
    learned_ms, scored = [plan.starts_ms - 1], []
    learn_many, predict_many = Learner.learn_many, Learner.predict_many

    def learning(self: Learner, batch: object, *, at_ms: int) -> object:
        learned_ms.append(at_ms)
        return learn_many(self, batch, at_ms=at_ms)  # type: ignore[arg-type]

    def predicting(self: Learner, inputs: object) -> object:
        scored.append((learned_ms[-1], len(inputs)))  # type: ignore[arg-type]
        return predict_many(self, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "learn_many", learning)
    monkeypatch.setattr(Learner, "predict_many", predicting)
    hours = []
    score_until = runs.Hours.score_until

    def scoring(self: runs.Hours, until_ms: int, learner: Learner) -> None:
        before = self._scored_ms
        score_until(self, until_ms, learner)
        hours.append((before, self._scored_ms, learned_ms[-1]))

    monkeypatch.setattr(runs.Hours, "score_until", scoring)
    run(log, tmp_path, plan, settings, Task("oracle", 0), tell)
    assert all(learned < starts for starts, ends, learned in hours if ends > starts)
    streamed = [(starts, ends) for starts, ends, _ in hours if ends > starts]
    assert streamed[0][0] == plan.starts_ms
    assert streamed[-1][1] == plan.ends_ms
    assert all(a[1] == b[0] for a, b in itertools.pairwise(streamed))
    assert max(learned_ms) > plan.starts_ms + DAY_MS


def test_a_run_taken_up_or_done_in_other_processes_predicts_the_same_bits(
    out: Path, log: Path, settings: Settings, tmp_path: Path
) -> None:
    first = compare(log, settings, tmp_path, methods=["window"], seeds=[3], close_at_end=True, processes=1)
    stamp = (tmp_path / "runs" / "window-seed3.safetensors").stat().st_mtime_ns
    (tmp_path / "runs" / "oracle-seed3.json").unlink()  # as if it had been killed before its end
    again = compare(log, settings, tmp_path, methods=["window", "survival"], seeds=[3], close_at_end=True, processes=2)
    assert again == first
    assert (tmp_path / "runs" / "window-seed3.safetensors").stat().st_mtime_ns == stamp
    for name in ("window", "survival", "oracle", "pretrained"):
        there, here = (load_file(path / "runs" / f"{name}-seed3.safetensors")["p"] for path in (out, tmp_path))
        np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize(
    "name",
    ["plan.json", "clicks.safetensors", "inputs.safetensors", "outcomes.msgpack", "initial/mature-seed3.safetensors"],
)
def test_a_damaged_file_is_named_and_once_removed_made_again(
    out: Path, log: Path, settings: Settings, tmp_path: Path, name: str
) -> None:
    there = tmp_path / "out"
    shutil.copytree(out, there)
    (there / name).write_bytes((there / name).read_bytes()[:20])
    (there / "runs" / "oracle-seed3.json").unlink()  # so that there is something to run

    def again() -> None:
        compare(log, settings, there, methods=["window"], seeds=[3], close_at_end=True, processes=1)
        read_clicks(there)

    with pytest.raises(ResultsError, match=f"{Path(name).name} is damaged .*: remove it and compare again"):
        again()
    (there / name).unlink()
    again()
    for one, other in zip(
        *(load_file(path / "runs" / "oracle-seed3.safetensors").values() for path in (out, there)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_other_settings_or_another_log_are_refused(out: Path, log: Path, settings: Settings, tmp_path: Path) -> None:
    other = replace(settings, batching=replace(settings.batching, batch_size=100))
    with pytest.raises(ResultsError, match=r"other settings \(batching.batch_size: 256 != 100\)"):
        compare(log, other, out, methods=["window"], seeds=[3])
    named = replace(settings, labels=replace(settings.labels, method="window"))
    compare(log, named, out, methods=["window"], seeds=[3])  # the method in the settings is none of its business
    generate(tmp_path / "log", World(impressions=500, days=4.0, attribution_window_ms=DAY_MS))
    with pytest.raises(ResultsError, match="on another log"):
        compare(tmp_path / "log", settings, out, methods=["window"], seeds=[3])


def test_what_cannot_be_compared_is_refused_before_anything_is_read(
    log: Path, settings: Settings, tmp_path: Path
) -> None:
    esmm = replace(settings, network=replace(settings.network, objective="esmm"))
    heads = replace(settings, labels=replace(settings.labels, delay_model="heads"))
    for methods, named, why in (
        (["guess"], settings, "--methods guess: labels.method must be one of"),
        (["fnc"], esmm, '--methods fnc: labels.method = "fnc" needs network.objective = "composed"'),
        (["survival"], heads, '--methods survival: labels.delay_model = "heads" and labels.method = "survival"'),
        ([], settings, "--methods and --seeds must name at least one each"),
    ):
        with pytest.raises(SettingsError, match=why):
            compare(log, named, tmp_path / "no", methods=methods, seeds=[0])
    assert not (tmp_path / "no").exists()
    with pytest.raises(ResultsError, match=r"--pretrain-days 30 leaves nothing on one side"):
        compare(log, settings, tmp_path / "no", methods=["window"], seeds=[0], pretrain_days=30)
    short = replace(settings, windows=replace(settings.windows, attribution_window_ms=30 * DAY_MS))
    with pytest.raises(ResultsError, match="nothing has a final label"):
        compare(log, short, tmp_path / "no", methods=["window"], seeds=[0])


def test_methods_with_heads_of_their_own_pretrain_themselves() -> None:
    assert [initial_of(name) for name in ("pretrained", "survival", "fnc", "oracle", "bi_defuse", "dfm")] == [
        "mature", "mature", "mature", "mature", "bi_defuse", "dfm",
    ]  # fmt: skip
