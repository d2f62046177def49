"""The Criteo file becomes a log, row for row; what is simulated in its place has its form, its rate, its delays and a known truth."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluate import auc
from streaming.cli import main
from streaming.lab.criteo_import import ORIGIN_MS, PAPERS_SETTINGS, import_criteo_delayed
from streaming.lab.criteo_rows import CATEGORIES, INTEGERS, click_row
from streaming.lab.criteo_settings import (
    PAPERS_BUCKETS,
    Clicks,
    IntegerColumns,
    papers_edges,
    papers_settings,
    quantile_edges,
)
from streaming.lab.criteo_truth import CARDINALITIES, CriteoWorld
from streaming.lab.criteo_world import generate_criteo
from streaming.lab.csv_rows import SourceError
from streaming.lab.delays import DAY_MS, conversion_delay_cdf
from streaming.lab.worldfiles import truth_of
from streaming.replay import Replay
from streaming.settings import load, parse

DAY_S = DAY_MS // 1000


def row(
    click: object = 0, conversion: object = "", integers: str = "1,2,3,4,5,6,7,8", categories: str = "a,b,c,d,e,f,g,h,i"
) -> str:
    return "\t".join([str(click), str(conversion), *integers.split(","), *categories.split(",")])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def imported(tmp_path: Path, *rows: str) -> Path:
    (tmp_path / "data.txt").write_text("".join(f"{text}\n" for text in rows))
    import_criteo_delayed(tmp_path / "data.txt", tmp_path / "log")
    return tmp_path / "log"


# ---- a row ----


def test_a_row_is_an_impression_its_click_at_the_same_time_and_its_conversion(tmp_path: Path) -> None:
    log = imported(tmp_path, row(5), row(60, 3660, "-1,,0,4,5,6,7,", "a,,c,d,e,f,g,h,i"))
    shown = lines(log / "impressions.jsonl")[1]
    known = {"int_1": -1, "int_3": 0, "int_4": 4, "int_5": 5, "int_6": 6, "int_7": 7}
    names = {f"cat_{number}": name for number, name in zip((1, 3, 4, 5, 6, 7, 8, 9), "acdefghi", strict=True)}
    assert shown == {"impression_id": "row-2", "event_time_ms": ORIGIN_MS + 60_000, "features": known | names}
    assert lines(log / "clicks.jsonl")[1] == {"impression_id": "row-2", "event_time_ms": ORIGIN_MS + 60_000}
    assert lines(log / "conversions.jsonl") == [{"impression_id": "row-2", "event_time_ms": ORIGIN_MS + 3_660_000}]


def test_conversions_are_put_in_order_of_their_own_times(tmp_path: Path) -> None:
    log = imported(tmp_path, row(0, 900), row(1, 30), row(2, 2), row(3), row(4, 31))
    assert [record["impression_id"] for record in lines(log / "conversions.jsonl")] == [
        "row-3",
        "row-2",
        "row-5",
        "row-1",
    ]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), max_size=6)
integers = st.one_of(st.just(""), st.integers(-(10**14), 10**14).map(str), st.sampled_from(["007", "-0", "-012"]))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 999_999_999),
    st.integers(0, 10**6) | st.none(),
    st.lists(integers, min_size=8, max_size=8),
    st.lists(cells, min_size=9, max_size=9),
    st.sampled_from(["", "\r"]),
)
def test_whatever_the_cells_hold_the_features_are_them(
    click: int, delay: int | None, counts: list[str], names: list[str], end: str
) -> None:
    conversion = None if delay is None else min(click + delay, 999_999_999)
    text = "\t".join([str(click), "" if conversion is None else str(conversion), *counts, *names]) + end
    told = click_row(text.encode())
    expected: dict[str, Any] = {name: int(cell) for name, cell in zip(INTEGERS, counts, strict=True) if cell}
    expected |= {name: cell for name, cell in zip(CATEGORIES, names, strict=True) if cell}
    assert (told.click_s, told.conversion_s) == (click, conversion)
    assert msgspec.json.decode(told.features) == expected
    assert [int(cell) for cell in told.integers if cell] == [int(cell) for cell in counts if cell]


BAD_ROWS = [
    (row()[:-2], "has 18 cells (rule: 19, separated by tabs)"),
    (row(""), "click timestamp must not be empty"),
    (
        row(1_400_000_000),
        "click timestamp must be whole seconds since the log began, 999,999,999 at most (got '1400000000')",
    ),
    (row("1.5"), "click timestamp must be whole seconds"),
    (row(60, "soon"), "conversion timestamp must be whole seconds"),
    (row(60, 59), "conversion timestamp must not be before the click's, 60 (got 59)"),
    (row(integers="1,2,3,4,x,6,7,8"), "int_5 must be a whole number of at most 15 digits, or empty (got 'x')"),
    (row(integers="1,2,3,4,5,6,7,1e3"), "int_8 must be a whole number"),
    (row(integers="1,2,3,4,5,6,-,8"), "int_7 must be a whole number"),
    (row(categories="a,b,\udcff,d,e,f,g,h,i"), r"cat_3 is not UTF-8 (got '\\xff')"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_counted_and_kept_with_its_place_and_reason(text: str, reason: str, tmp_path: Path) -> None:
    source = tmp_path / "data.txt"
    source.write_bytes(f"{row()}\n\n{text}\n{row(9)}".encode("utf-8", "surrogateescape"))
    summary = import_criteo_delayed(source, tmp_path / "log")
    assert (summary.impressions, summary.refused) == (2, 1)
    assert summary.first_refusals[0].startswith(f"data.txt:3: {reason}")
    (letter,) = lines(tmp_path / "log/dead_letters.jsonl")
    assert letter["at"] == "data.txt:3"
    assert letter.get("record", text) == text
    assert lines(tmp_path / "log/impressions.jsonl")[1]["impression_id"] == "row-4"


# ---- a file ----


def test_the_same_rows_give_the_same_bytes_packed_or_not(tmp_path: Path) -> None:
    text = "".join(f"{row(second, second + 5 * (second % 7))}\n" for second in range(500)).encode()
    packings = {"data.txt": text, "data.txt.gz": gzip.compress(text), "data.txt.zst": zstandard.compress(text)}
    for name, content in packings.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(content)
        import_criteo_delayed(tmp_path / name, tmp_path / f"{name}.log")
    logs = [{path.name: path.read_bytes() for path in (tmp_path / f"{name}.log").iterdir()} for name in packings]
    assert logs[0] == logs[1] == logs[2]
    assert sorted(logs[0]) == [
        "clicks.jsonl", "conversions.jsonl", "impressions.jsonl", "settings-papers.toml", "settings.toml",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "pack"), [("data.txt.gz", gzip.compress), ("data.txt.zst", zstandard.compress)])
def test_a_packed_file_that_was_cut_off_is_not_taken_for_whole(name: str, pack: Any, tmp_path: Path) -> None:
    text = "".join(f"{row(second)}\n" for second in range(500)).encode()
    (tmp_path / name).write_bytes(pack(text)[:-20])
    with pytest.raises(SourceError, match=f"{name} is damaged or cut off"):
        import_criteo_delayed(tmp_path, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_errors_name_the_file_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist"):
        import_criteo_delayed(tmp_path / "nowhere", tmp_path / "log")
    with pytest.raises(SourceError, match=r"holds no data\.txt, data\.txt\.gz"):
        import_criteo_delayed(tmp_path, tmp_path / "log")
    (tmp_path / "data.txt").write_text("click,conversion\n")
    with pytest.raises(SourceError, match=r"data\.txt has no usable row; the first: data\.txt:1: has 1 cells"):
        import_criteo_delayed(tmp_path, tmp_path / "log")
    (tmp_path / "data.txt.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"holds data\.txt and data\.txt\.gz: give the criteo-delayed file itself"):
        import_criteo_delayed(tmp_path, tmp_path / "log")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.txt", "data.txt.gz"]


# ---- its settings ----


def test_both_settings_wait_thirty_days_and_learn_conversions_alone(tmp_path: Path) -> None:
    log = imported(tmp_path, *(row(9 * second, 9 * second + 1 if second % 4 == 0 else "") for second in range(1000)))
    for name in ("settings.toml", PAPERS_SETTINGS):
        found = load(log / name, {})
        assert found.windows.attribution_window_ms == 30 * DAY_MS
        assert found.windows.observation_window_ms == 900_000
        assert found.network.objective == "composed"
        assert found.network.prior_cvr == 0.25
        assert [feature.name for feature in found.features] == [*INTEGERS, *CATEGORIES]
        assert [feature.kind for feature in found.features] == ["numeric"] * 8 + ["categorical"] * 9
    assert load(log / PAPERS_SETTINGS, {}).network.towers == (256, 256, 128)


@pytest.mark.parametrize(("least", "largest"), [(-1, 700), (0, 3), (5, 1_000_000)])
def test_the_papers_edges_make_their_buckets(least: int, largest: int) -> None:
    values = np.unique(np.linspace(least, largest, 5_000).astype(np.int64))
    scaled = (values - least) / (largest - least)
    for buckets in set(PAPERS_BUCKETS):
        theirs = np.digitize(scaled, [j / (buckets - 1) for j in range(buckets - 1)])
        ours = np.digitize(values, papers_edges(least, largest, buckets))
        assert (theirs != ours).sum() <= 1e-3 * len(values)  # on an edge, where the last bit decides
        assert ours.min() == 1
        assert ours.max() == buckets - 1


def test_missing_integers_move_the_papers_range_down_to_their_minus_one() -> None:
    clicks, columns = Clicks(), IntegerColumns()
    for text in (row(integers="4,4,4,4,4,4,4,"), row(integers="10,,4,4,4,4,4,")):
        clicks.add(click_row(text.encode()))
        columns.add([click_row(text.encode()).integers])
    found = {feature.name: feature.boundaries for feature in parse(papers_settings(clicks, columns)).features}
    assert (found["int_1"][0], found["int_2"][0], found["int_3"]) == (4.0, -1.0, (4.0,))
    assert "int_8" not in found


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-3, 10**6) | st.integers(-1, 5), min_size=1, max_size=300), st.integers(2, 64))
def test_quantile_edges_ascend_and_leave_no_bucket_empty_or_twice_too_large(values: list[int], buckets: int) -> None:
    edges = quantile_edges(np.array(values, dtype=np.float64), buckets)
    assert edges == sorted(set(edges))
    assert 1 <= len(edges) < max(buckets, 2)
    held = np.bincount(np.digitize(values, edges), minlength=len(edges) + 1)
    distinct = len(set(values))
    assert (held[1:] > 0).all()
    assert held[0] > 0 or distinct == 1
    most_frequent = max(values.count(value) for value in set(values))
    assert held.max() <= 2 * (len(values) / buckets + 1) + most_frequent


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-1, 99) | st.none(), min_size=1, max_size=120), st.integers(1, 40), st.integers(2, 20))
def test_ranges_are_exact_and_the_sample_is_the_same_however_rows_come(
    values: list[int | None], block: int, most: int
) -> None:
    rows = [(b"" if value is None else b"%d" % value, *[b"1"] * 7) for value in values]
    at_once, in_blocks = IntegerColumns(sample_rows=most), IntegerColumns(sample_rows=most)
    at_once.add(rows)
    for first in range(0, len(rows), block):
        in_blocks.add(rows[first : first + block])
    known = [value for value in values if value is not None]
    for columns in (at_once, in_blocks):
        assert columns.range_of(0) == ((min(known), max(known)) if known else None)
        assert columns.has_missing(0) == (len(known) < len(values))
        assert len(columns.sample_of(1)) <= most
    # Every k-th row, k the least power of two with which they fit, whatever the blocks.
    every = 1
    while -(-len(values) // every) > most:
        every *= 2
    assert at_once.sample_of(0).tolist() == [value for value in values[::every] if value is not None]
    assert in_blocks.sample_of(0).tolist() == at_once.sample_of(0).tolist()


# ---- the simulated file ----


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("criteo") / "raw"
    generate_criteo(out, CriteoWorld(clicks=60_000, seed=3))
    return out


def columns_of(raw: Path) -> list[list[str]]:
    rows = [line.split("\t") for line in (raw / "data.txt").read_text().splitlines()]
    assert {len(cells) for cells in rows} == {19}
    return [list(column) for column in zip(*rows, strict=True)]


def test_the_simulated_file_has_the_form_the_rate_and_the_delays_of_the_real_one(raw: Path) -> None:
    columns = columns_of(raw)
    click_s = np.array(columns[0], dtype=np.int64)
    assert (np.diff(click_s) >= 0).all()
    assert (click_s[0] // DAY_S, click_s[-1] // DAY_S) == (0, 59)
    is_converted = np.array([bool(cell) for cell in columns[1]])
    assert is_converted.mean() == pytest.approx(0.227, abs=0.008)
    delay_s = np.array([int(cell) for cell in columns[1] if cell]) - click_s[is_converted]
    assert 0 <= delay_s.min() <= delay_s.max() <= 30 * DAY_S
    # Four standard deviations of a share of 13,600, and what the sample that sets the shares adds.
    for within_s, share in ((900, 0.274), (3_600, 0.357), (DAY_S, 0.499), (7 * DAY_S, 0.805), (14 * DAY_S, 0.881)):
        assert (delay_s <= within_s).mean() == pytest.approx(share, abs=0.02)


def test_the_simulated_categories_have_the_published_numbers_of_values_and_few_are_frequent(raw: Path) -> None:
    for column, cardinality in zip(columns_of(raw)[10:], CARDINALITIES, strict=True):
        values, counts = np.unique(column, return_counts=True)
        assert 10 < len(values) <= cardinality
        assert np.sort(counts)[-10:].sum() > 0.2 * len(column)
    assert len(set(columns_of(raw)[17])) == CARDINALITIES[7] == 11
    assert any("" in column for column in columns_of(raw)[10:])


def test_the_simulated_integers_have_gaps_negatives_and_heavy_tails(raw: Path) -> None:
    integers = columns_of(raw)[2:10]
    assert all("" in column for column in integers)
    assert any("-1" in column for column in integers)
    known = np.array([int(cell) for cell in integers[6] if cell])
    assert known.max() > 20 * np.median(known)


def test_the_truth_beside_the_simulated_file_is_what_its_conversions_were_drawn_with(raw: Path) -> None:
    columns, truth = columns_of(raw), truth_of(raw)
    is_converted = np.array([bool(cell) for cell in columns[1]])
    assert truth.impression_id[[0, -1]].tolist() == ["row-1", "row-60000"]
    assert ((truth.event_time_ms - ORIGIN_MS) // 1000 == np.array(columns[0], dtype=np.int64)).all()
    spread = np.sqrt((truth.pcvr * (1 - truth.pcvr)).sum())
    assert abs(is_converted.sum() - truth.pcvr.sum()) < 4 * spread
    assert auc(truth.pcvr, is_converted) == pytest.approx(0.845, abs=0.015)
    # Quick converters are where conversions are likely, and the delays follow each row's own law.
    assert np.corrcoef(truth.pcvr, truth.short_share)[0, 1] > 0.3
    delay_ms = 1000 * (
        np.array([int(cell) for cell in columns[1] if cell]) - np.array(columns[0], dtype=np.int64)[is_converted]
    )
    share = truth.short_share[is_converted]
    for half in (share < np.median(share), share >= np.median(share)):
        expected = conversion_delay_cdf(3_600_000, share[half], 30 * DAY_MS).mean()
        assert (delay_ms[half] < 3_600_000).mean() == pytest.approx(expected, abs=0.025)


def test_the_same_world_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        generate_criteo(tmp_path / name, CriteoWorld(clicks=500, days=2.5, seed=seed))
    one, same, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "same", "other")
    )
    assert one == same
    assert one["data.txt"] != other["data.txt"]
    assert int(one["data.txt"].splitlines()[-1].split(b"\t")[0]) < 2.5 * DAY_S
    with pytest.raises(FileExistsError, match=r"already holds data\.txt"):
        generate_criteo(tmp_path / "one", CriteoWorld(clicks=500))


@pytest.mark.parametrize(
    ("dials", "rule"),
    [
        ({"clicks": 0}, "clicks must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"days": 0.0}, "days must lie between"),
        ({"cvr": 1.0}, "cvr must lie above 0 and below 1"),
        ({"rhythm": 1.5}, "rhythm must lie between 0 and 1"),
    ],
)
def test_a_dial_out_of_range_is_refused(dials: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        CriteoWorld(**dials)


# ---- from one end to the other ----


def afterclick(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_simulated_file_is_imported_checked_replayed_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, log, run = tmp_path / "raw", tmp_path / "log", tmp_path / "run"
    assert afterclick("generate", raw, "--format", "criteo-delayed", "--impressions", 3_000, "--json") == 0
    assert json.loads(capsys.readouterr().out)["clicks"] == 3_000
    assert afterclick("import", "criteo-delayed", raw, log, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["impressions"], summary["clicks"], summary["refused"]) == (3_000, 3_000, 0)
    assert afterclick("check", log) == 0
    found = load(log / PAPERS_SETTINGS, {})
    network = msgspec.structs.replace(found.network, towers=(8,), threads=1)
    replayed = Replay(log, run, msgspec.structs.replace(found, network=network))
    for _ in replayed.run(close_at_end=True):
        pass
    metrics = replayed.pipeline.metrics()
    assert metrics.examples["CLICKED"] == metrics.examples["MATURED"] == 3_000
    assert metrics.tasks["cvr"]["model"].n == 3_000
    assert metrics.side_outputs == {}
    assert afterclick("verify", log, run) == 0


def test_the_command_line_refuses_dials_and_forms_that_mean_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, told in (
        (("--format", "parquet"), "--format must be log or criteo-delayed"),
        (("--format", "criteo-delayed", "--clean"), "has no --dial and is always --clean"),
        (("--format", "criteo-delayed", "--days", "0"), "days must lie between"),
    ):
        assert afterclick("generate", tmp_path / "raw", *arguments) == 2
        assert told in " ".join(capsys.readouterr().err.split())
