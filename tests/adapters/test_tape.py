"""A tape gives back what was put on it, can be cut back, ends where its last whole look ends, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.adapters.run_directory import RunDirectoryError
from streaming.adapters.tape import TAPE, TapeError, TapePolls, TapeWriter
from streaming.live import Polled
from streaming.log_file import Place

STARTS = {"m.clicks[0]": Place(3), "m.impressions[0]": Place(0)}
LOOKS = [
    Polled(
        1_000 + number,
        {"m.clicks[0]": [(number, None, b"\x00\xff"), (number + 1, b"k", None)]},
        {"m.clicks[0]": number % 2 == 0},
    )
    for number in range(20)
]


def writer(path: Path, rolled_bytes: int = 1 << 20) -> TapeWriter:
    return TapeWriter(path, partitions=1, starts=STARTS, rolled_bytes=rolled_bytes)


def read(path: Path) -> list[Polled]:
    polls = TapePolls(path)
    return list(iter(lambda: polls.poll(frozenset()), None))


def written(path: Path, looks: list[Polled], rolled_bytes: int = 1 << 20) -> dict[str, int]:
    tape = writer(path, rolled_bytes)
    for number, look in enumerate(looks):
        tape.append(look)
        if number % 5 == 4:
            tape.sync()
    lengths = tape.sync()
    tape.close()
    return lengths


def test_what_was_put_on_it_comes_back(tmp_path: Path) -> None:
    written(tmp_path, LOOKS)
    assert read(tmp_path) == LOOKS
    assert TapePolls(tmp_path).tape.partitions == 1
    assert TapePolls(tmp_path).tape.places() == STARTS


def test_it_is_rolled_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    assert len(written(tmp_path, LOOKS[:15], rolled_bytes=1)) == 4
    written(tmp_path, LOOKS[15:], rolled_bytes=1)
    assert read(tmp_path) == LOOKS
    assert len(list(tmp_path.glob("*.zst"))) >= 3


@pytest.mark.parametrize("rolled_bytes", [1, 1 << 20])
def test_cut_back_it_is_as_it_was(tmp_path: Path, rolled_bytes: int) -> None:
    lengths = written(tmp_path, LOOKS[:10], rolled_bytes)
    written(tmp_path, LOOKS[10:], rolled_bytes)
    tape = writer(tmp_path, rolled_bytes)
    tape.cut_back(lengths)
    tape.append(LOOKS[-1])
    tape.sync()
    tape.close()
    assert read(tmp_path) == [*LOOKS[:10], LOOKS[-1]]
    (tmp_path / min(lengths)).unlink()
    with pytest.raises(RunDirectoryError, match="holds 0 bytes, the cut to go on from speaks of"):
        writer(tmp_path).cut_back(lengths)


def test_killed_in_the_middle_of_a_look_it_ends_before_it(tmp_path: Path) -> None:
    lengths = written(tmp_path, LOOKS[:10])
    written(tmp_path, LOOKS[10:])
    (file,) = tmp_path.glob("*.zst")
    data = file.read_bytes()
    for length in range(lengths[file.name], len(data), 5):
        file.write_bytes(data[:length])
        found = read(tmp_path)
        assert len(found) >= 10
        assert found == LOOKS[: len(found)]


def test_damage_is_told_of(tmp_path: Path) -> None:
    written(tmp_path, LOOKS, rolled_bytes=1)
    first, *_ = sorted(tmp_path.glob("*.zst"))
    data = first.read_bytes()
    first.write_bytes(data[: len(data) // 2])
    with pytest.raises(TapeError, match=r"000001\.polled\.zst is damaged \(.*\): put it back"):
        read(tmp_path)
    first.write_bytes(b"nonsense")
    with pytest.raises(TapeError, match=r"000001\.polled\.zst is damaged"):
        read(tmp_path)


def test_what_is_no_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"holds no tape \(tape\.json is not there\).*--record"):
        TapePolls(tmp_path)
    (tmp_path / TAPE).write_text('{"format":2,"partitions":1,"starts":{}}')
    with pytest.raises(TapeError, match="has format 2, this version reads 1"):
        TapePolls(tmp_path)
    (tmp_path / TAPE).write_text("{")
    with pytest.raises(TapeError, match=r"tape\.json cannot be read"):
        TapePolls(tmp_path)


def test_another_tape_is_not_written_over(tmp_path: Path) -> None:
    written(tmp_path, LOOKS)
    with pytest.raises(
        TapeError, match=r"--record .* holds a tape of 1 partitions of m\.clicks\[0\], m\.impressions\[0\]"
    ):
        TapeWriter(tmp_path, partitions=2, starts=STARTS)
