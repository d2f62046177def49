"""Cuts in a directory: a crash or a full disk costs the newest at most, damage is named and passed over."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from cuts import SETTINGS, cut_of
from disks import full_disk

from streaming.adapters.cut_directory import CutDirectory
from streaming.checkpoint import CutError, OtherRunError
from streaming.settings import Batching


def directory(tmp_path: Path) -> CutDirectory:
    return CutDirectory(tmp_path / "cuts", SETTINGS)


def with_cuts(tmp_path: Path, *numbers: int) -> CutDirectory:
    cuts = directory(tmp_path)
    for number in numbers:
        cuts.write(*cut_of(number))
        cuts.commit()
    return cuts


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cuts").iterdir())


def harm(tmp_path: Path, number: int, part: str = "state.msgpack") -> None:
    path = tmp_path / "cuts" / f"{number:08d}" / part
    path.write_bytes(path.read_bytes()[:-1])


def test_without_a_cut_there_is_none(tmp_path: Path) -> None:
    assert directory(tmp_path).newest() == (None, {}, [])
    assert directory(tmp_path).all() == []


def test_the_newest_comes_back_whole(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1, 2)
    cut, tensors, passed_over = directory(tmp_path).newest()
    expected, expected_tensors = cut_of(2)
    assert cut == expected
    assert passed_over == []
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected_tensors.items())


def test_as_many_are_kept_as_the_settings_say(tmp_path: Path) -> None:
    with_cuts(tmp_path, *range(8, 12))
    assert names(tmp_path) == ["00000009", "00000010", "00000011"]


def test_what_is_written_and_not_committed_is_not_resumed_from(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1).write(*cut_of(2))
    assert names(tmp_path) == ["00000001", "00000002.partial"]
    cut, _, passed_over = directory(tmp_path).newest()
    assert cut is not None
    assert (cut.number, passed_over) == (1, [])


def test_what_a_crash_left_behind_is_cleared_by_the_next_cut(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1).write(*cut_of(2))  # and then the process died
    (tmp_path / "cuts" / "00000003.partial").mkdir()
    with_cuts(tmp_path, 2)
    assert names(tmp_path) == ["00000001", "00000002"]


@pytest.mark.parametrize("part", ["state.msgpack", "tensors.safetensors", "manifest.json"])
def test_a_damaged_newest_is_named_and_passed_over(tmp_path: Path, part: str) -> None:
    with_cuts(tmp_path, 1, 2, 3)
    harm(tmp_path, 3, part)
    (tmp_path / "cuts" / "00000002" / part).unlink()
    cut, tensors, passed_over = directory(tmp_path).newest()
    assert cut is not None
    assert cut.number == 1
    assert tensors
    assert len(passed_over) == 2
    assert f"{tmp_path}/cuts/00000003 is damaged: {part}" in passed_over[0]
    assert f"{tmp_path}/cuts/00000002 is damaged: {part} is missing" in passed_over[1]


def test_a_damaged_cut_is_replaced_when_its_number_comes_again(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1, 2)
    harm(tmp_path, 2)
    with_cuts(tmp_path, 2)
    cut, _, passed_over = directory(tmp_path).newest()
    assert cut is not None
    assert (cut.number, passed_over) == (2, [])


def test_where_all_are_damaged_nothing_is_resumed(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1, 2)
    harm(tmp_path, 1)
    harm(tmp_path, 2)
    with pytest.raises(
        CutError, match=r"no whole cut is left in .*cuts: .*00000002 is damaged.*00000001 is damaged.*Start"
    ):
        directory(tmp_path).newest()


def test_a_cut_of_other_settings_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1, 2)
    other = msgspec.structs.replace(SETTINGS, batching=Batching(batch_size=5, batch_interval_ms=50))
    with pytest.raises(
        OtherRunError, match=r"00000002 was written under other settings \(batching\.batch_size: 4 != 5\)"
    ):
        CutDirectory(tmp_path / "cuts", other).newest()


def test_other_things_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1)
    (tmp_path / "cuts" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "cuts" / "old").mkdir()
    with_cuts(tmp_path, 2, 3, 4)
    assert names(tmp_path) == ["00000002", "00000003", "00000004", "notes.txt", "old"]


def test_a_full_disk_is_told_and_the_cuts_before_are_as_they_were(tmp_path: Path) -> None:
    with_cuts(tmp_path, 1)
    why = rf"cut {tmp_path}/cuts/00000002 cannot be written \(.*File too large.*\): free space, then go on .* with --resume"
    with full_disk(2_000), pytest.raises(CutError, match=why):
        directory(tmp_path).write(*cut_of(2))
    assert names(tmp_path) == ["00000001"]
    cut, _, passed_over = directory(tmp_path).newest()
    assert cut is not None
    assert (cut.number, passed_over) == (1, [])


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "cuts").touch()
    with pytest.raises(
        CutError, match=r"cut .*00000001 cannot be written .*free space, then go on from the cut before it"
    ):
        directory(tmp_path).write(*cut_of(1))
