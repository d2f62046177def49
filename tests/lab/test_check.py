"""`check` counts what is in a log, and each thing that can be wrong with one is told with what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from models.delay import METHODS
from models.schema import Feature
from streaming.adapters.files import LogError
from streaming.lab.check import check_log
from streaming.lab.findings import LogFindings, Problem
from streaming.lab.following import Column, follow
from streaming.lab.raw_lines import raw_lines
from streaming.settings import Labels, Settings, parse

START = 1_700_000_000_000
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
Record = dict[str, Any]
Log = dict[str, list[Record]]


def fact(number: int, at: int) -> Record:
    return {"impression_id": f"i{number}", "event_time_ms": at}


def a_log() -> Log:
    """2,000 impressions, one a minute; each fifth clicked after 30 s, each fifth click converted after 2 h; then nothing for 8 d."""
    shown = [fact(n, START + n * MINUTE) | {"features": {"x": n}} for n in range(2_000)]
    clicks = [fact(n, START + n * MINUTE + 30 * SECOND) for n in range(0, 2_000, 5)]
    conversions = [fact(n, START + n * MINUTE + 30 * SECOND + 2 * HOUR) for n in range(0, 2_000, 25)]
    end = START + 10 * 24 * HOUR
    return {"impressions": [*shown, fact(2_000, end) | {"features": {}}], "clicks": clicks, "conversions": conversions}


FITTING = parse(
    f"[windows]\nclick_window_ms = {MINUTE}\nobservation_window_ms = {HOUR}\nattribution_window_ms = {6 * HOUR}\n"
    f"[event_time]\nfuture_skew_ms = {30 * 24 * HOUR}"
)


def written(folder: Path, log: Log) -> Path:
    for stem, records in log.items():
        (folder / f"{stem}.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return folder


def told(found: LogFindings, text: str) -> Problem:
    matching = [problem for problem in found.problems if text in problem.what]
    assert len(matching) == 1, [problem.what for problem in found.problems]
    return matching[0]


def test_a_log_in_order_is_counted_and_has_no_problems(tmp_path: Path) -> None:
    found = check_log(written(tmp_path, a_log()), FITTING)
    assert found.problems == []
    assert [(stream.stem, stream.records, stream.malformed, stream.late) for stream in found.streams] == [
        ("impressions", 2_001, 0, 0),
        ("clicks", 400, 0, 0),
        ("conversions", 80, 0, 0),
    ]
    assert (found.clicks.followed, found.clicks.owners, found.clicks.rate) == (400, 2_001, 400 / 2_001)
    assert (found.conversions.followed, found.conversions.owners, found.conversions.rate) == (80, 400, 0.2)
    assert found.clicks.delay_ms is not None
    assert (found.clicks.delay_ms.p50, found.clicks.delay_ms.max) == (30 * SECOND, 30 * SECOND)
    # the one at the very end is open: its window ends after the log
    assert (found.open_impressions, found.open_clicks) == (1, 0)


def test_suggested_windows_stand_beside_the_current_ones(tmp_path: Path) -> None:
    found = check_log(written(tmp_path, a_log()), FITTING)
    assert [(advice.key, advice.now_ms, advice.suggested_ms) for advice in found.advice] == [
        ("windows.click_window_ms", MINUTE, 30 * SECOND),
        ("windows.observation_window_ms", HOUR, 2 * HOUR),
        ("windows.attribution_window_ms", 6 * HOUR, 2 * HOUR),
        ("event_time.out_of_orderness_ms", 10 * SECOND, SECOND),
    ]


def test_findings_are_rows_for_a_table_and_json(tmp_path: Path) -> None:
    found = check_log(written(tmp_path, a_log()), FITTING)
    rows = dict(found.rows())
    assert rows["click rate"] == "0.1999 (400 of 2,001 impressions)"
    assert rows["windows.click_window_ms"] == "1 min; suggested 30 s"
    assert json.loads(msgspec.json.encode(found))["conversions"]["rate"] == 0.2


def seconds(log: Log) -> Log:
    return log | {"clicks": [record | {"event_time_ms": record["event_time_ms"] // 1000} for record in log["clicks"]]}


def other_ids(log: Log) -> Log:
    return log | {"clicks": [record | {"impression_id": f"c{n}"} for n, record in enumerate(log["clicks"])]}


def lost_impressions(log: Log) -> Log:
    return log | {"impressions": log["impressions"][200:]}


def lost_clicks(log: Log) -> Log:
    return log | {"clicks": [record for record in log["clicks"] if record["impression_id"] != "i0"]}


def slow_clicks(log: Log) -> Log:
    return log | {
        "clicks": [record | {"event_time_ms": record["event_time_ms"] + 9 * MINUTE} for record in log["clicks"]]
    }


def local_time(log: Log) -> Log:
    return log | {
        "clicks": [record | {"event_time_ms": record["event_time_ms"] - 2 * HOUR} for record in log["clicks"]]
    }


def clicked_twice(log: Log) -> Log:
    return log | {"clicks": sorted(log["clicks"] * 2, key=lambda record: int(record["event_time_ms"]))}


def shown_twice(log: Log) -> Log:
    return log | {"impressions": sorted(log["impressions"] * 2, key=lambda record: int(record["event_time_ms"]))}


def dead_stream(log: Log) -> Log:
    gone = range(START + 600 * MINUTE, START + 1_200 * MINUTE)
    return log | {"clicks": [record for record in log["clicks"] if record["event_time_ms"] not in gone]}


def backwards(log: Log) -> Log:
    return log | {"impressions": log["impressions"][::-1]}


def stragglers(log: Log) -> Log:
    shown = list(log["impressions"])
    for place in range(0, 1_900, 50):
        shown.insert(place + 5, shown.pop(place))
    return log | {"impressions": shown}


def no_conversions(log: Log) -> Log:
    return {stem: records for stem, records in log.items() if stem != "conversions"}


def no_clicks(log: Log) -> Log:
    return log | {"clicks": []}


def all_clicked(log: Log) -> Log:
    return log | {"clicks": [fact(n, record["event_time_ms"]) for n, record in enumerate(log["impressions"])]}


def other_years(log: Log) -> Log:
    return log | {
        "clicks": [record | {"event_time_ms": record["event_time_ms"] - 900 * 24 * HOUR} for record in log["clicks"]]
    }


WRONG: list[tuple[Callable[[Log], Log], str, str, str]] = [
    (
        seconds,
        "error",
        "malformed: all 400 clicks, because: event_time_ms is 1700000030, which looks like seconds: set log.clicks.time_unit",
        "For example clicks.jsonl:1. They go",
    ),
    (other_ids, "error", "without an impression in this log: all 400 clicks", "Is [log.clicks] impression_id the id"),
    (
        lost_impressions,
        "warning",
        "without an impression in this log: 40 of 400 clicks (10 %)",
        "lost or older than the log",
    ),
    (lost_clicks, "warning", "of an impression without a click: 1 of 80 conversions (1.25 %)", "View-through"),
    (
        slow_clicks,
        "warning",
        "so that they do not count: all 400 clicks",
        "Set windows.click_window_ms = 600000 (10 min)",
    ),
    (
        local_time,
        "error",
        "stamped before their impression by more than clock_skew_ms = 2 s: all 400",
        "-2 h: one of the two",
    ),
    (clicked_twice, "note", "repeating one that is there already: 400 of 800 clicks (50 %)", "duplicates.jsonl"),
    (shown_twice, "warning", "repeating an impression_id: 2,001 of 4,002 impressions (50 %)", "a single impression"),
    (
        dead_stream,
        "error",
        "no clicks from 2023-11-15 09:00:00 UTC to 2023-11-15 18:00:00 UTC, where about 76",
        "cut the stretch out of all three",
    ),
    (backwards, "error", "out of order by more than out_of_orderness_ms = 10 s: 2,000 of", "sort it by event time"),
    (
        stragglers,
        "warning",
        "out of order by more than out_of_orderness_ms = 10 s: 38 of",
        "Set event_time.out_of_orderness_ms = 300000",
    ),
    (no_conversions, "warning", "there are no conversions", "Only the click rate"),
    (no_clicks, "error", "there are no clicks", "clicks.jsonl or a folder clicks/"),
    (all_clicked, "warning", "clicked: all 2,001 impressions", "Were only clicked impressions logged?"),
    (other_years, "error", "the streams do not overlap in time", "the same days"),
]


@pytest.mark.parametrize(("spoil", "severity", "what", "remedy"), WRONG, ids=[case[0].__name__ for case in WRONG])
def test_what_is_wrong_with_a_log_is_told(
    spoil: Callable[[Log], Log], severity: str, what: str, remedy: str, tmp_path: Path
) -> None:
    found = check_log(written(tmp_path, spoil(a_log())), FITTING)
    problem = told(found, what)
    assert problem.severity == severity
    assert remedy in problem.remedy
    ranks = [["error", "warning", "note"].index(problem.severity) for problem in found.problems]
    assert ranks == sorted(ranks)


def test_a_cause_is_told_once_and_without_its_place_in_the_line(tmp_path: Path) -> None:
    (tmp_path / "clicks.jsonl").write_bytes(b'{"impression_id":}\n{"impression_id" :}\n')
    problem = told(check_log(tmp_path, FITTING), "malformed: all 2 clicks, because: not JSON")
    assert "(byte" not in problem.what + problem.remedy
    assert "not JSON" not in problem.remedy
    assert problem.remedy.startswith("For example clicks.jsonl:1. They go to dead_letters.jsonl.")


def test_a_feature_that_no_record_has_is_told_with_what_is_there(tmp_path: Path) -> None:
    log = a_log()
    log["impressions"][7]["features"] = {"x": 1, "rare": 2, "item": {"id": "b"}}
    features = (
        Feature(name="x", kind="categorical"),
        Feature(name="itm", kind="categorical"),
        Feature(name="thing", kind="categorical", path="item.di"),
        Feature(name="rare", kind="numeric"),
        Feature(name="cross", kind="crossed", inputs=("x", "itm")),
    )
    found = check_log(written(tmp_path, log), msgspec.structs.replace(FITTING, features=features))
    assert [problem.severity for problem in found.problems] == ["warning"] * 3
    itm = told(found, "feature itm has a value in none of 2,001 impressions looked at")
    assert itm.remedy == "Is the name or path right? Seen and not in the settings: item.id"
    told(found, "feature thing (path item.di) has a value in none")
    told(found, "feature rare has a value in 1 of 2,001")


def test_a_method_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    settings_ = msgspec.structs.replace(FITTING, labels=Labels(method="matured"))
    problem = told(check_log(written(tmp_path, a_log()), settings_), 'there is no labels.method "matured"')
    assert (problem.severity, problem.remedy) == ("error", f"Set it to one of {', '.join(METHODS)}")


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (Labels(method="fnc"), 'labels.method = "fnc" needs network.objective = "composed" (got "esmm")'),
        (
            Labels(method="window", normalization="paper"),
            'labels.normalization = "paper" needs network.objective = "composed"',
        ),
        (Labels(method="survival", delay_model="heads"), 'labels.delay_model = "heads" and labels.method = "survival"'),
        (Labels(method="nowhere_here:OWN"), "labels.method 'nowhere_here:OWN' cannot be imported"),
    ],
)
def test_what_a_replay_would_refuse_is_an_error(labels: Labels, what: str, tmp_path: Path) -> None:
    problem = told(check_log(written(tmp_path, a_log()), msgspec.structs.replace(FITTING, labels=labels)), what)
    assert problem.severity == "error"


def test_what_only_follows_from_unreadable_impressions_is_not_told_too(tmp_path: Path) -> None:
    log = a_log()
    log["impressions"] = [{"id": record["impression_id"]} for record in log["impressions"]]
    found = check_log(written(tmp_path, log), FITTING)
    assert [problem.severity for problem in found.problems] == ["error"]
    assert "malformed: all 2,001 impressions" in found.problems[0].what


@pytest.mark.parametrize(("days", "cause"), [(3, "the window may be too short"), (900, "the clock that stamped them")])
def test_a_last_conversion_beyond_the_window_is_not_blamed_on_the_clock(days: int, cause: str, tmp_path: Path) -> None:
    log = a_log()
    log["impressions"].pop()
    late = log["conversions"][-1]
    late["event_time_ms"] += days * 24 * HOUR
    strict = msgspec.structs.replace(FITTING, event_time=Settings().event_time)
    found = check_log(written(tmp_path, log), strict)
    assert found.streams[2].future == 1
    problem = told(found, "1 of 80 conversions (1.25 %)")
    assert cause in problem.remedy.lower()
    assert ("attribution_window_ms = 6 h" in problem.what) == (days == 3)


def test_an_hour_without_clicks_where_few_were_due_is_no_gap(tmp_path: Path) -> None:
    log = a_log()
    gone = range(START + 600 * MINUTE, START + 660 * MINUTE)  # 12 clicks were due
    log["clicks"] = [record for record in log["clicks"] if record["event_time_ms"] not in gone]
    assert check_log(written(tmp_path, log), FITTING).gaps == []


def test_a_log_that_ends_too_soon_says_how_many_clicks_stay_open(tmp_path: Path) -> None:
    log = a_log()
    log["impressions"].pop()
    found = check_log(written(tmp_path, log), FITTING)
    # The last record is a conversion at minute 1,975 + 120.5; 6 h and 10 s before it, clicks are past their window.
    still_open = sum(
        record["event_time_ms"] + 6 * HOUR >= START + int(2_095.5 * MINUTE) - 10 * SECOND for record in log["clicks"]
    )
    assert found.open_clicks == still_open == 53
    assert "53 clicks stay open" in told(found, "the log ends before attribution_window_ms = 6 h").what
    longer = msgspec.structs.replace(FITTING, windows=Settings().windows)
    assert told(check_log(tmp_path, longer), "the log ends before").severity == "warning"


def test_a_stamp_of_the_future_is_left_out_of_everything_else(tmp_path: Path) -> None:
    log = a_log()
    log["impressions"].insert(500, fact(9_999, START + 5_000 * 24 * HOUR) | {"features": {}})
    found = check_log(written(tmp_path, log), FITTING)
    assert (found.streams[0].future, found.streams[0].late, found.streams[0].usable) == (1, 0, 2_001)
    assert found.streams[0].last_ms == START + 10 * 24 * HOUR
    assert told(found, "ahead of those around them: 1 of 2,002 impressions").severity == "warning"


def test_malformed_records_are_shown_with_their_place_and_told_apart_by_reason(tmp_path: Path) -> None:
    log = written(tmp_path, a_log())
    with (log / "clicks.jsonl").open("ab") as file:
        file.write(
            b'\n{"event_time_ms":1700000000000}\n[]\n\xff\xfe\n'
            + b"[" * 100_000
            + b'\n{"impression_id":"a","event_time_ms":1700000000}\n'
        )
        file.write(b'{"impression_id":"b","event_time_ms":1700000001}\n{"impression_id":"c"')
    clicks = check_log(log, FITTING).streams[1]
    assert (clicks.records, clicks.malformed) == (407, 7)
    assert [refusal.at for refusal in clicks.malformed_samples] == [
        f"clicks.jsonl:{n}" for n in (402, 403, 404, 405, 406)
    ]
    assert clicks.malformed_samples[0].record == '{"event_time_ms":1700000000000}'
    # two that differ in the value alone count as one kind
    assert next(iter(clicks.malformed_reasons.items())) == (
        'event_time_ms is …, which looks like seconds: set log.clicks.time_unit = "s"',
        2,
    )


def packed(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if name.endswith(".zst") else data


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_file_that_was_cut_off_is_read_up_to_the_cut_and_told(suffix: str, tmp_path: Path) -> None:
    log = a_log()
    data = b"".join(msgspec.json.encode(record) + b"\n" for record in log["impressions"])
    whole = packed(suffix, data[:60_000]) + packed(suffix, data[60_000:])
    (tmp_path / f"impressions{suffix}").write_bytes(whole[:-20])
    found = check_log(tmp_path, FITTING)
    problem = told(found, f"impressions{suffix} is damaged or cut off after line")
    assert problem.severity == "error"
    assert found.streams[0].malformed == 0
    # the first member, or frame, is whole
    assert found.streams[0].records >= data[:60_000].count(b"\n") - 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("clicks.jsonl.gz", b"no gzip"),
        ("clicks.jsonl.zst", b"no zstandard"),
        ("clicks.parquet", b"no parquet"),
        ("clicks.jsonl", b"x" * (17 << 20)),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told_and_the_others_are_read(
    name: str, data: bytes, tmp_path: Path
) -> None:
    log = written(tmp_path, {"impressions": a_log()["impressions"]})
    (log / name).write_bytes(data)
    found = check_log(log, FITTING)
    assert told(found, name).severity == "error"
    assert found.streams[0].records == 2_001


def test_parts_are_files_of_their_own_and_strangers_among_them_are_told(tmp_path: Path) -> None:
    log = a_log()
    folder = tmp_path / "clicks"
    folder.mkdir()
    for number in (0, 1):  # the second part starts over in time: disorder between files is none
        (folder / f"part-{number}.jsonl.zst").write_bytes(
            packed(".zst", b"".join(msgspec.json.encode(record) + b"\n" for record in log["clicks"][number::2]))
        )
    (folder / "part-2.csv").write_text("a,b\n")
    found = check_log(written(tmp_path, {stem: log[stem] for stem in ("impressions", "conversions")}), FITTING)
    clicks = found.streams[1]
    assert clicks.files == ["clicks/part-0.jsonl.zst", "clicks/part-1.jsonl.zst"]
    assert (clicks.records, clicks.late) == (400, 0)
    assert [problem.what for problem in found.problems] == ["no part of the log, and not read: clicks/part-2.csv"]


def test_there_is_nothing_to_check_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="does not exist"):
        check_log(tmp_path / "nowhere", Settings())
    found = check_log(written(tmp_path, {"impressions": []}), Settings())
    assert [problem.what for problem in found.problems] == [
        "there are no impressions",
        "there are no clicks",
        "there are no conversions",
    ]
    assert found.rows()[0] == ("impressions", "0 in 1 file")


Facts = list[tuple[int, int]]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), max_size=12),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 60)), max_size=16),
    st.integers(0, 20),
    st.integers(0, 4),
)
def test_facts_follow_owners_as_a_plain_search_says(shown: Facts, facts: Facts, window: int, skew: int) -> None:
    def column(pairs: Facts) -> Column:
        return Column(np.array([i for i, _ in pairs], dtype=np.uint64), np.array([t for _, t in pairs], dtype=np.int64))

    owners = {name: min(at for other, at in shown if other == name) for name, _ in shown}
    delays = {name: [at - owners[name] for other, at in facts if other == name] for name in owners}
    every = [delay for of_one in delays.values() for delay in of_one]
    found, firsts = follow(column(shown).firsts(), column(facts), window_ms=window, clock_skew_ms=skew)
    assert found.facts == len(facts)
    assert found.orphaned == sum(name not in owners for name, _ in facts)
    assert found.before == sum(delay < -skew for delay in every)
    assert found.beyond == sum(delay > window for delay in every)
    assert found.followed == sum(any(-skew <= delay <= window for delay in of_one) for of_one in delays.values())
    # each fact is counted once
    assert found.facts == found.orphaned + found.before + found.beyond + found.followed + found.repeated
    assert dict(zip(firsts.ids.tolist(), firsts.times_ms.tolist(), strict=True)) == {
        name: min(of_one) + owners[name] for name, of_one in delays.items() if of_one
    }


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=30),
    st.sampled_from(["", ".gz", ".zst"]),
    st.integers(0, 30),
)
def test_lines_come_back_as_written_however_they_were_packed(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], suffix: str, cut: int
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    path = tmp_path_factory.mktemp("lines") / f"log.jsonl{suffix}"
    path.write_bytes(packed(suffix, data[:cut]) + packed(suffix, data[cut:]))
    blocks = list(raw_lines(path))
    assert [line for block in blocks for line in block.lines] == lines
    numbers = [block.first_line for block in blocks]
    assert numbers == [1 + sum(len(other.lines) for other in blocks[:place]) for place in range(len(blocks))]
