"""Killed anywhere and resumed, a replay leaves the same behind, bit for bit, as one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from mortal import Mortals
from worlds import HOUR_MS, small_log, small_settings

from models.weights import encode
from streaming.adapters.directory_source import DirectorySource, list_versions
from streaming.metrics import SIDE_OUTPUTS
from streaming.settings import dump
from streaming.whole import read_whole

KILLED = -signal.SIGKILL
PACKED = ("examples.jsonl.zst", "predictions.jsonl.zst")


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as started:
        yield started


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("crash") / "log", impressions=1_500, days=1.5, future_share=0.004)


@pytest.fixture(scope="module")
def config(log: Path) -> Path:
    path = log.parent / "small.toml"
    settings = small_settings(log, cuts={"cut_interval_ms": 6 * HOUR_MS}, labels={"method": "survival"})
    path.write_text(dump(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def unharmed(mortals: Mortals, log: Path, config: Path) -> dict[str, object]:
    out = log.parent / "unharmed"
    assert mortals.run("replay", log, "--out", out, "--config", config) == 0
    return left_behind(out)


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def left_behind(out: Path) -> dict[str, object]:
    """All that a run leaves behind, but for what tells how often it was started."""
    cut = max(path for path in (out / "cuts").iterdir() if path.name.isdigit())
    state = msgspec.msgpack.decode((cut / "state.msgpack").read_bytes())
    weights = out / "weights" / (out / "weights" / "current").read_text(encoding="utf-8").strip()
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found: dict[str, object] = {name: unpacked(out / name) for name in PACKED}
    for door in SIDE_OUTPUTS:
        path = out / f"{door}.jsonl"
        found[path.name] = path.read_bytes() if path.exists() else b""
    found["cut"] = cut.name
    found["learner"] = (cut / "tensors.safetensors").read_bytes()
    found["state"] = {name: value for name, value in state.items() if name not in ("lengths", "counts")}
    found["weights"] = {path.name: path.read_bytes() for path in weights.glob("*.safetensors")}
    found["version"] = weights.name.partition("-")[2]
    found["metrics"] = {name: value for name, value in metrics.items() if name != "weights_epoch"}
    return found


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


def test_the_run_that_all_are_held_against_has_something_in_every_part(unharmed: dict[str, object]) -> None:
    assert unharmed["weights"]
    assert unharmed["state"]["clicks"]  # type: ignore[index]
    empty = [name for name in (*PACKED, *(f"{door}.jsonl" for door in SIDE_OUTPUTS)) if not unharmed[name]]
    assert empty == []
    assert int(str(unharmed["cut"])) >= 8


@pytest.mark.parametrize("occurrence", ["", "@4"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_killed_before_each_step_of_a_cut(
    mortals: Mortals, log: Path, config: Path, unharmed: dict[str, object], tmp_path: Path, step: int, occurrence: str
) -> None:
    out = tmp_path / "run"
    crash = {"AFTERCLICK_CRASH_AT": f"{step}{occurrence}"}
    assert mortals.run("replay", log, "--out", out, "--config", config, environ=crash) == KILLED
    assert mortals.run("replay", log, "--out", out, "--config", config, "--resume") == 0
    assert_same(left_behind(out), unharmed)


def test_killed_at_each_step_of_one_cut_after_the_other(
    mortals: Mortals, log: Path, config: Path, unharmed: dict[str, object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for step in (4, 3, 5, 2, 1):
        crash = {"AFTERCLICK_CRASH_AT": f"{step}@2"}
        assert mortals.run("replay", log, "--out", out, "--config", config, "--resume", environ=crash) == KILLED
    assert mortals.run("replay", log, "--out", out, "--resume") == 0
    assert_same(left_behind(out), unharmed)


@pytest.fixture(scope="module")
def often(mortals: Mortals, log: Path) -> tuple[Path, dict[str, object]]:
    """Settings with deltas between cuts, and what a run under them leaves behind."""
    path, out = log.parent / "often.toml", log.parent / "often"
    publishing = {"delta_interval_ms": HOUR_MS, "least_interval_ms": 0, "snapshot_every": 5}
    settings = small_settings(log, cuts={"cut_interval_ms": 6 * HOUR_MS}, publishing=publishing)
    path.write_text(dump(settings), encoding="utf-8")
    assert mortals.run("replay", log, "--out", out, "--config", path) == 0
    return path, left_behind(out)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_killed_after_deltas_and_before_their_cut_readers_end_at_the_same_weights(
    mortals: Mortals, log: Path, often: tuple[Path, dict[str, object]], tmp_path: Path, step: int
) -> None:
    config, expected = often
    out = tmp_path / "run"
    crash = {"AFTERCLICK_CRASH_AT": f"{step}@3"}
    assert mortals.run("replay", log, "--out", out, "--config", config, environ=crash) == KILLED
    source = DirectorySource(out / "weights")
    before = source.current()
    assert before is not None
    assert read_whole(source, *before).manifest.epoch == 1
    assert mortals.run("replay", log, "--out", out, "--config", config, "--resume") == 0
    assert_same(left_behind(out), expected)
    after = source.current()
    assert after is not None
    assert after[0] == 2
    of_epoch = [listed.manifest for listed in list_versions(out / "weights") if listed.name.startswith("000002-")]
    assert all(each is not None for each in of_epoch)
    whole = read_whole(source, *after)
    assert encode(whole).parts == {
        name: source.fetch(*after).parts[name] for name in ("dense.safetensors", "rows.safetensors")
    }


def bytes_in(out: Path) -> int:
    """Bytes in a run directory now, however it changes while it is looked at."""
    found = 0
    for folder, _, names in os.walk(out):
        for name in names:
            try:
                found += (Path(folder) / name).stat().st_size
            except FileNotFoundError:
                continue
    return found


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_moments_that_nobody_chose(
    mortals: Mortals, log: Path, config: Path, unharmed: dict[str, object], tmp_path: Path, seed: int
) -> None:
    out, rng = tmp_path / "run", random.Random(seed)
    most = bytes_in(log.parent / "unharmed")

    def doom_after(share: float) -> Callable[[], bool]:
        return lambda: bytes_in(out) > share * most

    ended = [
        mortals.run("replay", log, "--out", out, "--config", config, "--resume", doom=doom_after(share))
        for share in (rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.9))
    ]
    assert ended[0] == KILLED
    assert mortals.run("replay", log, "--out", out, "--resume") == 0
    assert_same(left_behind(out), unharmed)


def test_stopped_by_its_user_a_replay_says_how_to_go_on(
    mortals: Mortals, log: Path, config: Path, unharmed: dict[str, object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = mortals.run(
        "replay", log, "--out", out, "--config", config, "--speed", 1_000,
        doom=(out / "run.json").exists, by=signal.SIGINT, stderr=tmp_path / "stderr",
    )  # fmt: skip
    told = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert ended == 1
    assert "afterclick: error: stopped; what was done up to the last cut is kept: go on with --resume" in told
    assert mortals.run("replay", log, "--out", out, "--resume") == 0
    assert_same(left_behind(out), unharmed)
