"""Replays that begin with published weights: what they score, how they say it, what is refused, and what a crash before the first cut costs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mortal import Mortals
from worlds import HOUR_MS, lines_of, small_log, small_settings

from models.manifest import DamagedWeightsError
from models.schema import Feature
from models.weights import Weights
from streaming.adapters.directory_source import DirectorySource
from streaming.adapters.run_directory import RunDirectoryError
from streaming.cli import main
from streaming.features import FeatureReader
from streaming.reader import WeightsReader
from streaming.replay import Replay
from streaming.settings import Settings, SettingsError, dump
from streaming.warm_start import weights_named

FIRST_DAYS = 3
KILLED = -9


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(
        tmp_path_factory.mktemp("warm") / "log",
        malformed_share=0.0,
        future_share=0.0,
        orphan_share=0.0,
        days=4.0,
        impressions=8_000,
    )


@pytest.fixture(scope="module")
def parts(log: Path) -> tuple[Path, Path]:
    """The log's first days, and the day after them."""
    lines = lines_of(log)
    shown = [msgspec.json.decode(line) for line in lines["impressions.jsonl"]]
    border = min(one["event_time_ms"] for one in shown) + FIRST_DAYS * 24 * HOUR_MS
    early = {one["impression_id"] for one in shown if one["event_time_ms"] < border}
    made = log.parent / "early", log.parent / "late"
    for folder, is_early in zip(made, (True, False), strict=True):
        folder.mkdir()
        shutil.copy(log / "settings.toml", folder)
        for name, own in lines.items():
            chosen = [line for line in own if (msgspec.json.decode(line)["impression_id"] in early) is is_early]
            (folder / name).write_bytes(b"".join(line + b"\n" for line in chosen))
    return made


@pytest.fixture(scope="module")
def settings(log: Path) -> Settings:
    return small_settings(log, publishing={"snapshot_every": 3}, labels={"method": "es_dfm"})


@pytest.fixture(scope="module")
def published(parts: tuple[Path, Path], settings: Settings) -> Path:
    """A run over the first days, which has published."""
    run = parts[0].parent / "published"
    replayed(parts[0], run, settings)
    return run


def replayed(log: Path, out: Path, settings: Settings, named: str | None = None, *, resume: bool = False) -> Replay:
    start = None if named is None else weights_named(named, settings, {})
    replay = Replay(log, out, settings, warm_start=start, resume=resume, tell=pytest.fail)
    for _ in replay.run():
        pass
    return replay


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code of a command line, and what it said on stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, " ".join(capsys.readouterr().err.split())


def others(settings: Settings) -> Settings:
    """One feature less, and one more."""
    _, *rest = settings.features
    new = Feature(name=f"{rest[0].name}_alone", kind=rest[0].kind, path=rest[0].path or rest[0].name)
    return msgspec.structs.replace(settings, features=(*rest, new))


def test_a_run_that_begins_with_weights_scores_as_they_do(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path
) -> None:
    start = weights_named(str(published), settings, {})
    replay = Replay(parts[1], tmp_path / "run", settings, warm_start=start)
    rows = [
        msgspec.json.encode(msgspec.json.decode(line)["features"])
        for line in lines_of(parts[1])["impressions.jsonl"][:500]
    ]
    reader = WeightsReader(DirectorySource(published / "weights"), clock=lambda: 0)
    assert reader.poll()
    said, own = reader.score(rows), replay.pipeline._learner.predict_many(FeatureReader(settings.features).read(rows))
    np.testing.assert_allclose(own.pctr, said.pctr, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(own.pcvr, said.pcvr, rtol=1e-6, atol=1e-7)
    assert replay.begun_with[0].startswith(f"begins with version {said.manifest.name}, es_dfm: ")
    assert "Adagrad sums" in replay.begun_with[-1]
    for _ in replay.run():
        pass


def test_the_first_day_is_predicted_better_than_from_a_cold_start(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path
) -> None:
    cold = replayed(parts[1], tmp_path / "cold", settings).pipeline.metrics().tasks
    for name, own in (("warm", settings), ("other", others(settings))):
        warm = replayed(parts[1], tmp_path / name, own, str(published)).pipeline.metrics().tasks
        for task in ("ctr", "cvr"):
            entropies = [found[task]["model"].normalized_entropy for found in (warm, cold)]
            assert entropies[0] < entropies[1], (name, task, entropies)


def test_what_became_of_each_feature_is_told_and_kept_with_the_run(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = others(settings)
    (tmp_path / "own.toml").write_text(dump(own), encoding="utf-8")
    command = ("replay", parts[1], "--out", tmp_path / "run", "--config", tmp_path / "own.toml")
    code, said = asked(capsys, *command, "--warm-start", published)
    assert code == 0, said
    told = (tmp_path / "run" / "warm_start" / "told.txt").read_text()
    assert all(line in said for line in told.splitlines())
    assert f"taken over: {', '.join(each.name for each in settings.features[1:])}" in told
    assert f"fresh: {own.features[-1].name} (new)" in told
    assert f"dropped: {settings.features[0].name};" in told


def test_a_run_that_has_a_cut_goes_on_from_it_and_reads_no_weights(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path
) -> None:
    replayed(parts[1], tmp_path / "run", settings, str(published))

    def read() -> Weights:
        pytest.fail("the weights were read again")

    resumed = Replay(parts[1], tmp_path / "run", settings, warm_start=read, resume=True)
    assert resumed.begun_with == []
    assert sum(resumed.run()) == 0


def test_a_version_may_be_named(parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path) -> None:
    names = sorted(path.name for path in (published / "weights").glob("0*-*"))
    replay = Replay(
        parts[1], tmp_path / "run", settings, warm_start=weights_named(f"{published}/weights:{names[-2]}", settings, {})
    )
    assert names[-2] in replay.begun_with[0]
    for _ in replay.run():
        pass


def test_damaged_weights_are_refused_by_name_and_nothing_is_begun(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path
) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(published / "weights", copy)
    rows = copy / (copy / "current").read_text().strip() / "rows.safetensors"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    with pytest.raises(
        DamagedWeightsError, match=r"--warm-start .*: rows.safetensors of version 000001-\d+ is damaged"
    ):
        replayed(parts[1], tmp_path / "run", settings, str(copy))
    replayed(parts[1], tmp_path / "run", settings, str(published))  # --out is as fresh as it was


REFUSED = {
    "another network": ({"towers": (8,)}, "", 2, "network.towers = [16, 8], these settings have [8]"),
    "no such directory": ({}, "/nowhere", 1, "--warm-start /nowhere is no directory"),
    "no such version": ({}, ":000009-0000000009", 1, "has no version '000009-0000000009'"),
    "together with --resume": ({}, " --resume", 2, "--warm-start {named} and --resume do not go together"),
}


@pytest.mark.parametrize(("network", "behind", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_begun_with_is_refused(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    network: dict[str, object], behind: str, code: int, says: str,
) -> None:  # fmt: skip
    own = msgspec.structs.replace(settings, network=msgspec.structs.replace(settings.network, **network))
    (tmp_path / "own.toml").write_text(dump(own), encoding="utf-8")
    named = behind if behind.startswith("/") else f"{published}{behind.removesuffix(' --resume')}"
    more = ("--resume",) if behind.endswith("--resume") else ()
    command = ("replay", parts[1], "--out", tmp_path / "run", "--config", tmp_path / "own.toml", "--warm-start", named)
    found, said = asked(capsys, *command, *more)
    assert found == code, said
    assert says.format(named=named) in said
    assert not (tmp_path / "run" / "settings.toml").exists()


def test_who_begins_again_with_another_network_is_told(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path
) -> None:
    replayed(parts[1], tmp_path / "run", settings, str(published))
    shutil.rmtree(tmp_path / "run" / "cuts")  # as if it had come to none
    other = msgspec.structs.replace(settings, network=msgspec.structs.replace(settings.network, towers=(4,)))
    with pytest.raises(SettingsError, match=r"warm_start, which this run began with: .*network.towers = \[16, 8\]"):
        Replay(parts[1], tmp_path / "run", other, resume=True)


def test_a_start_that_was_broken_off_is_not_taken_for_a_cold_one(
    parts: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "run" / "warm_start").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="holds no weights, since the run was broken off as it began"):
        Replay(parts[1], tmp_path / "run", settings, resume=True)


def test_no_version_published_yet_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has no current version"):
        weights_named(str(tmp_path), settings, {})()


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as started:
        yield started


def test_killed_before_its_first_cut_it_begins_with_the_same_weights_again(
    parts: tuple[Path, Path], published: Path, settings: Settings, tmp_path: Path, mortals: Mortals
) -> None:
    whole = replayed(parts[1], tmp_path / "whole", settings, str(published))
    (tmp_path / "own.toml").write_text(dump(settings), encoding="utf-8")
    run = tmp_path / "run"
    command = ("replay", parts[1], "--out", run, "--config", tmp_path / "own.toml", "--processes", "1")
    crash = {"AFTERCLICK_CRASH_AT": "1@1"}
    assert mortals.run(*command, "--warm-start", published, environ=crash) == KILLED
    resumed = replayed(parts[1], run, settings, resume=True)
    one, other = (each.pipeline._learner.snapshot() for each in (whole, resumed))
    assert all((one.tensors[name].numpy() == other.tensors[name].numpy()).all() for name in one.tensors)
    assert one.state == other.state
