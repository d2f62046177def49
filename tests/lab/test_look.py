"""`init` looks at a log and suggests settings that parse, fit what was seen, and say why."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.adapters.files import LogError
from streaming.lab.check import check_log
from streaming.lab.clocks import futures_of
from streaming.lab.columns import suggest
from streaming.lab.durations import CLEAN_MS, clean_above, clean_near
from streaming.lab.look import suggest_settings
from streaming.lab.mapping import find_fields
from streaming.lab.sampling import take_sample
from streaming.lab.toml_text import comment, pair
from streaming.settings import Fields, Labels, Settings, parse

START = 1_700_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
Record = dict[str, Any]


def a_log(impressions: int = 4_000, seed: int = 1) -> dict[str, list[Record]]:
    """One impression a minute; one in four clicked within 5 min, one click in five converted within 10 h."""
    draw = random.Random(seed)
    log: dict[str, list[Record]] = {"impressions": [], "clicks": [], "conversions": []}
    for number in range(impressions):
        at = START + number * MINUTE
        features = {
            "user_id": draw.randrange(10**4, 10**5),
            "site": draw.choice("abc"),
            "is_new": draw.random() < 0.5,
            "hour": number // 60 % 24,
            "price": draw.lognormvariate(3, 1.5),
            "score": draw.gauss(10, 2),
            "stock": draw.randrange(500),
            "tags": draw.sample(["x", "y", "z"], k=2),
            "history": [draw.choice("abcdef") for _ in range(draw.randrange(9))],
            "country": "de",
        }
        log["impressions"].append({"impression_id": f"i{number}", "event_time_ms": at, "features": features})
        if number % 4 == 0:
            clicked = at + draw.randrange(5 * MINUTE)
            log["clicks"].append({"impression_id": f"i{number}", "event_time_ms": clicked})
            if number % 20 == 0:
                converted = clicked + draw.randrange(10 * HOUR)
                log["conversions"].append({"impression_id": f"i{number}", "event_time_ms": converted})
    for records in log.values():
        records.sort(key=lambda record: int(record["event_time_ms"]))
    return log


def text_of(records: list[Record]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def written(folder: Path, log: dict[str, list[Record]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, records in log.items():
        (folder / f"{stem}.jsonl").write_bytes(text_of(records))
    return folder


def suggested(folder: Path) -> Settings:
    return parse(suggest_settings(folder))


def test_every_key_of_the_labels_is_written_with_its_default_and_a_comment(tmp_path: Path) -> None:
    text = suggest_settings(written(tmp_path, a_log(50)))
    section = text.split("[labels]\n")[1].split("\n\n")[0].splitlines()
    keys = [line.split(" = ")[0] for line in section if not line.startswith("#")]
    assert keys == list(Labels.__struct_fields__)
    assert parse(text).labels == Labels()
    bare = [line for before, line in pairwise(["", *section]) if "#" not in before[:1] + line]
    assert [line.split(" = ")[0] for line in bare] == ["delay_prior_shares"]  # told with its ages


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("look") / "log", a_log())


@pytest.mark.parametrize("section", ["publishing", "gate", "redis", "serving"])
def test_every_key_of_what_becomes_of_weights_is_written_with_its_default_or_behind_a_mark(
    tmp_path: Path, section: str
) -> None:
    text = suggest_settings(written(tmp_path / "log", a_log(200)))
    written_out = text.partition(f"[{section}]\n")[2].partition("\n\n")[0].splitlines()
    keys = {line.removeprefix("# ").partition(" = ")[0]: line.startswith("# ") for line in written_out if " = " in line}
    standard = getattr(Settings(), section)
    assert keys == {key: getattr(standard, key) in (None, {}) for key in standard.__struct_fields__}
    assert getattr(parse(text), section) == standard
    # What is behind a mark can be had by taking the mark away.
    bare = [line.removeprefix("# ") if " = " in line else line for line in written_out]
    assert parse("\n".join([f"[{section}]", *bare])) is not None


def test_windows_fit_the_delays_that_were_seen(log: Path) -> None:
    windows = suggested(log).windows
    assert windows.click_window_ms == 5 * MINUTE
    assert windows.attribution_window_ms == 12 * HOUR  # 99 % of what is even over 10 h
    assert windows.observation_window_ms in (4 * HOUR, 6 * HOUR)  # about half of it


def test_rates_and_intervals_fit_the_traffic_that_was_seen(log: Path) -> None:
    found = suggested(log)
    assert found.network.prior_ctr == pytest.approx(0.25, abs=0.001)
    assert found.network.prior_cvr == pytest.approx(0.2, abs=0.001)
    # 4,000 minutes and the last conversions are 3 d: a fourteenth is 5 h, and 2,048 minutes would be 34 h
    assert found.cuts.cut_interval_ms == found.batching.batch_interval_ms == 6 * HOUR


def test_each_value_stands_under_its_meaning_and_what_was_seen(log: Path) -> None:
    text = suggest_settings(log)
    lines = text.splitlines()
    place = lines.index("click_window_ms = 300_000  # 5 min")
    assert (
        lines[place - 2] == "# From the impression to its click. Every impression waits this long for its click label."
    )
    assert lines[place - 1].startswith("# Seen: 99.5 % of 1,000 clicks came within 4.9")
    for line in lines:
        if "_ms = " in line:
            assert line.partition("#")[2].strip(), line


def test_kinds_of_features_follow_from_their_values(log: Path) -> None:
    found = {feature.name: feature for feature in suggested(log).features}
    assert {name: feature.kind for name, feature in found.items()} == {
        "user_id": "categorical",
        "site": "categorical",
        "is_new": "categorical",
        "hour": "categorical",
        "price": "numeric",
        "score": "numeric",
        "stock": "numeric",
        "tags": "multi",
        "history": "sequence",
    }
    assert (found["price"].transform, found["score"].transform) == ("log", "none")
    assert found["score"].center == pytest.approx(10, abs=0.2)
    assert found["score"].scale == pytest.approx(2, abs=0.1)
    assert found["history"].max_length == 10


def test_a_constant_is_left_out_with_a_comment_that_says_so(log: Path) -> None:
    assert "# \"country\" is left out: always 'de': a constant teaches nothing." in suggest_settings(log).splitlines()


COLUMNS: list[tuple[str, list[Any], int, str | None, str]] = [
    ("os", ["a", "b"], 4, "categorical", "string, 2 different, 50.0% missing"),
    ("seen", ["yes", "yes"], 4, "categorical", "1 different"),  # there or not is what it tells
    ("item_id", list(range(99)), 99, "categorical", "integer, 99 different"),
    ("itemId", list(range(99)), 99, "categorical", "integer"),
    ("bid", list(range(99)), 99, "numeric", "integers, 99 different"),  # ends in "id", but is no id
    ("hash", [10**12 + 7 * n for n in range(99)], 99, "categorical", "integer"),
    ("age", [*range(18, 80)] * 2, 124, "numeric", "18 to 79"),
    ("mixed", ["a", 1] * 50, 100, None, "is of several types (string 50%, integer 50%)"),
    ("nearly", [1.5] * 300 + [2.5] * 300 + ["x"], 601, "numeric", "floats"),
    ("price", [1, 2.5, 3], 3, "numeric", "1 to 3"),
    ("request", [f"r{n}" for n in range(1_000)], 1_000, None, "different in each of 1,000 rows"),
    ("vector", [[0.1, 0.2]], 1, None, "lists of float"),
    ("empty", [[], []], 2, None, "only empty lists"),
    ("recent_items", [["a", "b"]], 1, "sequence", "order counts"),
    ("bag", [["a", "b"], ["b"]], 2, "multi", "1.5 a row"),
    ("none", [], 5, None, "never has a value"),
    ('a"b', ["x"], 1, None, "quotation mark"),
    ("flat", [3.0, 3.0], 3, "numeric", "one value or missing"),
    ("huge", [1e308, -1e308, 1e307], 3, "numeric", "floats"),
]


@pytest.mark.parametrize(("name", "values", "rows", "kind", "why"), COLUMNS, ids=[column[0] for column in COLUMNS])
def test_the_kind_of_a_column(name: str, values: list[Any], rows: int, kind: str | None, why: str) -> None:
    found = suggest(name, values, rows)
    assert (None if found.feature is None else found.feature.kind) == kind
    assert why in found.why


def test_nested_features_are_named_by_their_paths(tmp_path: Path) -> None:
    shown = [
        {
            "impression_id": f"i{n}",
            "event_time_ms": START + n,
            "features": {"user": {"age": n % 9, "geo": {"city": f"c{n % 2}"}}},
        }
        for n in range(30)
    ]
    found = suggested(written(tmp_path, {"impressions": shown}))
    assert [feature.name for feature in found.features] == ["user.age", "user.geo.city"]


def zipped(folder: Path, stem: str, records: list[Record]) -> None:
    (folder / f"{stem}.jsonl.gz").write_bytes(gzip.compress(text_of(records)))


def framed(folder: Path, stem: str, records: list[Record]) -> None:
    half = len(records) // 2
    frames = [zstandard.ZstdCompressor().compress(text_of(part)) for part in (records[:half], records[half:])]
    (folder / f"{stem}.jsonl.zst").write_bytes(b"".join(frames))


def in_parts(folder: Path, stem: str, records: list[Record]) -> None:
    (folder / stem).mkdir()
    for number in range(0, len(records), 1_500):
        (folder / stem / f"part-{number:05d}.jsonl").write_bytes(text_of(records[number : number + 1_500]))


def as_parquet(folder: Path, stem: str, records: list[Record]) -> None:
    plain = folder / f"{stem}.json"
    plain.write_bytes(text_of(records))
    with duckdb.connect() as database:
        database.execute(f"COPY (SELECT * FROM read_json('{plain}')) TO '{folder / stem}.parquet' (FORMAT parquet)")
    plain.unlink()


@pytest.mark.parametrize("write", [zipped, framed, in_parts, as_parquet])
def test_a_log_suggests_the_same_in_every_form(
    write: Callable[[Path, str, list[Record]], None], log: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    for stem, records in a_log().items():
        write(folder, stem, records)
    found, plain = suggest_settings(folder), suggest_settings(log)
    assert parse(found) == parse(plain)
    assert found == plain


def renamed(log: dict[str, list[Record]], time: Callable[[int], Any]) -> dict[str, list[Record]]:
    """The same facts as another house would log them: a click id links them, each record has an id of its own."""
    shown = [
        {
            "id": f"row{n}",
            "meta": {"clickId": record["impression_id"]},
            "ts": time(record["event_time_ms"]),
            "context": record["features"],
        }
        for n, record in enumerate(log["impressions"])
    ]
    return {
        "impressions": shown,
        "clicks": [
            {"id": f"c{n}", "click_id": r["impression_id"], "timestamp": time(r["event_time_ms"])}
            for n, r in enumerate(log["clicks"])
        ],
        "conversions": [
            {"click_id": r["impression_id"], "time": time(r["event_time_ms"]), "revenue": 9.5}
            for r in log["conversions"]
        ],
    }


UNITS: list[tuple[str, Callable[[int], Any]]] = [
    ("s", lambda ms: ms / 1000),
    ("ms", lambda ms: ms),
    ("us", lambda ms: ms * 1000),
    ("iso8601", lambda ms: str(np.datetime64(ms, "ms")) + "+00:00"),
]


@pytest.mark.parametrize(("unit", "time"), UNITS, ids=[unit for unit, _ in UNITS])
def test_other_names_and_units_are_found_and_mapped(
    unit: str, time: Callable[[int], Any], log: Path, tmp_path: Path
) -> None:
    found = suggested(written(tmp_path, renamed(a_log(), time)))
    assert found.log.impressions == Fields(
        impression_id="meta.clickId", event_time="ts", time_unit=unit, features="context"
    )
    assert found.log.clicks == Fields(impression_id="click_id", event_time="timestamp", time_unit=unit)
    assert found.log.conversions == Fields(impression_id="click_id", event_time="time", time_unit=unit, value="revenue")
    plain = suggested(log)
    assert (found.windows, found.features, found.network) == (plain.windows, plain.features, plain.network)


def test_of_several_ids_the_one_that_links_the_streams_is_taken() -> None:
    clicks = [{"impression_id": f"own{n}", "request_id": f"r{n}", "ts": START} for n in range(50)]
    shown = [{"request_id": f"r{n}", "ts": START, "features": {}} for n in range(50)]
    assert find_fields("clicks", clicks, [shown]).fields.impression_id == "request_id"
    assert find_fields("clicks", clicks, []).fields.impression_id == "impression_id"


def test_what_cannot_be_found_is_a_warning_to_fill_in(tmp_path: Path) -> None:
    text = suggest_settings(written(tmp_path, {"impressions": [{"who": n, "when": "noon"} for n in range(9)]}))
    for name in ("impression_id", "event_time_ms"):
        assert f"# WARNING: no field of the impressions looks like {name}: name it here." in text.splitlines()
    assert "WARNING: no usable features were found" in text
    assert parse(text).windows.click_window_ms == Settings().windows.click_window_ms


def flat(log: dict[str, list[Record]]) -> dict[str, list[Record]]:
    shown = [
        {"request_id": r["impression_id"], "timestamp": r["event_time_ms"], "served": {"pctr": 0.1, "pcvr": 0.1}}
        | r["features"]
        for r in log["impressions"]
    ]
    facts = {
        stem: [{"request_id": r["impression_id"], "timestamp": r["event_time_ms"]} for r in log[stem]]
        for stem in ("clicks", "conversions")
    }
    return {"impressions": shown, **facts}


@pytest.mark.parametrize("write", [written, lambda folder, log: [as_parquet(folder, *item) for item in log.items()]])
def test_a_flat_record_is_its_own_features_without_its_envelope(
    write: Callable[[Path, dict[str, list[Record]]], object], log: Path, tmp_path: Path
) -> None:
    write(tmp_path, flat(a_log()))
    found = suggested(tmp_path)
    assert found.log.impressions == Fields(impression_id="request_id", event_time="timestamp", features="")
    assert found.features == suggested(log).features
    text = suggest_settings(tmp_path)
    assert "the records are flat" in text
    assert "WARNING" not in text
    assert check_log(tmp_path, found).streams[0].malformed == 0


def test_the_only_object_holds_the_features_whatever_its_name_and_of_several_a_person_must_choose() -> None:
    record = {"request_id": "r", "ts": START, "meta": {"host": "h"}}
    assert find_fields("impressions", [record]).fields.features == "meta"
    found = find_fields("impressions", [record | {"user": {"age": 3}}])
    assert (found.fields.features, found.lacking) == ("features", {"features": ["meta", "user"]})
    # what holds the envelope or was served is no candidate
    enveloped = {"meta": {"request_id": "r"}, "ts": START, "served": {"pctr": 0.5}, "user": {"age": 3}}
    assert find_fields("impressions", [enveloped]).fields.features == "user"


def test_candidates_for_the_features_are_listed(tmp_path: Path) -> None:
    shown = [{"request_id": f"r{n}", "ts": START + n, "meta": {"a": n}, "user": {"b": n}} for n in range(9)]
    text = suggest_settings(written(tmp_path, {"impressions": shown}))
    words = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert "no field of the impressions looks like features: name it here. It may be one of these: meta, user." in words


@pytest.mark.parametrize(("unit", "time"), UNITS, ids=[unit for unit, _ in UNITS])
def test_the_only_field_of_times_is_the_event_time_whatever_its_name(unit: str, time: Callable[[int], Any]) -> None:
    shown = [
        {"request_id": f"r{n}", "when": time(START + n), "count": n, "features": {"born": START}} for n in range(9)
    ]
    found = find_fields("impressions", shown)
    assert (found.fields.event_time, found.fields.time_unit, found.lacking) == ("when", unit, {})
    two = find_fields("impressions", [record | {"until": record["when"]} for record in shown])
    assert two.lacking == {"event_time_ms": ["when", "until"]}
    assert find_fields("impressions", [*shown, {"request_id": "r", "when": "soon"}]).fields.event_time != "when"


def test_features_that_break_inside_their_object_stop_no_look(tmp_path: Path) -> None:
    lines = [b'{"impression_id":"i%d","event_time_ms":%d,"features":{"a":%s}}' % (n, START + n, b"1e999" if n else b"5")
             for n in range(9)]  # fmt: skip
    (tmp_path / "impressions.jsonl").write_bytes(b"\n".join(lines))
    assert take_sample(tmp_path).columns == {"a": [5]}


def test_damage_is_told_and_what_stands_before_it_is_used(tmp_path: Path) -> None:
    # Draws that do not compress, so that the break is far from the start.
    draw = random.Random(3)
    shown = [
        {"impression_id": f"i{n}", "event_time_ms": START + n, "features": {"x": draw.random()}} for n in range(30_000)
    ]
    whole = gzip.compress(text_of(shown))
    (tmp_path / "impressions.jsonl.gz").write_bytes(whole[: len(whole) * 9 // 10])
    (tmp_path / "clicks.jsonl").write_bytes(b"\x00\xff garbage\n[1, 2]\n" + b"[" * 100_000 + b"\n\n")
    text = suggest_settings(tmp_path)
    words = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert "WARNING:" in words
    assert "damaged or cut off after line 2" in words  # of some 27,000
    assert "WARNING: cannot be read: 3 clicks, the first because: not" in words
    assert [feature.name for feature in parse(text).features] == ["x"]


def test_an_empty_log_gives_defaults_and_no_log_is_an_error(tmp_path: Path) -> None:
    found = suggested(written(tmp_path / "empty", {"impressions": [], "clicks": [], "conversions": []}))
    assert (found.features, found.windows.click_window_ms) == ((), Settings().windows.click_window_ms)
    with pytest.raises(LogError, match="does not exist"):
        suggest_settings(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(LogError, match="holds neither impressions nor clicks nor conversions"):
        suggest_settings(tmp_path / "other")


def test_stamps_of_the_future_stretch_neither_the_disorder_nor_the_span(log: Path, tmp_path: Path) -> None:
    records = a_log()
    # one in the middle, one at the very end
    records["impressions"][2_000]["event_time_ms"] += 400 * 24 * HOUR
    records["impressions"][-1]["event_time_ms"] += 400 * 24 * HOUR
    text = suggest_settings(written(tmp_path, records))
    found, plain = parse(text), suggested(log)
    assert (found.event_time, found.cuts) == (plain.event_time, plain.cuts)
    assert "# WARNING: left out because they are stamped in the future: 2 impressions." in text.splitlines()


def test_disorder_asks_for_a_bound_and_for_an_alignment_beyond_it(tmp_path: Path) -> None:
    records = a_log()
    for number in range(100, 4_000, 50):  # one in fifty comes 20 min after its time
        records["impressions"][number]["event_time_ms"] -= 20 * MINUTE
    found = suggested(written(tmp_path, records)).event_time
    assert found.out_of_orderness_ms == 20 * MINUTE
    assert found.alignment_ms > found.out_of_orderness_ms


def test_the_length_of_a_log_is_known_from_its_end_not_from_its_first_records(tmp_path: Path) -> None:
    records = a_log()
    for write in (written, lambda folder, log: [zipped(folder, stem, rows) for stem, rows in log.items()]):
        folder = tmp_path / write.__name__.strip("<>")
        folder.mkdir()
        write(folder, records)
        stream = next(iter(take_sample(folder, records=300).streams.values()))
        assert (len(stream), stream.is_whole) == (300, False)
        assert stream.last_ms == records["impressions"][-1]["event_time_ms"]


def test_rates_of_1_are_clamped_so_that_the_head_bias_stays_finite(tmp_path: Path) -> None:
    shown = [{"impression_id": f"i{n}", "event_time_ms": START + n * 1000, "features": {}} for n in range(50)]
    assert suggested(written(tmp_path, {"impressions": shown, "clicks": shown})).network.prior_ctr == 0.98
    line = next(line for line in suggest_settings(tmp_path).splitlines() if line.startswith("prior_ctr"))
    assert "seen: 50 clicks on 50 impressions; capped, since from a start nearer to 1 the model takes long" in line


@settings(deadline=None)
@given(st.floats(0, 1e10))
def test_clean_lengths_are_the_next_above_and_the_nearest_by_ratio(ms: float) -> None:
    assert clean_above(ms) == min((clean for clean in CLEAN_MS if clean >= ms), default=CLEAN_MS[-1])
    nearest = clean_near(ms)
    assert all(
        max(ms, nearest) * min(ms, clean) <= max(ms, clean) * min(ms, nearest) * (1 + 1e-9) for clean in CLEAN_MS
    )


@settings(deadline=None)
@given(st.text(), st.text())
def test_whatever_a_log_holds_cannot_break_the_settings_file(value: str, remark: str) -> None:
    text = "\n".join([comment(value, remark), "[labels]", pair("method", "mature", remark)])
    assert parse(text) == Settings()


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 100), max_size=25), min_size=1, max_size=3),
    st.integers(0, 60),
    st.integers(0, 20),
)
def test_records_of_the_future_are_those_that_a_plain_reading_of_the_rule_finds(
    files: list[list[int]], skew: int, lead: int
) -> None:
    found = futures_of([[np.array(file, dtype=np.int64) for file in files]], skew_ms=skew, leads_ms=[lead])[0]
    for file, futures in zip(files, found, strict=True):
        for place, at in enumerate(file[:-1]):
            if len(file) - place > 16:
                assert futures[place] == all(at - other > skew for other in file[place + 1 : place + 17])
            else:
                kept = [other for other, future in zip(file[:place], futures, strict=False) if not future]
                assert futures[place] == all(at - other > skew + lead for other in kept + file[place + 1 :])
    if len(files) == 1 and len(files[0]) > 1:
        *rest, last = files[0]
        kept = [at for at, future in zip(rest, found[0], strict=False) if not future]
        assert found[0][-1] == (bool(kept) and last - max(kept) > skew + lead)
