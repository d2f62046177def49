"""Public data sets become logs: rows as they are, in time order, bad ones kept; errors name what is wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.lab.importers import SourceError, import_open_bandit, import_talkingdata
from streaming.lab.sorted_log import SortedLog
from streaming.settings import load

TALKINGDATA = """\
..ip,app,device,os,channel,click_time,attributed_time,is_attributed
87540,12,1,13,497,2017-11-07 09:30:38,,0
105560,25,1,17,259,2017-11-07 13:40:27,,0
224120,19,0,29,213,2017-11-07 02:22:13,2017-11-07 02:22:38,1
87540,12,1,13,497,2017-11-07 09:30:38,,0
"""
OPEN_BANDIT = """\
,timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user-item_affinity_0,user-item_affinity_1
0,2019-11-24 00:01:29.788935+00:00,1,3,0,0.02,81ce,f1c2,0.0,2.0
1,2019-11-24 00:01:43.188876+00:00,0,1,1,0.5,81ce,03a5,0.0,1.0
"""
ITEMS = """\
,item_id,item_feature_0,item_feature_1
0,0,-0.37,3778
1,1,0.52,3220
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def talkingdata(tmp_path: Path) -> Path:
    path = tmp_path / "train_sample.csv"
    path.write_text(TALKINGDATA)
    return path


@pytest.fixture
def open_bandit(tmp_path: Path) -> Path:
    folder = tmp_path / "open_bandit"
    folder.mkdir()
    (folder / "bts.women.csv").write_text(OPEN_BANDIT)
    (folder / "bts.women.item_context.csv").write_text(ITEMS)
    return folder


def test_each_row_is_an_impression_and_its_click_and_an_install_is_its_conversion(
    talkingdata: Path, tmp_path: Path
) -> None:
    summary = import_talkingdata(talkingdata, tmp_path / "log")
    assert (summary.impressions, summary.clicks, summary.conversions, summary.refused) == (4, 4, 1, 0)
    assert lines(tmp_path / "log/conversions.jsonl") == [{"impression_id": "row-4", "event_time_ms": 1510021358000}]
    first = lines(tmp_path / "log/impressions.jsonl")[0]
    assert first == {
        "impression_id": "row-4",
        "event_time_ms": 1510021333000,
        "features": {"ip": "224120", "app": "19", "device": "0", "os": "29", "channel": "213"},
    }


def test_an_exact_duplicate_of_a_row_stays_a_second_impression_and_equal_times_keep_the_order_of_rows(
    talkingdata: Path, tmp_path: Path
) -> None:
    import_talkingdata(talkingdata, tmp_path / "log")
    for stem in ("impressions", "clicks"):
        ids = [record["impression_id"] for record in lines(tmp_path / f"log/{stem}.jsonl")]
        assert ids == ["row-4", "row-2", "row-5", "row-3"]


def test_the_same_source_gives_the_same_bytes_zipped_or_not(talkingdata: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    (zipped / "train.csv.gz").write_bytes(gzip.compress(TALKINGDATA.encode()))
    import_talkingdata(talkingdata, tmp_path / "one/log")
    import_talkingdata(zipped, tmp_path / "two/log")
    names = sorted(path.name for path in (tmp_path / "one/log").iterdir())
    assert names == ["clicks.jsonl", "conversions.jsonl", "impressions.jsonl", "settings.toml"]
    for name in names:
        assert (tmp_path / "one/log" / name).read_bytes() == (tmp_path / "two/log" / name).read_bytes()


def test_settings_come_with_the_log_and_have_its_features(talkingdata: Path, tmp_path: Path) -> None:
    import_talkingdata(talkingdata, tmp_path / "log")
    found = load(tmp_path / "log/settings.toml", {})
    # device 1 and 0 vary, every column does: nothing is left out, and encoded ids are no quantities
    assert {feature.name: feature.kind for feature in found.features} == dict.fromkeys(
        ("ip", "app", "device", "os", "channel"), "categorical"
    )


def test_open_bandit_joins_item_features_and_stamps_a_click_at_its_impression(
    open_bandit: Path, tmp_path: Path
) -> None:
    summary = import_open_bandit(open_bandit, tmp_path / "log")
    assert (summary.impressions, summary.clicks, summary.conversions) == (2, 1, 0)
    shown, clicked = lines(tmp_path / "log/impressions.jsonl")
    assert shown == {
        "impression_id": "row-2",
        "event_time_ms": 1574553689788,  # microseconds are rounded down
        "propensity_score": 0.02,
        "user_item_affinity": {"1": 2.0},
        "features": {
            "item_id": "1",
            "position": 3,
            "user_feature_0": "81ce",
            "user_feature_1": "f1c2",
            "item_feature_0": 0.52,
            "item_feature_1": "3220",
            "affinity": 2.0,
            "affinity_items": ["1"],
        },
    }
    assert clicked["features"]["affinity"] == 0.0
    click = {"impression_id": "row-3", "event_time_ms": clicked["event_time_ms"]}
    assert lines(tmp_path / "log/clicks.jsonl") == [click]
    assert (tmp_path / "log/conversions.jsonl").read_bytes() == b""


BAD_ROWS = [
    ("1,2,3,4,5,soon,,0", "click_time must be a time"),
    ("1,2,3,4,5,2017-11-07 09:30:38,,2", "is_attributed must be 0 or 1"),
    ("1,2,3,4,5,2017-11-07 09:30:38,,1", "is_attributed must be 1 with an attributed_time"),
    ("1,2,3,4,5,2017-11-07 09:30:38,2017-11-07 09:30:39,0", "is_attributed must be 1 with an attributed_time"),
    ("-1,2,3,4,5,2017-11-07 09:30:38,,0", "ip must be a whole number"),
    ("1,2,3", "has 3 cells (rule: 8"),
    ('"' + "x" * 140_000 + '",2,3,4,5,2017-11-07 09:30:38,,0', "is no CSV"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_counted_and_kept_with_its_place_and_reason(row: str, reason: str, tmp_path: Path) -> None:
    source = tmp_path / "train.csv"
    source.write_text(TALKINGDATA + row + "\n")
    summary = import_talkingdata(source, tmp_path / "log")
    assert (summary.impressions, summary.refused) == (4, 1)
    assert summary.first_refusals[0].startswith("train.csv:6: ")
    assert reason in summary.first_refusals[0]
    (letter,) = lines(tmp_path / "log/dead_letters.jsonl")
    assert (letter["door"], letter["at"], letter["record"]) == ("dead_letters", "train.csv:6", row)
    assert reason in letter["reason"]
    assert ("rows refused", "1 (in dead_letters.jsonl)") in summary.rows()


def test_a_row_that_is_not_utf8_is_kept_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "train.csv"
    source.write_bytes(TALKINGDATA.encode() + b"\xff,2,3,4,5,2017-11-07 09:30:38,,0\n")
    import_talkingdata(source, tmp_path / "log")
    (letter,) = lines(tmp_path / "log/dead_letters.jsonl")
    assert letter["record_base64"] == "/ywyLDMsNCw1LDIwMTctMTEtMDcgMDk6MzA6MzgsLDA="
    assert "record" not in letter


def test_an_item_without_context_and_a_score_that_is_no_number_are_bad_rows(open_bandit: Path, tmp_path: Path) -> None:
    with (open_bandit / "bts.women.csv").open("a") as file:
        file.write(
            "2,2019-11-24 00:02:00+00:00,7,1,0,0.5,a,b,0.0,0.0\n3,2019-11-24 00:02:00+00:00,1,1,0,nan,a,b,0.0,0.0\n"
        )
    summary = import_open_bandit(open_bandit, tmp_path / "log")
    assert summary.first_refusals == [
        "bts.women.csv:4: item_id '7' has no row in the item context",
        "bts.women.csv:5: propensity_score must be a finite number (got 'nan')",
    ]


def test_errors_name_the_file_and_leave_nothing_behind(open_bandit: Path, tmp_path: Path) -> None:
    def refused(text: bytes, name: str = "train.csv") -> str:
        source = tmp_path / name
        source.write_bytes(text)
        with pytest.raises(SourceError) as caught:
            import_talkingdata(source, tmp_path / "log")
        assert not (tmp_path / "log").exists()
        return str(caught.value)

    assert "train.csv is empty" in refused(b"")
    assert "lacks the column channel, click_time" in refused(b"ip,app,device,os,attributed_time,is_attributed\n")
    assert "has the column 'ip' twice" in refused(TALKINGDATA.replace("..ip", "ip,ip").encode())
    assert "has no usable row; the first: train.csv:2: " in refused(TALKINGDATA.splitlines(True)[0].encode() + b"x\n")
    assert "cannot be read beyond line" in refused(gzip.compress(TALKINGDATA.encode() * 50)[:-30], "train.csv.gz")
    assert "cannot be read beyond line 0" in refused(b"no gzip at all", "train.csv.gz")
    assert "must end in .csv" in refused(b"", "train.txt")
    with pytest.raises(SourceError, match="nowhere does not exist"):
        import_talkingdata(tmp_path / "nowhere", tmp_path / "log")
    (open_bandit / "bts.women.item_context.csv").unlink()
    with pytest.raises(SourceError, match=r"needs its item context beside it: none of bts\.women\.item_context\.csv"):
        import_open_bandit(open_bandit, tmp_path / "log")


def test_a_directory_with_two_data_sets_asks_for_one_of_them(open_bandit: Path, tmp_path: Path) -> None:
    (open_bandit / "random.women.csv").write_text(OPEN_BANDIT)
    with pytest.raises(SourceError, match=r"holds bts\.women\.csv and random\.women\.csv: give one of them"):
        import_open_bandit(open_bandit, tmp_path / "log")
    assert import_open_bandit(open_bandit / "bts.women.csv", tmp_path / "log").impressions == 2


@pytest.mark.parametrize("name", ["clicks.jsonl", "impressions", "settings.toml"])
def test_nothing_is_written_over(name: str, talkingdata: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"already holds {name}"):
        import_talkingdata(talkingdata, tmp_path / "log")
    assert (tmp_path / "log" / name).read_text() == "mine"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 9))
def test_runs_that_are_spilled_and_merged_give_the_order_of_a_plain_sort(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], run_lines: int
) -> None:
    out = tmp_path_factory.mktemp("sorted")
    with SortedLog(out, run_lines=run_lines) as log:
        for number, at_ms in enumerate(times):
            log.add("clicks", at_ms, number, {"at": at_ms, "number": number})
        log.finish()
    expected = sorted((at_ms, number) for number, at_ms in enumerate(times))
    assert [(record["at"], record["number"]) for record in lines(out / "clicks.jsonl")] == expected
    assert sorted(path.name for path in out.iterdir()) == ["clicks.jsonl", "conversions.jsonl", "impressions.jsonl"]


def test_the_real_files_give_the_counts_they_are_known_for(tmp_path: Path) -> None:
    data = os.environ.get("AFTERCLICK_REAL_DATA")
    if data is None:
        pytest.skip("AFTERCLICK_REAL_DATA does not name a directory with talkingdata/ and open_bandit/")
    installs = import_talkingdata(Path(data) / "talkingdata", tmp_path / "talkingdata")
    assert (installs.impressions, installs.clicks, installs.conversions, installs.refused) == (100_000, 100_000, 227, 0)
    shop = import_open_bandit(Path(data) / "open_bandit/bts.women.csv.gz", tmp_path / "open_bandit")
    assert (shop.impressions, shop.clicks, shop.conversions, shop.refused) == (10_000, 46, 0, 0)
