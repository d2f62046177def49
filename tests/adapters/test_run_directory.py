"""The files of a run: what is synced is there and readable, what lies beyond a cut is gone, a full disk is named."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from disks import full_disk

from streaming.adapters.run_directory import RunDirectory, RunDirectoryError

NAMES = ("late.jsonl", "examples.jsonl.zst")


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def content(path: Path) -> bytes:
    return unpacked(path) if path.suffix == ".zst" else path.read_bytes()


def run_of(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run", NAMES)


def test_a_directory_that_another_replay_writes_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with pytest.raises(RunDirectoryError, match="is being written by another run"):
        RunDirectory(tmp_path / "run", NAMES)
    run.close()
    RunDirectory(tmp_path / "run", NAMES).close()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_synced_is_on_disk_and_readable(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path)
    run.append(name, b"one\n")
    lengths = run.sync()
    assert content(run.path / name) == b"one\n"
    run.append(name, b"two\n")
    assert run.sync()[name] > lengths[name] == len((run.path / name).read_bytes()[: lengths[name]])
    assert content(run.path / name) == b"one\ntwo\n"
    run.close()


def test_packed_files_hold_the_same_bytes_in_whatever_portions_they_were_appended(tmp_path: Path) -> None:
    rng = random.Random(3)
    lines = [b"%d %s\n" % (number, rng.randbytes(40).hex().encode()) for number in range(60_000)]  # 5 MB
    found = []
    for portion in (7, 2_048, len(lines)):
        run = RunDirectory(tmp_path / str(portion), NAMES)
        for half in (lines[:45_000], lines[45_000:]):
            for start in range(0, len(half), portion):
                run.append("examples.jsonl.zst", b"".join(half[start : start + portion]))
            lengths = run.sync()
        run.close()
        found.append((lengths, (run.path / "examples.jsonl.zst").read_bytes()))
        assert content(run.path / "examples.jsonl.zst") == b"".join(lines)
    assert found[0] == found[1] == found[2]


def test_an_output_that_nothing_was_written_to_has_no_length_and_no_file(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert run.sync() == dict.fromkeys(NAMES, 0)
    assert list(run.path.iterdir()) == []
    assert run.is_fresh


def test_closing_keeps_what_was_appended(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    for name in NAMES:
        run.append(name, b"one\n")
    run.close()
    assert [content(run.path / name) for name in NAMES] == [b"one\n", b"one\n"]
    assert not run.is_fresh


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_reopened", [False, True])
def test_cut_back_it_goes_on_where_it_was(tmp_path: Path, name: str, is_reopened: bool) -> None:
    run = run_of(tmp_path)
    run.append(name, b"kept\n")
    lengths = run.sync()
    run.append(name, b"lost\n")
    run.sync()
    run.append(name, b"never synced\n")
    if is_reopened:
        run.close()
        run = run_of(tmp_path)
    run.cut_back(lengths)
    run.append(name, b"anew\n")
    run.sync()
    run.close()
    assert content(run.path / name) == b"kept\nanew\n"


def test_cut_back_to_the_start_everything_is_gone(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.append("late.jsonl", b"one\n")
    run.append("batches_refused/000001.jsonl.zst", b"one\n")
    run.close()
    again = run_of(tmp_path)
    again.cut_back({})
    assert [(run.path / name).read_bytes() for name in NAMES] == [b"", b""]
    assert list((run.path / "batches_refused").iterdir()) == []


def test_refused_batches_that_the_cut_speaks_of_stay(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.append("batches_refused/000001.jsonl.zst", b"one\n")
    lengths = run.sync()
    run.append("batches_refused/000002.jsonl.zst", b"two\n")
    run.close()
    again = run_of(tmp_path)
    again.cut_back(lengths)
    assert [path.name for path in (run.path / "batches_refused").iterdir()] == ["000001.jsonl.zst"]
    assert again.sync() == lengths


@pytest.mark.parametrize("harm", ["removed", "cut short"])
def test_an_output_that_lost_what_the_cut_speaks_of_is_refused(tmp_path: Path, harm: str) -> None:
    run = run_of(tmp_path)
    run.append("late.jsonl", b"one\ntwo\n")
    lengths = run.sync()
    run.close()
    if harm == "removed":
        (run.path / "late.jsonl").unlink()
    else:
        (run.path / "late.jsonl").write_bytes(b"one\n")
    there = 0 if harm == "removed" else 4
    with pytest.raises(
        RunDirectoryError, match=rf"late\.jsonl holds {there} bytes, the cut .* speaks of 8: .*start anew"
    ):
        run_of(tmp_path).cut_back(lengths)


def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.replace("metrics.json", b"old")
    (run.path / "metrics.json.partial").write_bytes(b"a crash left this behind")
    assert (run.path / "metrics.json").read_bytes() == b"old"
    run.replace("metrics.json", b"new")
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == {"metrics.json": b"new"}


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RunDirectoryError, match=rf"--out {tmp_path}/run cannot be created"):
        run_of(tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (run.path / "late.jsonl").mkdir()
    with pytest.raises(
        RunDirectoryError, match=r"late\.jsonl cannot be written \(Is a directory\): free space or mend"
    ):
        run.append("late.jsonl", b"one\n")
    with pytest.raises(RunDirectoryError, match=r"late\.jsonl cannot be written"):
        run.replace("late.jsonl", b"one\n")


def test_a_full_disk_is_told_with_the_file_and_spares_the_others(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.append("examples.jsonl.zst", b"kept\n")
    why = r"late\.jsonl cannot be written \(File too large\): free space or mend its rights, then go on with --resume"
    with full_disk(50_000):
        with pytest.raises(RunDirectoryError, match=why):
            run.append("late.jsonl", b"x" * 100_000)
        run.close()
    assert content(run.path / "examples.jsonl.zst") == b"kept\n"


def test_a_disk_too_full_for_packed_lines_is_told_when_they_are_synced_at_the_latest(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.append("examples.jsonl.zst", b"kept\n")
    lengths = run.sync()
    rng = random.Random(3)

    def write_on() -> None:
        for _ in range(100):
            run.append("examples.jsonl.zst", rng.randbytes(10_000))
        run.sync()

    with full_disk(50_000):
        with pytest.raises(RunDirectoryError, match=r"examples\.jsonl\.zst cannot be written \(File too large\): free"):
            write_on()
        with suppress(RunDirectoryError):  # it may have more to write
            run.close()
    again = run_of(tmp_path)
    again.cut_back(lengths)
    again.close()
    assert content(run.path / "examples.jsonl.zst") == b"kept\n"


def test_a_disk_that_fills_up_while_closing_is_told_too(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.append("late.jsonl", b"x" * 1_000)  # still in memory
    run.append("examples.jsonl.zst", b"kept\n")
    with full_disk(500), pytest.raises(RunDirectoryError, match=r"late\.jsonl cannot be written \(File too large\)"):
        run.close()
    assert content(run.path / "examples.jsonl.zst") == b"kept\n"
    run.close()
