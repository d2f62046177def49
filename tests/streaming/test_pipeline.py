"""The whole line: that it can be cut anywhere, that order within the bound does not matter, that nothing is lost."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput, joins_of
from worlds import HOUR_MS, lines_of, small_log, small_settings

from models.delay import METHODS
from models.weights import decode
from streaming.examples import Kind
from streaming.ingest import Ingest
from streaming.label import Outcome
from streaming.metrics import RunMetrics
from streaming.open_clicks import OpenClick
from streaming.partitions import find_outcomes
from streaming.pipeline import Pipeline, RunEndedError
from streaming.settings import Settings


class Run:
    """A pipeline over a log in memory, with all that it left behind."""

    def __init__(
        self,
        lines: dict[str, list[bytes]],
        settings: Settings,
        *,
        block: int = 700,
        resume: Run | None = None,
        cut: int = -1,
    ) -> None:
        self.settings = settings
        self.output = MemoryOutput()
        self.output.files |= {} if resume is None else resume.output.files
        self.cuts, self.publisher = MemoryCuts(), ListPublisher()
        outcomes: dict[tuple[str, int], Outcome] | None = None
        if settings.labels.method == "oracle":
            outcomes = find_outcomes(ListLog(lines, settings), settings)
        state, tensors = (None, {}) if resume is None else resume.cuts.get(cut)
        places = None if state is None else state.ingest.places
        source = ListLog(lines, settings, places, block=block)
        self.pipeline = Pipeline(
            settings,
            feed=Ingest(settings, source, outcomes),
            output=self.output,
            cuts=self.cuts,
            publisher=self.publisher,
        )
        if state is not None:
            self.output.cut_back(state.lengths)
            self.pipeline.restore(state, tensors)

    def go(self, *, close_at_end: bool = False) -> Run:
        for _ in self.pipeline.run(close_at_end=close_at_end):
            pass
        return self

    @property
    def metrics(self) -> RunMetrics:
        return msgspec.structs.replace(self.pipeline.metrics(), weights_epoch=0)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return self.pipeline._learner.snapshot().tensors

    @property
    def clicks(self) -> dict[str, OpenClick]:
        return {} if self.pipeline._clicks is None else self.pipeline._clicks.snapshot()

    def assert_equals(self, other: Run) -> None:
        mine, others = self.tensors, other.tensors
        assert mine.keys() == others.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, others[name]), name
        assert self.metrics == other.metrics
        assert self.clicks == other.clicks
        for name in self.output.files.keys() | other.output.files.keys():
            if name != "metrics.json":
                assert self.output.files.get(name) == other.output.files.get(name), name


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("world") / "log")


@pytest.fixture(scope="module")
def whole(log: Path) -> Run:
    return Run(lines_of(log), small_settings(log)).go()


def test_it_learns_and_scores(whole: Run) -> None:
    assert whole.metrics.steps > 50
    assert whole.metrics.refused_batches == {}
    assert whole.metrics.tasks["ctr"]["model"].n > 5_000
    calibration = whole.metrics.tasks["ctr"]["model"].calibration
    assert calibration is not None
    assert 0.5 < calibration < 2


@pytest.mark.parametrize("cut", [0, 3, 9, -2, -1])
def test_resumed_from_a_cut_it_ends_the_same(log: Path, whole: Run, cut: int) -> None:
    resumed = Run(lines_of(log), small_settings(log), block=311, resume=whole, cut=cut).go()
    resumed.assert_equals(whole)
    assert resumed.publisher.published[-1].manifest.version == whole.publisher.published[-1].manifest.version


def test_block_size_does_not_matter(log: Path, whole: Run) -> None:
    Run(lines_of(log), small_settings(log), block=97).go().assert_equals(whole)


def shuffled(lines: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    """The same lines, each up to five minutes out of its place."""
    rng = random.Random(3)
    mixed: dict[str, list[bytes]] = {}
    for name, records in lines.items():
        jittered = [msgspec.json.decode(line)["event_time_ms"] + rng.randint(0, 300_000) for line in records]
        mixed[name] = [records[i] for i in sorted(range(len(records)), key=jittered.__getitem__)]
    return mixed


TINY: dict[str, object] = {"impressions": 1_200, "days": 1.5, "attribution_window_ms": 6 * HOUR_MS, "cvr": 0.4}
RUNS = [
    (method, objective)
    for method, row in METHODS.items()
    for objective in ("composed", "esmm")
    if objective == "composed" or row.form == "pairs"
]


def of_method(log: Path, method: str, objective: str, **more: dict[str, object]) -> Settings:
    network = {"objective": objective, "towers": (4,), "threads": 1}
    batching = {"batch_size": 128, "batch_interval_ms": 3 * HOUR_MS}
    return small_settings(log, labels={"method": method}, network=network, batching=batching, **more)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("tiny") / "log", **TINY)


@pytest.mark.parametrize(("method", "objective"), RUNS)
def test_every_method_runs_to_the_end_and_goes_on_from_a_cut_in_the_middle(
    tiny: Path, method: str, objective: str
) -> None:
    lines, settings = lines_of(tiny), of_method(tiny, method, objective)
    whole = Run(lines, settings).go()
    assert whole.metrics.refused_batches == {}
    sees = {event.name for event in METHODS[method].sees}
    assert set(whole.metrics.examples) - {"UNCLICKED", "CLICKED", "AGED", "OUTCOME"} <= sees
    assert whole.metrics.examples["AGED"] > 50
    middle = len(whole.cuts.committed) // 2
    clicks = whole.cuts.get(middle)[0].clicks
    assert len(clicks) > 10 if METHODS[method].adjusts else clicks == {}
    Run(lines, settings, resume=whole, cut=middle).go().assert_equals(whole)


@pytest.fixture(scope="module")
def tidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose lines may change places within the bound without a record becoming late."""
    clean = dict.fromkeys(("late_share", "malformed_share", "future_share", "disorder_share", "redelivered_share"), 0.0)
    return small_log(tmp_path_factory.mktemp("tidy") / "log", **TINY, **clean)


@pytest.mark.parametrize("method", METHODS)
def test_lines_shuffled_within_the_bound_give_the_same_under_every_method(tidy: Path, method: str) -> None:
    lines, time = lines_of(tidy), {"out_of_orderness_ms": 600_000, "alignment_ms": 700_000}
    settings = of_method(tidy, method, "composed", event_time=time)
    plain, mixed = Run(lines, settings).go(), Run(shuffled(lines), settings, block=97).go()
    assert mixed.output.files["examples.jsonl.zst"] == plain.output.files["examples.jsonl.zst"]
    for name, tensor in plain.tensors.items():
        assert torch.equal(tensor, mixed.tensors[name]), name
    assert mixed.pipeline._learner.snapshot().state == plain.pipeline._learner.snapshot().state
    assert mixed.clicks == plain.clicks


@pytest.mark.parametrize("delay_model", ["global", "heads"])
def test_every_delay_model_goes_on_from_a_cut_in_the_middle(tiny: Path, delay_model: str) -> None:
    settings = of_method(tiny, "ddfm", "composed")
    settings = msgspec.structs.replace(
        settings, labels=msgspec.structs.replace(settings.labels, delay_model=delay_model)
    )
    whole = Run(lines_of(tiny), settings).go()
    resumed = Run(lines_of(tiny), settings, resume=whole, cut=len(whole.cuts.committed) // 2).go()
    resumed.assert_equals(whole)
    if delay_model == "heads":
        heads = whole.pipeline._learner._teaching.heads
        assert heads is not None
        w_o = settings.windows.observation_window_ms
        late = [
            line
            for line in map(json.loads, whole.output.files["examples.jsonl.zst"].splitlines())
            if line["kind"] == "OUTCOME" and line["converted"] and line["conversion_ms"] - line["click_ms"] > w_o
        ]
        assert whole.tensors["delays.heads.late"] == len(late) > 10


def test_every_record_leaves_by_exactly_one_door(whole: Run, log: Path) -> None:
    metrics = whole.metrics
    read = sum(metrics.events.values())
    assert read == sum(len([line for line in lines if line]) for lines in lines_of(log).values())
    sides = sum(sum(kinds.values()) for kinds in metrics.side_outputs.values())
    rows = whole.output.rows("examples.jsonl.zst")
    held = [row for row in rows if row["slot"] == "click"]
    outcomes = [row for row in rows if row["slot"] == "outcome"]
    still_open = joins_of(whole.pipeline)[0].snapshot()
    open_facts = sum(
        (one.click_ms is not None) + (one.conversion_ms is not None) for one in still_open.opened.impressions
    )
    used = len(held) + len(outcomes) + sum(row["conversion_ms"] is not None for row in outcomes)
    # an open impression that has told its click is counted by `held` already; its facts are not
    used += open_facts + sum(one.click_ms is None for one in still_open.opened.impressions)
    waiting = [row for row in held if row["kind"] == "CLICKED"]
    assert len(waiting) - len(outcomes) == sum(one.click_ms is not None for one in still_open.opened.impressions)
    assert read == used + sides + metrics.held_facts + metrics.pending_records


def test_laws_of_the_labels(log: Path) -> None:
    run = Run(lines_of(log), small_settings(log, labels={"method": "survival"})).go(close_at_end=True)
    rows = run.output.rows("examples.jsonl.zst")
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == set(Kind.__members__) - {"MATURED", "ORACLE"}
    assert kinds["IMMEDIATE_POSITIVE"] + kinds["OBSERVED_NEGATIVE"] == kinds["CLICKED"] == kinds["OUTCOME"]
    positives = sum(row["kind"] == "OUTCOME" and bool(row["converted"]) for row in rows)
    assert kinds["IMMEDIATE_POSITIVE"] + kinds["DELAYED_POSITIVE"] == positives
    assert positives + kinds["REAL_NEGATIVE"] == kinds["CLICKED"]
    assert len({(row["impression_id"], row["slot"], row["impression_ms"]) for row in rows}) == len(rows)
    assert all(row["conversion_ms"] is None or row["conversion_ms"] <= row["due_ms"] for row in rows)
    assert all(row["click_ms"] is None or row["click_ms"] <= row["due_ms"] for row in rows)
    keys = [(row["due_ms"], row["impression_id"]) for row in rows]
    assert keys == sorted(keys)
    assert run.clicks == {}  # every click is settled, so none is remembered


def test_oracle_teaches_final_labels_at_the_click_and_only_those_that_mature(log: Path) -> None:
    run = Run(lines_of(log), small_settings(log, labels={"method": "oracle"})).go()
    rows = run.output.rows("examples.jsonl.zst")
    told = {row["impression_id"]: row for row in rows if row["kind"] == "ORACLE"}
    final = {row["impression_id"]: row for row in rows if row["kind"] == "OUTCOME"}
    assert told.keys() == final.keys()
    assert all(told[name]["conversion_ms"] == row["conversion_ms"] for name, row in final.items())
    assert all(row["due_ms"] >= row["click_ms"] for row in told.values())
    assert sum(row["converted"] for row in told.values()) > 50


def test_closed_at_its_end_nothing_stays_open(log: Path) -> None:
    run = Run(lines_of(log), small_settings(log)).go(close_at_end=True)
    metrics = run.metrics
    assert (metrics.open_impressions, metrics.held_facts, metrics.pending_records) == (0, 0, 0)
    assert run.cuts.get(-1)[0].ingest.is_closed


def test_published_weights_are_those_of_the_learner(whole: Run) -> None:
    tensors = decode(whole.publisher.published[-1]).tensors
    for name, tensor in whole.pipeline._learner.published().items():
        assert torch.equal(tensors[name], tensor), name


def test_too_many_refused_batches_end_the_run_and_are_kept(log: Path) -> None:
    settings = small_settings(log, safeguards={"loss_limit": 1e-9, "breaker_limit": 3})
    run = Run(lines_of(log), settings)
    with pytest.raises(RunEndedError, match=r"3 batches were refused, safeguards\.breaker_limit is 3"):
        run.go()
    kept = [name for name in run.output.files if name.startswith("batches_refused/")]
    assert kept == [f"batches_refused/{n:06d}.jsonl.zst" for n in (1, 2, 3)]
    head, *examples = run.output.rows(kept[0])
    assert "loss" in str(head["reason"])
    assert len(examples) == head["examples"]
    assert all("user_id" in example["features"] for example in examples)  # type: ignore[operator]
    assert all(row["step"] is None for row in run.output.rows("examples.jsonl.zst"))
    assert len(run.output.rows("predictions.jsonl.zst")) > 0


def test_what_a_refused_batch_was_to_settle_is_forgotten_all_the_same(tiny: Path) -> None:
    settings = of_method(tiny, "survival", "composed", safeguards={"loss_limit": 1e-9, "breaker_limit": 10**6})
    run = Run(lines_of(tiny), settings)
    clicked = [json.loads(line)["impression_id"] for line in lines_of(tiny)["clicks.jsonl"] if b"impression_id" in line]
    assert run.pipeline._clicks is not None
    run.pipeline._clicks.restore(dict.fromkeys(clicked, OpenClick(0.2, 0.0, 0.9)))
    run.go(close_at_end=True)
    settled = {row["impression_id"] for row in run.output.rows("examples.jsonl.zst") if row["kind"] == "OUTCOME"}
    assert run.metrics.refused_batches["exploding"] > 10
    assert len(settled) > 100
    assert not settled & run.clicks.keys()


def test_an_empty_log_gives_an_empty_run() -> None:
    run = Run({}, Settings()).go()
    assert run.metrics.watermark_ms is None
    assert run.metrics.steps == 0
    assert len(run.publisher.published) >= 1
