"""Logs in files: every form gives the same lines, from any place on; whatever is wrong with a log is named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import pytest
import zstandard

from streaming.adapters.files import LogError, find_parts, read_lines
from streaming.events import RecordKind
from streaming.log_file import Place

LINES = [b'{"n":%d,"text":"%s"}' % (n, b"x" * (n % 7)) for n in range(25)]
PLAIN = b"".join(line + b"\n" for line in LINES)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def in_frames(data: bytes, pack: Callable[[bytes], bytes], size: int = 100) -> bytes:
    """Packed bit by bit, one frame or member behind the other, with an empty one at the end."""
    return b"".join(pack(data[start : start + size]) for start in range(0, len(data), size)) + pack(b"")


FORMS: dict[str, Callable[[bytes], bytes]] = {
    ".jsonl": lambda data: data,
    ".jsonl.gz": gzip.compress,
    ".jsonl.zst": zst,
    ".several.jsonl.gz": lambda data: in_frames(data, gzip.compress),
    ".several.jsonl.zst": lambda data: in_frames(data, zst),
}


def read(path: Path, place: Place | None = None, block_bytes: int = 64) -> list[bytes]:
    return [line for block in read_lines(path, place or Place(), block_bytes) for line in block.lines]


def read_until_damage(path: Path) -> tuple[list[bytes], str]:
    """The lines that come before a file's damage, and what is said about it."""
    got: list[bytes] = []
    blocks = read_lines(path, Place(), 64)
    while True:
        try:
            got += next(blocks).lines
        except LogError as error:
            return got, str(error)


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[str], Path]:
    def write(query: str) -> Path:
        path = tmp_path / "impressions.parquet"
        with duckdb.connect() as connection:
            connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return path

    return write


# --- lines -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])
def test_every_form_gives_the_same_lines(tmp_path: Path, form: str, block_bytes: int) -> None:
    path = tmp_path / f"clicks{form}"
    path.write_bytes(FORMS[form](PLAIN))
    assert read(path, block_bytes=block_bytes) == LINES


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_from_any_line_on_it_reads_what_is_left(tmp_path: Path, form: str, end: bytes) -> None:
    path = tmp_path / f"clicks{form}"
    path.write_bytes(FORMS[form](PLAIN[:-1] + end))
    start = 0
    for number, line in enumerate([*LINES, b""], 1):
        assert read(path, Place(number, start)) == LINES[number - 1 :]
        start += len(line) + 1


@pytest.mark.parametrize("form", FORMS)
def test_blocks_say_where_they_stand(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clicks{form}"
    path.write_bytes(FORMS[form](PLAIN))
    blocks = list(read_lines(path, Place(), 64))
    assert len(blocks) > 1 or form == ".jsonl.zst"  # zstandard unpacks 128 KiB at a time
    for block in blocks:
        assert PLAIN[block.start :].startswith(block.lines[0] + b"\n")
        assert LINES[block.first_line - 1] == block.lines[0]


@pytest.mark.parametrize("form", FORMS)
def test_blank_lines_are_counted_and_a_last_line_needs_no_end(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clicks{form}"
    path.write_bytes(FORMS[form](b'\n\n{"a":1}\n\n{"b":2}'))
    assert read(path) == [b"", b"", b'{"a":1}', b"", b'{"b":2}']


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_file_has_no_lines(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clicks{form}"
    for data in (b"", FORMS[form](b"")):
        path.write_bytes(data)
        assert read(path) == []


def test_a_line_may_run_over_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_bytes(b"a" * 10_000 + b"\nb\n")
    assert read(path) == [b"a" * 10_000, b"b"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_may_grow_behind_what_was_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clicks{form}"
    place = Place(len(LINES) + 1, len(PLAIN))
    for more in (b"", b"more\n", b"more\nand more\n"):
        path.write_bytes(FORMS[form](PLAIN + more))
        assert read(path, place) == more.splitlines()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", [b"", PLAIN[:-2], PLAIN[:-1] + b"x" + PLAIN], ids=["empty", "shorter", "other lines"])
def test_a_file_that_is_not_the_one_that_was_read_is_refused(tmp_path: Path, form: str, other: bytes) -> None:
    path = tmp_path / f"clicks{form}"
    path.write_bytes(FORMS[form](other))
    with pytest.raises(LogError, match=rf"{path} is not the file that was read up to line 25 before: put that back"):
        read(path, Place(len(LINES) + 1, len(PLAIN)))


# --- damage ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [form for form in FORMS if form != ".jsonl"])
@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_packed_file_that_was_cut_off_is_named_and_never_taken_for_whole(
    tmp_path: Path, form: str, lost: int
) -> None:
    path = tmp_path / f"clicks{form}"
    packed = FORMS[form](PLAIN)
    if form.startswith(".several"):
        packed = packed[: -len(FORMS[form](b""))]  # without the empty frame at the end
    path.write_bytes(packed[:-lost])
    got, why = read_until_damage(path)
    assert why.startswith(f"{path} is damaged or cut off (it ends in the middle of packed data): repair or remove it")
    assert got == LINES[: len(got)]
    assert got or form == ".jsonl.zst"  # one small zstandard block is unpacked whole or not at all


@pytest.mark.parametrize("form", [".several.jsonl.gz", ".several.jsonl.zst"])
def test_what_stands_before_the_damage_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"clicks{form}"
    packed = bytearray(FORMS[form](PLAIN))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    path.write_bytes(packed)
    got, why = read_until_damage(path)
    assert why.startswith(f"{path} is damaged or cut off (")
    assert len(got) > 5
    assert got == LINES[: len(got)]


@pytest.mark.parametrize("name", ["clicks.jsonl.gz", "clicks.jsonl.zst", "clicks.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PLAIN)
    with pytest.raises(LogError, match=str(path)) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    for name in ("clicks.jsonl", "clicks.parquet"):
        with pytest.raises(LogError, match=rf"{name} cannot be read"):
            read(tmp_path / name)


# --- parquet ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features", ["{'user': 'u' || n, 'tags': ['a', 'b']}", """'{"user":"u' || n || '","tags":["a","b"]}'"""]
)
def test_features_are_an_object_whether_struct_or_text(parquet: Callable[[str], Path], features: str) -> None:
    path = parquet(
        f"SELECT 'i' || n AS impression_id, 1767571200000 + n AS event_time_ms, {features} AS features FROM range(3) t(n)"
    )
    assert [msgspec.json.decode(line) for line in read(path)] == [
        {
            "impression_id": f"i{n}",
            "event_time_ms": 1_767_571_200_000 + n,
            "features": {"user": f"u{n}", "tags": ["a", "b"]},
        }
        for n in range(3)
    ]


def test_a_row_whose_features_are_no_json_spoils_no_other(parquet: Callable[[str], Path]) -> None:
    path = parquet("""SELECT * FROM (VALUES ('{"a":1}'), ('{broken'), (NULL), ('5')) t(features)""")
    assert [msgspec.json.decode(line)["features"] for line in read(path)] == [{"a": 1}, "{broken", None, 5]


def test_what_json_has_no_word_for_is_missing(parquet: Callable[[str], Path]) -> None:
    path = parquet("SELECT {'x': 'nan'::DOUBLE, 'y': '-inf'::DOUBLE, 'z': 1.5::DOUBLE} AS features, 'NaN' AS word")
    assert [msgspec.json.decode(line) for line in read(path)] == [
        {"features": {"x": None, "y": None, "z": 1.5}, "word": "NaN"}
    ]


def test_odd_column_names_are_kept(parquet: Callable[[str], Path]) -> None:
    assert read(parquet("""SELECT 1 AS "a""b", 2 AS "select" """)) == [b'{"a\\"b":1,"select":2}']


def test_parquet_is_read_from_any_row_on(parquet: Callable[[str], Path]) -> None:
    path = parquet("SELECT n FROM range(6000) t(n)")
    whole = read(path)
    assert len(whole) == 6000
    for line in (1, 2, 4096, 4097, 6000, 6001):
        assert read(path, Place(line)) == whole[line - 1 :]
    with pytest.raises(LogError, match="is not the file that was read up to line 6001 before"):
        read(path, Place(6002))
    assert [block.first_line for block in read_lines(path, Place(3))] == [3, 4099]


# --- parts -----------------------------------------------------------------------------------------------------------------------


def test_parts_are_found_in_name_order_and_other_files_left_alone(tmp_path: Path) -> None:
    for name in (
        "impressions/b.jsonl",
        "impressions/a.jsonl.zst",
        "impressions/notes.txt",
        "clicks.jsonl.gz",
        "x.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_parts(tmp_path) == {
        RecordKind.IMPRESSION: [tmp_path / "impressions/a.jsonl.zst", tmp_path / "impressions/b.jsonl"],
        RecordKind.CLICK: [tmp_path / "clicks.jsonl.gz"],
        RecordKind.CONVERSION: [],
    }


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        LogError, match=rf"LOG {tmp_path}/log does not exist: give a directory with impressions, clicks"
    ):
        find_parts(tmp_path / "log")


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with pytest.raises(LogError, match=r"log is a file: give the directory that holds impressions, clicks"):
        find_parts(tmp_path / "log")


@pytest.mark.parametrize("names", [[], ["impression.jsonl", "clicks.csv"], ["clicks/readme.md"]])
def test_a_directory_with_nothing_of_a_log_is_named(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(LogError, match="holds neither impressions nor clicks nor conversions"):
        find_parts(tmp_path)


@pytest.mark.parametrize("other", ["clicks.jsonl.gz", "clicks.parquet", "clicks/part.jsonl"])
def test_a_stream_that_stands_there_twice_is_refused(tmp_path: Path, other: str) -> None:
    for name in ("clicks.jsonl", other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(LogError, match=r"holds clicks twice \(clicks\.jsonl and clicks.*\): keep one"):
        find_parts(tmp_path)


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(PLAIN)
    (tmp_path / "clicks.jsonl").symlink_to(tmp_path / "elsewhere")
    assert read(find_parts(tmp_path)[RecordKind.CLICK][0]) == LINES
