"""The command line as a user runs it: what it prints, what it leaves behind, and what it says when something is wrong."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from disks import full_disk
from worlds import small_settings

from streaming.cli import app, main
from streaming.settings import Settings, dump


@dataclass(frozen=True)
class Told:
    """What a command left on its three ways out."""

    code: int
    out: str
    err: str


Afterclick = Callable[..., Told]


@pytest.fixture
def afterclick(capsys: pytest.CaptureFixture[str]) -> Afterclick:
    """Runs a command line in this process: starting one costs seconds, most of them torch's."""

    def run(*arguments: object) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return Told(code if isinstance(code, int) else 1, captured.out, " ".join(captured.err.split()))

    return run


def quietly(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "log"
    dials = ("ctr=0.15", "cvr=0.4", "malformed_share=0.004", "attribution_window_ms=43200000", "users=300", "items=300")
    quietly("generate", path, "--impressions", 2_000, "--days", 2, *(f"--dial={dial}" for dial in dials))
    return path


@pytest.fixture(scope="module")
def config(log: Path) -> Path:
    path = log.parent / "small.toml"
    path.write_text(dump(small_settings(log)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(log: Path, config: Path) -> Path:
    """A run, to be looked at only."""
    quietly("replay", log, "--out", log.parent / "run", "--config", config)
    return log.parent / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be harmed."""
    return shutil.copytree(finished, tmp_path / "run")


def figures(run: Path) -> dict[str, object]:
    metrics: dict[str, object] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {name: value for name, value in metrics.items() if name != "weights_epoch"}


# --- what it does ----------------------------------------------------------------------------------------------------------------


def test_the_command_is_installed_and_starts_in_a_process_of_its_own() -> None:
    command = "import sys; from streaming.cli import main; sys.argv[0] = 'afterclick'; main()"
    told = subprocess.run([sys.executable, "-c", command, "--help"], capture_output=True, text=True, check=True)
    for name in ("init", "check", "generate", "import", "replay", "verify", "explain", "report", "weights"):
        assert name in told.stdout
    assert "Usage: afterclick" in told.stdout


def test_generate_tells_what_is_in_the_world(afterclick: Afterclick, tmp_path: Path) -> None:
    told = afterclick("generate", tmp_path / "log", "--impressions", 500, "--clean", "--seed", 7)
    assert told.code == 0
    assert "impressions  500" in told.out
    assert "went wrong   nothing" in told.out
    assert len((tmp_path / "log" / "impressions.jsonl").read_bytes().splitlines()) == 500
    summary = json.loads(afterclick("generate", tmp_path / "2", "--impressions", 500, "--json").out)
    assert summary["impressions"] == 500


@pytest.mark.parametrize("words", [("list",), ("show",), ("rollback", "000001-0000000001"), ("release",)])
def test_of_a_directory_that_is_no_run_no_weights_are_looked_at_or_released(
    words: tuple[str, ...], afterclick: Afterclick, log: Path
) -> None:
    before = sorted(log.rglob("*"))
    command, *rest = words
    done = afterclick("weights", command, log, *rest)
    assert done.code == 1
    assert f"RUN {log} holds no weights: name the directory that" in " ".join(done.err.split())
    assert sorted(log.rglob("*")) == before


def test_what_calls_replay_goes_on_after_it(log: Path, config: Path, tmp_path: Path) -> None:
    app(["replay", str(log), "--config", str(config), "--out", str(tmp_path / "run")], standalone_mode=False)
    assert (tmp_path / "run" / "metrics.json").is_file()  # the demo is such a caller: it verifies and reports after it


def test_a_start_that_is_refused_leaves_nothing_behind(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    away = tmp_path / "away.toml"
    away.write_text(
        f"{(log / 'settings.toml').read_text()}\n"
        '[publishing]\ntargets = ["directory", "redis"]\n[redis]\nurl = "redis://127.0.0.1:9/0"\ntimeout_ms = 200\n'
    )
    refused = afterclick("replay", log, "--config", away, "--out", tmp_path / "run")
    assert (refused.code, "redis://127.0.0.1:9/0" in refused.err) == (1, True)
    assert list((tmp_path / "run").iterdir()) == []
    assert afterclick("replay", log, "--config", log / "settings.toml", "--out", tmp_path / "run").code == 0


def test_init_of_a_log_that_cannot_be_read_says_so_where_it_is_seen(afterclick: Afterclick, tmp_path: Path) -> None:
    (tmp_path / "impressions.jsonl").write_bytes(b"\xff rubbish\n" * 5)
    done = afterclick("init", tmp_path)
    count = done.out.count("# WARNING: ")
    assert count > 0
    assert f"begin with WARNING ({count}): read them before you use these" in " ".join(done.err.split())


def test_init_writes_settings_that_replay_takes(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    told = afterclick("init", log)
    assert told.code == 0
    assert "click_window_ms" in told.out
    (tmp_path / "init.toml").write_text(told.out + "\n[batching]\n", encoding="utf-8")
    assert afterclick("check", log, "--config", tmp_path / "init.toml").code == 2  # [batching] stands there twice now
    (tmp_path / "init.toml").write_text(told.out, encoding="utf-8")
    assert afterclick("check", log, "--config", tmp_path / "init.toml").code == 0


def test_check_tells_what_is_in_a_log(afterclick: Afterclick, log: Path) -> None:
    told = afterclick("check", log)
    assert told.code == 0
    assert "windows.click_window_ms" in told.out
    found = json.loads(afterclick("check", log, "--json").out)
    assert found["log"] == str(log)
    assert found["streams"][0]["records"] > 2_000


def test_replay_leaves_a_run_and_tells_its_figures(
    afterclick: Afterclick, log: Path, config: Path, tmp_path: Path
) -> None:
    told = afterclick("replay", log, "--out", tmp_path / "run", "--config", config, "--json")
    assert told.code == 0
    metrics = json.loads(told.out)
    assert metrics["steps"] > 20
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    for name in (
        "settings.toml",
        "examples.jsonl.zst",
        "predictions.jsonl.zst",
        "dead_letters.jsonl",
        "cuts",
        "weights",
    ):
        assert (tmp_path / "run" / name).exists()


def test_resumed_at_its_end_a_run_stays_as_it_is(afterclick: Afterclick, log: Path, run: Path) -> None:
    before = figures(run)
    told = afterclick("replay", log, "--out", run, "--resume")
    assert told.code == 0
    assert "epoch 2" in told.out
    assert "records" in told.out
    assert figures(run) == before


def test_verify_agrees_with_a_run_and_sees_a_missing_example(
    afterclick: Afterclick, log: Path, finished: Path, run: Path
) -> None:
    told = afterclick("verify", log, finished)
    assert (told.code, told.out.splitlines()[-1]) == (0, "agreed on everything")
    assert all(
        check["broken"] == 0 for check in json.loads(afterclick("verify", log, finished, "--json").out)["checks"]
    )
    lines = (run / "duplicates.jsonl").read_bytes().splitlines(keepends=True)
    (run / "duplicates.jsonl").write_bytes(b"".join(lines[:-1]))
    told = afterclick("verify", log, run)
    assert (told.code, told.out.splitlines()[-1]) == (1, "the run and the log DIFFER")


def test_explain_tells_the_story_of_a_click(afterclick: Afterclick, log: Path, finished: Path) -> None:
    name = json.loads((log / "clicks.jsonl").read_bytes().splitlines()[0])["impression_id"]
    told = afterclick("explain", finished, name)
    assert told.code == 0
    for word in ("impression", "click", "prediction", "CLICKED", "MATURED"):
        assert word in told.out
    assert json.loads(afterclick("explain", finished, name, "--log", log, "--json").out)["impression_id"] == name


def test_report_writes_a_page(afterclick: Afterclick, log: Path, run: Path) -> None:
    told = afterclick("report", run, "--log", log)
    assert (told.code, told.out.strip()) == (0, str(run / "report.html"))
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")


def test_weights_can_be_listed_shown_and_compared(afterclick: Afterclick, finished: Path) -> None:
    listed = json.loads(afterclick("weights", "list", finished, "--json").out)
    names = [version["name"] for version in listed]
    assert [version["name"] for version in listed if version["is_current"]] == names[-1:]
    told = afterclick("weights", "list", finished)
    assert all(name in told.out for name in names)
    assert "current" in told.out
    assert json.loads(afterclick("weights", "show", finished).out)["version"] == int(names[-1][-10:])
    assert json.loads(afterclick("weights", "show", finished, names[0]).out)["version"] == int(names[0][-10:])
    by_name = json.loads(afterclick("weights", "diff", finished, names[0], names[-1], "--json").out)
    first, last = (str(int(names[number][7:])) for number in (0, -1))
    assert json.loads(afterclick("weights", "diff", finished / "weights", first, last, "--json").out) == by_name
    assert json.loads(afterclick("weights", "show", finished / "weights", last).out)["version"] == int(last)


def test_an_older_version_is_put_back_and_publishing_is_held_until_it_is_released(
    afterclick: Afterclick, log: Path, run: Path
) -> None:
    listed = json.loads(afterclick("weights", "list", run, "--json").out)
    names = [version["name"] for version in listed]
    old, newest = names[1], names[-1]
    assert listed[1]["manifest"]["kind"] == "delta"
    anew = f"{newest[:7]}{int(newest[7:]) + 1:010d}"
    told = afterclick("weights", "rollback", run, old)
    assert (told.code, f"{old} is current again, as {anew}" in told.out) == (0, True)
    manifest = json.loads(afterclick("weights", "show", run).out)
    assert (manifest["version"], manifest["kind"], manifest["republishes"]) == (int(anew[7:]), "snapshot", old)
    found = json.loads(afterclick("weights", "diff", run, old, anew, "--json").out)
    assert all(table["moved"] == table["added"] == table["removed"] == 0 for table in found["tables"].values())
    assert all(dense["change"] == 0 for dense in found["dense"].values())

    assert "publishing is held: " in afterclick("weights", "list", run).err
    assert afterclick("replay", log, "--out", run, "--resume").code == 0
    assert json.loads(afterclick("weights", "show", run).out)["version"] == int(anew[7:])
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["refused_versions"]["held"] > 0
    assert afterclick("weights", "release", run).code == 0
    assert afterclick("replay", log, "--out", run, "--resume").code == 0
    assert json.loads(afterclick("weights", "show", run).out)["epoch"] == 3
    told = afterclick("weights", "rollback", run, "000009-0000000001")
    assert (told.code, "has no version '000009-0000000001'" in told.err) == (1, True)


def test_a_paced_replay_serves_its_metrics_and_ends_the_same(
    afterclick: Afterclick, log: Path, config: Path, finished: Path, tmp_path: Path
) -> None:
    told = afterclick(
        "replay", log, "--out", tmp_path / "run", "--config", config, "--speed", "1e12", "--metrics-port", 0
    )
    assert told.code == 0
    assert figures(tmp_path / "run") == figures(finished)


def test_closed_at_its_end_nothing_stays_open_and_nothing_can_follow(
    afterclick: Afterclick, log: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert afterclick("replay", log, "--out", out, "--config", config, "--close-at-end").code == 0
    assert figures(out)["open_impressions"] == 0
    assert afterclick("verify", log, out).code == 0
    told = afterclick("replay", log, "--out", out, "--resume")
    assert told.code == 1
    assert f"--out {out} holds a run that was closed with --close-at-end: nothing can follow it" in told.err


# --- what it refuses -------------------------------------------------------------------------------------------------------------


def test_a_missing_directory_is_named_and_nothing_is_left_behind(
    afterclick: Afterclick, config: Path, tmp_path: Path
) -> None:
    for command in (["replay", "--out", tmp_path / "run", "--config", config], ["check"], ["init"]):
        told = afterclick(*command, tmp_path / "nothing")
        assert told.code == 1
        assert (
            f"afterclick: error: LOG {tmp_path}/nothing does not exist: give a directory with impressions" in told.err
        )
    assert list(tmp_path.iterdir()) == []


def log_of(path: Path, impressions: bytes, name: str = "impressions.jsonl") -> Path:
    path.mkdir()
    (path / name).write_bytes(impressions)
    return path


def test_an_empty_log_is_pointed_out(afterclick: Afterclick, config: Path, tmp_path: Path) -> None:
    empty = log_of(tmp_path / "log", b"")
    told = afterclick("replay", empty, "--out", tmp_path / "run", "--config", config)
    assert told.code == 1
    assert "afterclick: warning: no impressions were read, and nothing can be learned without them" in told.err
    told = afterclick("check", empty, "--config", config)
    assert told.code == 1
    assert "error: there are no impressions" in told.out


def test_a_truncated_file_is_named_and_mended_the_run_goes_on(
    afterclick: Afterclick, log: Path, config: Path, finished: Path, tmp_path: Path
) -> None:
    whole = shutil.copytree(log, tmp_path / "log")
    data = (whole / "impressions.jsonl").read_bytes()
    (whole / "impressions.jsonl").unlink()
    (whole / "impressions.jsonl.gz").write_bytes(gzip.compress(data)[:-2_000])
    told = afterclick("replay", whole, "--out", tmp_path / "run", "--config", config)
    assert told.code == 1
    assert f"{whole}/impressions.jsonl.gz is damaged or cut off (it ends in the middle of packed data)" in told.err
    (whole / "impressions.jsonl.gz").write_bytes(gzip.compress(data))
    assert afterclick("replay", whole, "--out", tmp_path / "run", "--resume").code == 0
    assert figures(tmp_path / "run") == figures(finished)


GOOD = b'{"impression_id":"%d","event_time_ms":%d,"features":{}}\n'
T0 = 1_767_571_200_000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"what is this", "not JSON: JSON is malformed: invalid character (byte 0)"),
        (b'{"impression_id":5,"event_time_ms":1767571200000,"features":{}}', "Expected `str`, got `int` at `impression_id`"),
        (b'{"impression_id":"i","event_time_ms":1767571200,"features":{}}',
         'event_time_ms is 1767571200, which looks like seconds: set log.impressions.time_unit = "s"'),
    ],
    ids=["garbage", "a wrong type", "seconds"],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_kept_with_its_reason(
    afterclick: Afterclick, config: Path, tmp_path: Path, line: bytes, reason: str
) -> None:
    good = [GOOD % (n, T0 + n) for n in range(20)]
    broken = log_of(tmp_path / "log", b"".join([*good[:5], line + b"\n", *good[5:]]))
    told = afterclick("replay", broken, "--out", tmp_path / "run", "--config", config)
    assert told.code == 0
    assert "records" in told.out
    assert f"1 of 21 records are malformed, the first (impressions.jsonl:6) because {reason}; they are in" in told.err
    (letter,) = (tmp_path / "run" / "dead_letters.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(letter)["record"] == line.decode()
    assert json.loads(letter)["reason"] == reason
    assert figures(tmp_path / "run")["events"] == {"impression": 20, "malformed": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[windows]\nclick = 5", "Object contains unknown field `click` - at `$.windows`; `afterclick init LOG` writes"),
        ("[windows]\nclick_window_ms = -5", "windows.click_window_ms must not be negative (got -5): set it to 0 or more"),
        ("[windows]\nattribution_window_ms = 5_000_000\nobservation_window_ms = 6_000_000",
         "attribution_window_ms must be at least windows.observation_window_ms (got 5000000 < 6000000): a click would"),
        ('[labels]\nmethod = "best"', "labels.method must be one of mature, window, fnw, fnc, es_dfm, defer, defuse, ddfm, survival, bi_defuse, dfm, oracle, or"),
        ('[labels]\nmethod = "survival"\ndelay_model = "heads"', 'labels.delay_model = "heads" and labels.method = "survival": it asks at every horizon'),
        ('[labels]\nmethod = "dfm"', 'labels.method = "dfm" needs network.objective = "composed" (got "esmm"): it has no pair of unit mass'),
        ('[network]\ndevice = "abacus"', "network.device must be one that torch finds here, cpu say (got 'abacus'): "),
        ('[[features]]\nname = "a\\"b"\nkind = "numeric"', "features: a feature path cannot hold a quotation mark"),
        ("windows", "is not TOML"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused_before_anything_is_written(
    afterclick: Afterclick, log: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
    told = afterclick("replay", log, "--out", tmp_path / "run", "--config", tmp_path / "bad.toml")
    assert told.code == 2
    assert told.err.startswith("afterclick: error: ")
    assert reason in told.err
    assert not (tmp_path / "run").exists()


OWN_METHOD = """
from models.batch import Event
from models.delay import Method

def half(seen):
    return seen.v / 2, (1 - seen.v) / 2

TWICE = Method(pairs={event: half for event in (Event.MATURED, Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE, Event.REAL_NEGATIVE)})
"""


def test_a_method_of_ones_own_that_would_settle_a_click_twice_is_refused(
    afterclick: Afterclick, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_method_of_test_cli.py").write_text(OWN_METHOD, encoding="utf-8")
    (tmp_path / "own.toml").write_text('[labels]\nmethod = "own_method_of_test_cli:TWICE"', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    told = afterclick("replay", log, "--out", tmp_path / "run", "--config", tmp_path / "own.toml")
    assert told.code == 2
    assert "must not see both MATURED and DELAYED_POSITIVE: both take the slot 'settled'" in told.err
    assert not (tmp_path / "run").exists()


def test_settings_that_are_not_there_are_named(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    told = afterclick("replay", log, "--out", tmp_path / "run", "--config", tmp_path / "none.toml")
    assert told.code == 2
    assert f"--config {tmp_path}/none.toml does not exist; `afterclick init LOG > " in told.err


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan", ""])
def test_a_speed_that_is_none_is_refused(afterclick: Afterclick, log: Path, tmp_path: Path, speed: str) -> None:
    told = afterclick("replay", log, "--out", tmp_path / "run", f"--speed={speed}")
    assert told.code == 2
    assert f"--speed must be a number above 0, or max (got '{speed}')" in told.err


def test_a_port_in_use_is_told_before_anything_is_written(
    afterclick: Afterclick, log: Path, config: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = afterclick("replay", log, "--out", tmp_path / "run", "--config", config, "--metrics-port", port)
    assert told.code == 1
    assert f"metrics port {port} on 127.0.0.1 is in use: stop the process that holds it, or choose another" in told.err
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_not_empty_is_refused(afterclick: Afterclick, log: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    told = afterclick("replay", log, "--out", tmp_path, "--config", config)
    assert told.code == 1
    assert f"--out {tmp_path} is not empty: go on with --resume, or choose another directory" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_run_is_not_resumed_under_other_settings(
    afterclick: Afterclick, log: Path, run: Path, config: Path, tmp_path: Path
) -> None:
    other = small_settings(log, batching={"batch_size": 255})
    (tmp_path / "other.toml").write_text(dump(other), encoding="utf-8")
    before = (run / "settings.toml").read_bytes(), (run / "examples.jsonl.zst").read_bytes()
    told = afterclick("replay", log, "--out", run, "--resume", "--config", tmp_path / "other.toml")
    assert told.code == 1
    assert "was written under other settings (batching.batch_size: 256 != 255): resume with those" in told.err
    assert ((run / "settings.toml").read_bytes(), (run / "examples.jsonl.zst").read_bytes()) == before


def cuts_of(run: Path) -> list[Path]:
    return sorted((run / "cuts").iterdir())


def test_a_damaged_cut_is_named_and_the_one_before_it_used(
    afterclick: Afterclick, log: Path, run: Path, finished: Path
) -> None:
    newest = cuts_of(run)[-1]
    (newest / "tensors.safetensors").write_bytes(b"\0" + (newest / "tensors.safetensors").read_bytes()[1:])
    told = afterclick("replay", log, "--out", run, "--resume")
    assert told.code == 0
    assert f"warning: cut {newest} is damaged: tensors.safetensors is not what its manifest says" in told.err
    assert "the cut before it is used" in told.err
    assert figures(run) == figures(finished)


def test_where_all_cuts_are_damaged_a_run_is_not_resumed(afterclick: Afterclick, log: Path, run: Path) -> None:
    for cut in cuts_of(run):
        (cut / "manifest.json").unlink()
    told = afterclick("replay", log, "--out", run, "--resume")
    assert told.code == 1
    assert f"no whole cut is left in {run}/cuts" in told.err
    assert "manifest.json is missing" in told.err


def test_an_output_that_was_removed_keeps_a_run_from_going_on(afterclick: Afterclick, log: Path, run: Path) -> None:
    (run / "examples.jsonl.zst").unlink()
    told = afterclick("replay", log, "--out", run, "--resume")
    assert told.code == 1
    assert f"{run}/examples.jsonl.zst holds 0 bytes, the cut to go on from speaks of" in told.err


def test_a_disk_that_fills_up_ends_the_run_and_room_lets_it_go_on(
    afterclick: Afterclick, log: Path, config: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    size = max(path.stat().st_size for cut in cuts_of(finished) for path in cut.iterdir())
    with full_disk(size - 10_000):
        told = afterclick("replay", log, "--out", out, "--config", config)
    assert told.code == 1
    assert "cannot be written ([Errno 27] File too large" in told.err
    assert "--resume" in told.err
    assert not list((out / "cuts").glob("*.partial"))
    assert afterclick("replay", log, "--out", out, "--resume").code == 0
    assert figures(out) == figures(finished)


def test_damaged_weights_are_named(afterclick: Afterclick, run: Path) -> None:
    current = (run / "weights" / "current").read_text(encoding="utf-8").strip()
    part = run / "weights" / current / "rows.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\0\0")
    told = afterclick("weights", "show", run)
    assert told.code == 1
    assert f"rows.safetensors of version {current}" in told.err
    told = afterclick("weights", "show", run, "000009-0000000001")
    assert told.code == 1
    assert "has no version '000009-0000000001'; it has " in told.err


@pytest.mark.parametrize(
    ("dial", "reason"),
    [
        ("ctr", "--dial ctr must be NAME=VALUE with one of the names seed, impressions"),
        ("nope=5", "--dial nope=5 must be NAME=VALUE with one of the names seed"),
        ("ctr=high", "--dial ctr=high: Expected `float`, got `str`"),
        ("items=1.5", "--dial items=1.5: Expected `int`"),
        ("ctr=2", "ctr must lie between 0 and 1, both excluded (got 2.0)"),
    ],
)
def test_a_dial_that_does_not_exist_or_cannot_be_turned_so_far_is_refused(
    afterclick: Afterclick, tmp_path: Path, dial: str, reason: str
) -> None:
    told = afterclick("generate", tmp_path / "log", "--dial", dial)
    assert told.code == 2
    assert reason in told.err
    assert not (tmp_path / "log").exists()


def test_an_import_of_something_else_is_refused(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    told = afterclick("import", "nothing", log, tmp_path / "out")
    assert (
        told.code,
        "NAME must be one of criteo-delayed, talkingdata, open-bandit, table (got 'nothing')" in told.err,
    ) == (2, True)
    told = afterclick("import", "open-bandit", tmp_path / "none", tmp_path / "out")
    assert (told.code, f"SRC {tmp_path}/none does not exist" in told.err) == (1, True)
    told = afterclick("import", "talkingdata", log, tmp_path / "out")
    assert (told.code, f"SRC {log} holds no .csv or .csv.gz file" in told.err) == (1, True)


def test_a_run_that_is_not_there_is_named(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    for command in (
        ("report", nothing), ("explain", nothing, "i"), ("verify", log, nothing), ("weights", "list", nothing),
        ("weights", "show", nothing),
    ):  # fmt: skip
        told = afterclick(*command)
        assert told.code in (1, 2), command
        assert told.err.startswith("afterclick: error: "), command
        assert str(nothing) in told.err, command


def test_an_impression_that_no_file_speaks_of_is_named(afterclick: Afterclick, finished: Path) -> None:
    told = afterclick("explain", finished, "nobody")
    assert told.code == 1
    assert f"IMPRESSION_ID 'nobody' is in no file of RUN {finished}" in told.err


def test_a_demo_goes_from_traffic_to_a_report(afterclick: Afterclick, tmp_path: Path) -> None:
    told = afterclick("demo", "--out", tmp_path, "--impressions", 6_000)
    assert told.code == 0
    for says in ("agreed on everything", "Where things are", "Go on with your own logs"):
        assert says in told.out
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    assert list((tmp_path / "run" / "weights").iterdir())


def test_a_demo_deletes_nothing_that_is_not_of_a_demo(afterclick: Afterclick, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "thesis.doc").touch()
    told = afterclick("demo", "--out", tmp_path)
    assert told.code == 2
    assert f"--out {tmp_path} holds log, which is not of a demo: choose another directory" in told.err
    assert (tmp_path / "log" / "thesis.doc").exists()


def test_words_that_are_no_command_are_refused(afterclick: Afterclick, log: Path) -> None:
    for arguments in (
        ["nothing"],
        ["replay", log],
        ["replay", log, "--out"],
        ["generate", "x", "--impressions", "many"],
    ):
        told = afterclick(*arguments)
        assert told.code == 2
        assert "Error" in told.err


def test_settings_come_from_the_log_where_none_are_named(afterclick: Afterclick, log: Path, tmp_path: Path) -> None:
    quiet = shutil.copytree(log, tmp_path / "log")
    (quiet / "settings.toml").write_text(dump(Settings()), encoding="utf-8")
    assert "settings are suggested" not in afterclick("check", quiet).err
    (quiet / "settings.toml").unlink()
    assert (
        f"no --config and no {quiet}/settings.toml: settings are suggested from a look"
        in afterclick("check", quiet).err
    )
