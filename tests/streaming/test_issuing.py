"""Versions of a run: deltas that add up to what the learner has, at cuts and between them; refused ones kept, and what training does then."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput
from worlds import HOUR_MS, lines_of, small_log, small_settings

from models.delta import applied, whole
from models.manifest import Published
from models.weights import Weights, decode
from streaming.gate import VersionRefusedError
from streaming.ingest import Ingest
from streaming.pipeline import Pipeline
from streaming.ports import HeldError, StaleVersionError
from streaming.settings import Settings


class Line:
    """A pipeline over a log in memory, with all that it published."""

    def __init__(
        self, log: Path, *, block: int = 400, resume: Line | None = None, cut: int = -1, monotonic_ms=None, **sections
    ) -> None:
        sections = {"cuts": {"cut_interval_ms": 12 * HOUR_MS}} | sections
        self.log = log
        self.settings: Settings = small_settings(log, **sections)
        self.output, self.cuts, self.publisher = MemoryOutput(), MemoryCuts(), ListPublisher()
        state, tensors = (None, {}) if resume is None else resume.cuts.get(cut)
        source = ListLog(lines_of(log), self.settings, None if state is None else state.ingest.places, block=block)
        self.pipeline = Pipeline(
            self.settings,
            feed=Ingest(self.settings, source),
            output=self.output,
            cuts=self.cuts,
            publisher=self.publisher,
            monotonic_ms=monotonic_ms,
        )
        if state is not None:
            self.publisher.epochs += 1
            self.pipeline._counts.weights_epoch = self.publisher.epochs
            self.pipeline.restore(state, tensors)

    def go(self) -> Line:
        for _ in self.pipeline.run():
            pass
        return self

    @property
    def versions(self) -> list[int]:
        return [each.manifest.version for each in self.publisher.published]

    @property
    def kinds(self) -> str:
        """S for each snapshot and d for each delta."""
        return "".join("S" if each.manifest.kind == "snapshot" else "d" for each in self.publisher.published)


def followed(published: list[Published]) -> Weights:
    """What a reader has that took every version in turn."""
    has: Weights | None = None
    for each in published:
        found = decode(each)
        if found.manifest.kind == "snapshot":
            has = whole(found)
        else:
            assert has is not None
            has = applied(has, found)
    assert has is not None
    return has


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("issuing") / "log", impressions=1_500, days=2.0)


BETWEEN = {"snapshot_every": 4, "delta_interval_ms": 2 * HOUR_MS}


def test_versions_at_cuts_are_deltas_with_a_snapshot_now_and_then_and_at_the_end(log: Path) -> None:
    line = Line(log, publishing={"snapshot_every": 3}).go()
    assert line.kinds.startswith("SddS")
    assert line.kinds.endswith("S")
    assert line.versions == list(range(1, len(line.versions) + 1))
    deltas = [each for each in line.publisher.published if each.manifest.kind == "delta"]
    assert all(each.manifest.base_version == each.manifest.version - 1 for each in deltas)


@pytest.mark.parametrize("max_rows", [None, 150])
def test_a_reader_that_took_every_delta_has_what_the_learner_has(log: Path, max_rows: int | None) -> None:
    network = {"towers": (16, 8), "threads": 1, "max_rows": max_rows}
    line = Line(log, block=50, publishing={"snapshot_every": 1_000, "delta_interval_ms": HOUR_MS}, network=network).go()
    assert line.kinds.count("d") > 12
    has, last = followed(line.publisher.published[:-1]), decode(line.publisher.published[-1])
    snapshots = Line(
        log, block=50, publishing={"snapshot_every": 1, "delta_interval_ms": HOUR_MS}, network=network
    ).go()
    assert set(snapshots.kinds) == {"S"}
    expected = decode(snapshots.publisher.published[len(line.versions) - 2])
    assert has.manifest.name == expected.manifest.name
    for name, tensor in expected.tensors.items():
        assert torch.equal(has.tensors[name], tensor), name
    for name, tensor in line.pipeline._learner.published().items():
        assert torch.equal(last.tensors[name], tensor), name


def test_publishing_between_cuts_changes_nothing_that_is_learned(log: Path) -> None:
    one, other = Line(log, block=50).go(), Line(log, block=50, publishing=BETWEEN).go()
    mine, others = one.pipeline._learner.snapshot(), other.pipeline._learner.snapshot()
    assert mine.state == others.state
    assert all(torch.equal(tensor, others.tensors[name]) for name, tensor in mine.tensors.items())
    assert len(other.versions) > 2 * len(one.versions)


def test_version_numbers_at_cuts_do_not_depend_on_how_the_log_is_read(log: Path) -> None:
    lines = [Line(log, block=block, publishing=BETWEEN).go() for block in (97, 400)]
    cuts = [[line.cuts.get(at)[0].weights_version for at in range(len(line.cuts.committed))] for line in lines]
    assert cuts[0] == cuts[1]
    assert lines[0].versions[-1] == lines[1].versions[-1]


def test_catching_up_publishes_no_more_often_than_the_settings_say(log: Path) -> None:
    # Processing time stands still: one version between cuts, and then the least interval is never over.
    hurried = Line(log, publishing=BETWEEN, monotonic_ms=lambda: 7).go()
    at_leisure = Line(log, publishing=BETWEEN).go()
    assert len(hurried.versions) == len(hurried.cuts.committed) + 2
    assert hurried.versions[-1] == at_leisure.versions[-1]


def test_a_run_killed_after_a_delta_and_before_its_cut_goes_on_under_a_new_epoch_with_a_snapshot(log: Path) -> None:
    # first run   cut 2 | 2-hour deltas of epoch 1 ....... killed
    # resumed     cut 2 | learned again: deltas of epoch 2, the first of them a snapshot ...
    first = Line(log, publishing=BETWEEN).go()
    resumed = Line(log, publishing=BETWEEN, resume=first, cut=1).go()
    assert {each.manifest.epoch for each in resumed.publisher.published} == {2}
    assert resumed.kinds[0] == "S"
    assert resumed.publisher.published[0].manifest.version > first.cuts.get(1)[0].weights_version
    has, end = followed(resumed.publisher.published), followed(first.publisher.published)
    assert has.manifest.version == end.manifest.version
    assert all(torch.equal(has.tensors[name], tensor) for name, tensor in end.tensors.items())
    # What was learned again has the same bits: at each cut there is one version of either epoch.
    for version in [first.cuts.get(at)[0].weights_version for at in range(1, len(first.cuts.committed))][1:]:
        one, other = (
            followed([each for each in line.publisher.published if each.manifest.version <= version])
            for line in (first, resumed)
        )
        assert one.manifest.version == other.manifest.version == version
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items()), version


@pytest.mark.parametrize(
    "error",
    [HeldError("held"), StaleVersionError("rolled back", current="000001-0009999999")],
    ids=["held", "released before it was noticed"],
)
def test_while_publishing_is_held_training_goes_on_and_a_snapshot_comes_after(log: Path, error: Exception) -> None:
    line = Line(log)
    running = line.pipeline.run()
    for _ in running:
        if len(line.versions) == 2:
            break
    line.publisher.refuses = error
    for _ in running:
        if line.pipeline.metrics().refused_versions.get("held") == 2:
            break
    line.publisher.refuses = None
    for _ in running:
        pass
    assert line.versions[2] == 5
    assert line.kinds.startswith("SdS")
    assert line.pipeline.metrics().refused_versions == {"held": 2}


def test_a_run_that_another_has_taken_over_from_ends(log: Path) -> None:
    line = Line(log)
    line.publisher.refuses = StaleVersionError("a newer run publishes here", current="000002-0000000001")
    with pytest.raises(StaleVersionError, match="a newer run"):
        line.go()


NEVER = {"row_norm_most": 1e-6}


def test_a_refused_version_is_kept_with_its_reason_and_training_goes_on(log: Path) -> None:
    line = Line(log, gate=NEVER).go()
    metrics = line.pipeline.metrics()
    assert line.versions == []
    assert metrics.refused_versions == {"norm": metrics.weights_version}
    assert len(line.publisher.kept) == metrics.weights_version
    assert "gate.row_norm_most is 1e-06" in line.publisher.kept[0][1]
    assert metrics.steps > 50


def test_a_refused_version_stops_the_run_if_it_is_to(log: Path) -> None:
    line = Line(log, gate=NEVER | {"on_refusal": "stop"})
    with pytest.raises(
        VersionRefusedError, match=r"version 000001-0000000001 was refused: .*kept in weights/refused.*--resume"
    ):
        line.go()
    assert len(line.publisher.kept) == 1


def test_a_refused_version_makes_training_fall_back_to_the_last_that_passed(log: Path) -> None:
    line = Line(log, gate={"row_norm_most": 1e6, "on_refusal": "fall_back"})
    running = line.pipeline.run()
    for _ in running:
        if len(line.versions) == 2:
            break
    passed = followed(line.publisher.published)
    line.pipeline._issuing._rules = msgspec.structs.replace(line.settings.gate, row_norm_most=1e-6)
    for _ in running:
        if line.publisher.kept:
            break
    for name, tensor in line.pipeline._learner.published().items():
        assert torch.equal(tensor, passed.tensors[name]), name
    line.pipeline._issuing._rules = line.settings.gate
    for _ in running:
        pass
    assert line.kinds.startswith("SdS")  # what fell back is no delta to anything
    expected = line.pipeline._learner.published()
    assert all(
        torch.equal(decode(line.publisher.published[-1]).tensors[name], tensor) for name, tensor in expected.items()
    )


def test_outcomes_are_compared_with_what_the_version_served_said_of_them(log: Path) -> None:
    rules = {"log_loss_ratio_most": 1.5, "calibration_most": 100.0, "outcomes_least": 20, "outcomes_kept": 100}
    line = Line(log, gate=rules).go()
    assert line.pipeline.metrics().refused_versions == {}
    compared = line.pipeline._issuing._held_out.compared(line.pipeline._issuing._pcvr)
    assert len(compared.converted) == 100
    assert 0 < compared.converted.sum() < 100
    assert (compared.served == compared.pcvr).all()  # nothing was learned since the last version
    strict = Line(log, gate=rules | {"calibration_most": 1e-3}).go()
    assert strict.pipeline.metrics().refused_versions["calibration"] > 1
