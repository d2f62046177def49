"""Any flat table becomes a log: sorted however it stood, each fact where the mapping says, and what is wrong with a row told."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.cli import main
from streaming.lab.csv_rows import SourceError
from streaming.lab.importers import ImportSummary
from streaming.lab.table_import import import_table
from streaming.lab.table_mapping import TableMapping, load_mapping
from streaming.settings import SettingsError, load

NOON_MS = 1_714_564_800_000  # 2024-05-01T12:00:00Z
TABLE = """\
id,place,shown,clicked_at,bought_at,bought,revenue,age,zip,score
a,x,2024-05-01 12:00:03,2024-05-01 12:00:05,2024-05-02 12:00:05,1,9.5,31,007,1.5
b,x,2024-05-01 12:00:01,,,0,,22,100,2
c,"y,z",2024-05-01T14:00:00.5+02:00,2024-05-01 12:00:05Z,,0,,,200,
"""
MAPPING = TableMapping(
    impression_id="id",
    impression_time="shown",
    click_time="clicked_at",
    conversion_time="bought_at",
    converted="bought",
    value="revenue",
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def log_of(log: Path) -> dict[str, list[dict[str, Any]]]:
    return {stem: lines(log / f"{stem}.jsonl") for stem in ("impressions", "clicks", "conversions")}


def imported(tmp_path: Path, text: str, mapping: TableMapping = MAPPING) -> ImportSummary:
    (tmp_path / "table.csv").write_text(text)
    return import_table(tmp_path / "table.csv", tmp_path / "log", mapping)


def to_parquet(select: str, path: Path) -> Path:
    with duckdb.connect() as database:
        database.execute(f"SET TimeZone = 'UTC'; COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


EXPECTED = {
    "impressions": [
        {"impression_id": "c", "event_time_ms": NOON_MS + 500, "features": {"place": "y,z", "age": None, "zip": "200", "score": None}},
        {"impression_id": "b", "event_time_ms": NOON_MS + 1_000, "features": {"place": "x", "age": 22, "zip": "100", "score": 2.0}},
        {"impression_id": "a", "event_time_ms": NOON_MS + 3_000, "features": {"place": "x", "age": 31, "zip": "007", "score": 1.5}},
    ],
    "clicks": [
        {"impression_id": "a", "event_time_ms": NOON_MS + 5_000},
        {"impression_id": "c", "event_time_ms": NOON_MS + 5_000},
    ],
    "conversions": [{"impression_id": "a", "event_time_ms": NOON_MS + 86_405_000, "value": 9.5}],
}  # fmt: skip


def test_rows_become_facts_in_time_order_and_columns_features_of_their_type(tmp_path: Path) -> None:
    summary = imported(tmp_path, TABLE)
    assert log_of(tmp_path / "log") == EXPECTED
    assert (summary.impressions, summary.clicks, summary.conversions, summary.refused) == (3, 2, 1, 0)
    assert (summary.first_ms, summary.last_ms) == (NOON_MS + 500, NOON_MS + 3_000)
    assert {feature.name for feature in load(tmp_path / "log/settings.toml", {}).features} == {
        "place",
        "age",
        "zip",
        "score",
    }
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        "clicks.jsonl", "conversions.jsonl", "impressions.jsonl", "settings.toml",
    ]  # fmt: skip


def test_parquet_zipped_csv_and_parts_give_the_same_log(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    cells = "* REPLACE (shown::TIMESTAMPTZ AS shown, clicked_at::TIMESTAMPTZ::TIMESTAMP AS clicked_at, bought::BOOLEAN AS bought)"
    source = f"SELECT {cells} FROM read_csv('{tmp_path / 'table.csv'}', types = {{'shown': 'VARCHAR', 'clicked_at': 'VARCHAR', 'zip': 'VARCHAR'}})"
    to_parquet(source, tmp_path / "table.parquet")
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped/table.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    head, *rows = TABLE.splitlines(keepends=True)
    for number, rest in enumerate((rows[:1], rows[1:])):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / f"parts/{number}.csv").write_text("".join([head, *rest]))
        (tmp_path / "parquet").mkdir(exist_ok=True)
        to_parquet(f"{source} LIMIT 2 OFFSET {2 * number}", tmp_path / f"parquet/{number}.parquet")
    for source_name in ("table.parquet", "zipped", "parts", "parquet"):
        import_table(tmp_path / source_name, tmp_path / f"{source_name}.log", MAPPING)
        assert log_of(tmp_path / f"{source_name}.log") == EXPECTED


UNITS = [
    ("s", "1714564800.123", "1714564800"),
    ("ms", "1714564800123", "1714564800000"),
    ("us", "1714564800123999", "1714564800000000"),
    ("iso8601", "2024-05-01T12:00:00.123999Z", "2024-05-01 14:00:00+02:00"),
    (None, "2024-05-01 12:00:00.123", "2024-05-01"),
]


@pytest.mark.parametrize(("unit", "first", "second"), UNITS, ids=[str(unit) for unit, *_ in UNITS])
def test_times_are_read_in_their_unit_and_rounded_down(unit: Any, first: str, second: str, tmp_path: Path) -> None:
    mapping = TableMapping(impression_time="at", click_time="at", time_unit=unit)
    imported(tmp_path, f"at,x\n{first},1\n{second},2\n", mapping)
    midnight = datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1000 if unit is None else NOON_MS
    assert [record["event_time_ms"] for record in lines(tmp_path / "log/impressions.jsonl")] == [
        midnight,
        NOON_MS + 123,
    ]


def test_no_millisecond_is_lost_of_seconds_with_three_digits(tmp_path: Path) -> None:
    text = "at,x\n" + "".join(f"{1714564800 + ms / 1000:.3f},1\n" for ms in range(1000))
    imported(tmp_path, text, TableMapping(impression_time="at", click_time="at", time_unit="s"))
    assert [record["event_time_ms"] - NOON_MS for record in lines(tmp_path / "log/clicks.jsonl")] == list(range(1000))


def test_rows_without_ids_are_named_by_their_places_and_clicks_without_times_come_with_their_impressions(
    tmp_path: Path,
) -> None:
    (tmp_path / "parts").mkdir()
    for name, second in (("one", 2), ("two", 1)):
        (tmp_path / f"parts/{name}.csv").write_text(
            f"at,click,x\n2024-05-01 12:00:0{second},true,1\n2024-05-01 12:00:00,0,2\n"
        )
    mapping = TableMapping(impression_time="at", clicked="click")
    import_table(tmp_path / "parts", tmp_path / "log", mapping)
    assert lines(tmp_path / "log/clicks.jsonl") == [
        {"impression_id": "row-1-2", "event_time_ms": NOON_MS + 1_000},
        {"impression_id": "row-0-2", "event_time_ms": NOON_MS + 2_000},
    ]
    import_table(tmp_path / "parts/one.csv", tmp_path / "other", mapping)
    assert [record["impression_id"] for record in lines(tmp_path / "other/impressions.jsonl")] == ["row-3", "row-2"]


def test_a_column_may_be_called_anything_and_named_features_alone_are_taken(tmp_path: Path) -> None:
    text = (
        'id,place,value,fault,a.b,"q""s",impression_ms,refused,at\n'
        "i,p,1,f,ab,q,5,r,2024-05-01 12:00:00\nj,p,2,f,ab,q,6,r,2024-05-01 12:00:00\n"
    )
    imported(tmp_path, text, TableMapping(impression_time="at", click_time="at", impression_id="id"))
    first = lines(tmp_path / "log/impressions.jsonl")[0]["features"]
    assert first == {
        "place": "p", "value": 1, "fault": "f", "a_b": "ab", 'q"s': "q", "impression_ms": 5, "refused": "r",
    }  # fmt: skip
    mapping = TableMapping(impression_time="at", click_time="at", features=("place", "value"), text=("value",))
    import_table(tmp_path / "table.csv", tmp_path / "few", mapping)
    assert lines(tmp_path / "few/impressions.jsonl")[0]["features"] == {"place": "p", "value": "1"}


def test_numbers_that_are_names_stay_text_and_what_json_cannot_say_is_missing(tmp_path: Path) -> None:
    text = "at,code,large,real\n2024-05-01,0012,1234567890123456789,1e3\n2024-05-01,12,1,2.5\n"
    imported(tmp_path, text, TableMapping(impression_time="at", click_time="at"))
    assert [record["features"] for record in lines(tmp_path / "log/impressions.jsonl")] == [
        {"code": "0012", "large": "1234567890123456789", "real": 1000.0},
        {"code": "12", "large": "1", "real": 2.5},
    ]
    source = to_parquet(
        "SELECT TIMESTAMP '2024-05-01' AS at, 'nan'::DOUBLE AS x, 18446744073709551615::UBIGINT AS hash, 1.25::DECIMAL(9, 2) AS price, "
        "[1, 2] AS history, DATE '2024-04-30' AS day, {'age': 3} AS person",
        tmp_path / "table.parquet",
    )
    mapping = TableMapping(impression_time="at", click_time="at", features=("x", "hash", "price", "history", "day"))
    import_table(source, tmp_path / "parquet", mapping)
    assert lines(tmp_path / "parquet/impressions.jsonl")[0]["features"] == {
        "x": None, "hash": "18446744073709551615", "price": 1.25, "history": [1, 2], "day": "2024-04-30",
    }  # fmt: skip
    with pytest.raises(SourceError, match=r"'person' of type STRUCT.* which no feature can be: name the `features`"):
        import_table(source, tmp_path / "no", TableMapping(impression_time="at", click_time="at"))


BAD_ROWS = [
    (",x,2024-05-01 12:00:00,,,0,,,,", "id must not be empty"),
    ("d,x,,,,0,,,,", "shown must not be empty"),
    (
        "d,x,soon,,,0,,,,",
        "shown must be a time such as 2017-11-07 09:30:38 (numbers need time_unit in the mapping) (got soon)",
    ),
    ("d,x,1970-02-01,,,0,,,,", 'shown looks like seconds: set time_unit = "s" if it is (got 1970-02-01)'),
    ("d,x,2024-05-01 12:00:00,2024-05-01 11:59:57,,0,,,,", "the click came before its impression"),
    ("d,x,2024-05-01 12:00:00,2024-05-01 12:00:00,2024-05-01 11:00:00,1,,,,", "the conversion came before its click"),
    ("d,x,2024-05-01 12:00:00,,2024-05-01 12:00:00,0,,,,", "bought must be 1 with a bought_at and 0 without"),
    ("d,x,2024-05-01 12:00:00,,,1,,,,", "bought must be 1 with a bought_at and 0 without"),
    ("d,x,2024-05-01 12:00:00,,,,,,,", "bought must be 0 or 1 (got nothing)"),
    ("d,x,2024-05-01 12:00:00,,,maybe,,,,", "bought must be 0 or 1 (got maybe)"),
    ("d,x,2024-05-01 12:00:00,,,0,much,,,", "revenue must be a finite number (got much)"),
    ("d,x,2024-05-01 12:00:00,,,0,inf,,,", "revenue must be a finite number (got inf)"),
    ("b,x,2024-05-01 11:00:00,,,0,,,,", "its id stands in table.csv:3 already"),
    ("d,x,2024-05-01 12:00:00", "has 3 cells (rule: 10, as the header)"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_ROWS, ids=[f"{n} {reason}" for n, (_, reason) in enumerate(BAD_ROWS)])
def test_a_bad_row_is_counted_and_kept_with_its_place_and_reason(text: str, reason: str, tmp_path: Path) -> None:
    summary = imported(tmp_path, f"{TABLE}{text}\n")
    assert summary.first_refusals == [f"table.csv:5: {reason}"]
    assert log_of(tmp_path / "log") == EXPECTED
    (letter,) = lines(tmp_path / "log/dead_letters.jsonl")
    assert (letter["at"], letter["reason"], letter["door"]) == ("table.csv:5", reason, "dead_letters")
    assert "d,x" in text or '"place":"x"' in letter["record"]


def test_a_fact_stamped_a_little_before_the_one_it_follows_is_left_to_the_join(tmp_path: Path) -> None:
    text = f"{TABLE}d,x,2024-05-01 12:00:02,2024-05-01 12:00:00,,0,,,,\n"
    assert (imported(tmp_path, text).refused, imported_clicks(tmp_path)) == (0, ["d", "a", "c"])


def imported_clicks(tmp_path: Path) -> list[str]:
    return [record["impression_id"] for record in lines(tmp_path / "log/clicks.jsonl")]


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.integers(0, 3_000), st.none() | st.integers(-3, 9), st.none() | st.integers(-3, 9)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_the_log_is_what_a_plain_loop_over_the_rows_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int | None, int | None]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    shown: list[tuple[int, int, str]] = []
    clicks: list[tuple[int, int, str]] = []
    conversions: list[tuple[int, int, str]] = []
    refused = 0
    text = "id,shown,click,sale,x\n"
    seen = set()
    for number, (name, second, click, sale) in enumerate(rows):
        at = [None if delay is None else 1_714_564_800 + second + delay for delay in (0, click, sale)]
        text += ",".join("" if cell is None else str(cell) for cell in (name, *at, number)) + "\n"
        too_early = click is not None and (click < -2 or (sale is not None and sale - click < -2))
        if too_early or name in seen:
            refused += 1
            continue
        seen.add(name)
        for stream, time in ((shown, at[0]), (clicks, at[1]), (conversions, at[2])):
            if time is not None:
                stream.append((time * 1000, number, str(name)))
    mapping = TableMapping(
        impression_id="id", impression_time="shown", click_time="click", conversion_time="sale", time_unit="s"
    )
    if not shown:
        with pytest.raises(SourceError, match=r"has no usable row; the first: table\.csv:2"):
            imported(folder, text, mapping)
        return
    assert imported(folder, text, mapping).refused == refused
    for stem, expected in (("impressions", shown), ("clicks", clicks), ("conversions", conversions)):
        found = [(record["event_time_ms"], record["impression_id"]) for record in lines(folder / f"log/{stem}.jsonl")]
        assert found == [(time, name) for time, _, name in sorted(expected)]


WRONG_TABLES = [
    ("id,shown\na,2024-05-01\n", {"click_time": "clicked_at"}, "has no column 'clicked_at' (it has id, shown): mend the mapping"),
    ("id,shown\na,1714564800\n", {"click_time": "shown"}, "'shown' holds numbers: set time_unit = \"s\", \"ms\" or \"us\""),
    ("id,shown\na,2024-05-01\n", {"click_time": "shown", "impression_id": "id"}, "has no column left for a feature"),
    ("id,shown,a.b,a_b\na,2024-05-01,1,2\n", {"click_time": "shown"}, "has two columns for the feature 'a_b'"),
    ("id,shown\n", {"click_time": "shown"}, "has no rows: a table is a header and lines below it"),
    ("", {"click_time": "shown"}, "table.csv is empty: its first line must be a header"),
    ("id,shown,shown\n", {"click_time": "shown"}, "has the column 'shown' twice"),
    ("id,shown,x\na,soon,1\n", {"click_time": "shown"}, "has no usable row; the first: table.csv:2: shown must be a time"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "columns", "told"), WRONG_TABLES, ids=[told for *_, told in WRONG_TABLES])
def test_a_table_that_does_not_fit_its_mapping_is_refused_and_nothing_is_left(
    text: str, columns: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, text, TableMapping(impression_time="shown", **columns))
    assert told in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_types_that_cannot_be_a_time_or_an_id_are_refused_by_name(tmp_path: Path) -> None:
    source = to_parquet(
        "SELECT true AS flag, 1.5::DOUBLE AS real, TIMESTAMP '2024-05-01' AS at, 1 AS x", tmp_path / "t.parquet"
    )
    with pytest.raises(SourceError, match=r"'flag' of type BOOLEAN, which is no time"):
        import_table(source, tmp_path / "log", TableMapping(impression_time="flag", click_time="at"))
    with pytest.raises(SourceError, match=r"'real' of type DOUBLE, which is no id"):
        import_table(
            source, tmp_path / "log", TableMapping(impression_time="at", click_time="at", impression_id="real")
        )


def test_files_that_are_no_one_table_are_refused(tmp_path: Path) -> None:
    mapping = TableMapping(impression_time="at", click_time="at")
    folder = tmp_path / "parts"
    folder.mkdir()

    def refused(source: Path) -> str:
        with pytest.raises(SourceError) as caught:
            import_table(source, tmp_path / "log", mapping)
        assert not (tmp_path / "log").exists()
        return str(caught.value)

    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "holds no .parquet, .csv, .csv.gz" in refused(folder)
    (folder / "one.csv").write_text("at,x\n2024-05-01,1\n")
    (folder / "two.csv").write_text("at,y\n2024-05-01,1\n")
    assert "two.csv" in refused(folder)
    (folder / "two.csv").unlink()
    (folder / "two.parquet").write_bytes(b"no parquet")
    assert "holds Parquet and CSV" in refused(folder)
    assert "cannot be read as one table" in refused(folder / "two.parquet")
    (folder / "table.txt").write_text("at,x\n")
    assert "must end in .parquet, .csv, .csv.gz" in refused(folder / "table.txt")


WRONG_MAPPINGS = [
    ('impression_time = "at"', "click_time or clicked must be named"),
    ('click_time = "at"', "missing required field `impression_time`"),
    ('impression_time = "at"\nclick_time = "at"\nconverted = "c"', "converted needs conversion_time"),
    ('impression_time = "at"\nclick_time = "at"\nvalue = "c"', "value needs conversion_time"),
    ('impression_time = "at"\nclicked = "c"\nfeatures = ["x", "c"]', "features must not hold 'c'"),
    ('impression_time = "at"\nclicked = "c"\ntime = "s"', "unknown field `time`"),
    ("impression_time = at", "is not TOML"),
]


@pytest.mark.parametrize(("text", "told"), WRONG_MAPPINGS, ids=[told for _, told in WRONG_MAPPINGS])
def test_a_mapping_that_makes_no_sense_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_mapping(tmp_path / "mapping.toml")
    assert told in str(caught.value)
    with pytest.raises(SettingsError, match=r"nowhere\.toml cannot be read"):
        load_mapping(tmp_path / "nowhere.toml")


def afterclick(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_table_is_imported_from_the_command_line_by_its_mapping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "mapping.toml").write_text(
        'impression_id = "id"\nimpression_time = "shown"\nclick_time = "clicked_at"\nconversion_time = "bought_at"\nvalue = "revenue"\n'
    )
    arguments = ("import", "table", tmp_path / "table.csv", tmp_path / "log")
    assert afterclick(*arguments, "--mapping", tmp_path / "mapping.toml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["conversions"] == 1
    assert afterclick(*arguments) == 2
    assert "table needs --mapping FILE" in " ".join(capsys.readouterr().err.split())
    assert afterclick("import", "talkingdata", *arguments[2:], "--mapping", tmp_path / "mapping.toml") == 2
    assert "--mapping is for table" in " ".join(capsys.readouterr().err.split())
    assert afterclick("import", "taobao", *arguments[2:]) == 2
    assert "NAME must be one of criteo-delayed, talkingdata, open-bandit, table" in " ".join(
        capsys.readouterr().err.split()
    )
