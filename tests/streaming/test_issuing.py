"""Versions of a run: deltas that add up to what the learner has, at cuts and between them; refused ones kept, and what training does then."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
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
from streaming.set_aside import SetAside
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


@pytest.mark.parametrize(("share", "kept"), [(0.0, 100), (0.4, 40)])
def test_labels_are_compared_with_what_the_version_served_said_of_them(log: Path, share: float, kept: int) -> None:
    rules = {"log_loss_ratio_most": 2.0, "calibration_most": 100.0, "outcomes_least": 20, "outcomes_kept": kept}
    rules |= {"held_out_share": share}
    line = Line(log, gate=rules).go()
    assert line.pipeline.metrics().refused_versions == {}
    compared = line.pipeline._issuing._held_out.compared(line.pipeline._issuing._pcvr)
    assert len(compared.converted) == kept
    assert 0 < compared.converted.sum() < kept
    assert (compared.served == compared.pcvr).all()  # nothing was learned since the last version
    strict = Line(log, gate=rules | {"calibration_most": 1e-3}).go()
    assert strict.pipeline.metrics().refused_versions["calibration"] > 1


JUDGING = {"calibration_most": 1.02, "outcomes_least": 10, "held_out_share": 0.3}


def without_held_out_conversions(log: Path, out: Path) -> Path:
    """The log, in which nobody converts of those that are held out; the last conversion stays, as the watermark ends with it."""
    aside = SetAside(JUDGING["held_out_share"])
    shutil.copytree(log, out)
    for name, lines in lines_of(log).items():
        decoded = [msgspec.json.decode(line) for line in lines]
        last_ms = max(one["event_time_ms"] for one in decoded)
        is_gone = [
            name == "conversions.jsonl" and aside.has(one["impression_id"]) and one["event_time_ms"] < last_ms
            for one in decoded
        ]
        kept = [line for line, gone in zip(lines, is_gone, strict=True) if not gone]
        assert name != "conversions.jsonl" or 10 < len(kept) < len(lines) - 10
        (out / name).write_bytes(b"".join(line + b"\n" for line in kept))
    return out


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(
        tmp_path_factory.mktemp("judging") / "log", impressions=1_500, days=2.0, malformed_share=0.0, future_share=0.0
    )


@pytest.mark.parametrize(("method", "objective"), [("mature", "esmm"), ("survival", "esmm"), ("dfm", "composed")])
def test_the_labels_that_judge_make_no_difference_to_what_is_learned(
    clean: Path, tmp_path: Path, method: str, objective: str
) -> None:
    # A conversion more or less moves the largest due time of a batch by a little, and with it all that forgets by event time: here nothing does.
    other, forever = without_held_out_conversions(clean, tmp_path / "other"), 10**14
    sections = {
        "gate": JUDGING,
        "labels": {"method": method, "growth": False, "delay_half_life_ms": forever},
        "batching": {"batch_size": 256, "batch_interval_ms": HOUR_MS, "kappa_half_life_ms": forever},
        "network": {"towers": (8,), "threads": 1, "objective": objective},
        "recalibrating": {"kind": "platt", "least_conversions": 5.0, "half_life_ms": forever},
    }
    one, two = (Line(log, **sections).go().pipeline for log in (clean, other))
    mine, theirs = one._learner.snapshot(), two._learner.snapshot()
    assert mine.state["teaching"]["kappa"]["mass"] == pytest.approx(theirs.state["teaching"]["kappa"]["mass"], rel=1e-6)
    for name, tensor in (mine.tensors | one._calibrating.published()).items():
        if name.endswith((".touched", ".touched_ms")):  # a row that teaches nothing is looked up all the same
            continue
        torch.testing.assert_close(
            tensor, (theirs.tensors | two._calibrating.published())[name], rtol=1e-4, atol=1e-6, msg=name
        )
    said = [each._issuing._held_out.compared(each._issuing._pcvr) for each in (one, two)]
    assert said[0].converted.sum() > 10
    assert said[1].converted.sum() <= 1
    np.testing.assert_allclose(said[0].pcvr, said[1].pcvr, rtol=1e-5)


def test_who_is_held_out_is_predicted_and_scored_and_its_lines_say_that_nothing_was_taught(clean: Path) -> None:
    aside = SetAside(JUDGING["held_out_share"])
    line, without = Line(clean, gate=JUDGING).go(), Line(clean).go()
    rows, others = (each.output.rows("examples.jsonl.zst") for each in (line, without))
    assert [(row["impression_id"], row["kind"]) for row in rows] == [
        (row["impression_id"], row["kind"]) for row in others
    ]
    for row, other in zip(rows, others, strict=True):
        nothing = [row[key] is None for key in ("pos", "neg", "step")]
        if aside.has(row["impression_id"]) or other["pos"] is None:
            assert all(nothing), row
        else:
            assert not any(nothing), row
    mine, theirs = line.pipeline.metrics(), without.pipeline.metrics()
    assert mine.tasks["ctr"]["model"].n == theirs.tasks["ctr"]["model"].n
    assert 0.6 < mine.taught / theirs.taught < 0.8


def test_a_run_that_goes_on_from_a_cut_judges_its_versions_as_one_that_was_never_killed(clean: Path) -> None:
    rules = JUDGING | {"log_loss_ratio_most": 1.001, "on_refusal": "fall_back"}
    sections = {"gate": rules, "cuts": {"cut_interval_ms": 3 * HOUR_MS}}
    first = Line(clean, **sections).go()
    refused = first.pipeline.metrics().refused_versions
    assert sum(refused.values()) > 1
    assert first.versions
    for cut in range(len(first.cuts.committed) - 1):
        resumed = Line(clean, resume=first, cut=cut, **sections).go()
        assert resumed.pipeline.metrics().refused_versions == refused, cut
        one, other = first.pipeline._learner.snapshot(), resumed.pipeline._learner.snapshot()
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()), cut
        judged = [line.cuts.get(-1)[0].judged for line in (first, resumed)]
        assert judged[0].outcomes == judged[1].outcomes
        assert repr(judged[0].served) == repr(judged[1].served)
        assert judged[0].has_passed == judged[1].has_passed


def test_without_a_rule_over_labels_nothing_is_held_out(clean: Path) -> None:
    ruled, without = Line(clean, gate={"row_norm_most": 1e6}).go(), Line(clean).go()
    one, other = ruled.pipeline._learner.snapshot(), without.pipeline._learner.snapshot()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    assert ruled.cuts.get(-1)[0].judged.outcomes is None
