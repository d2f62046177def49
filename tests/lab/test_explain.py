"""`explain` gathers all that a run knows about one impression, in the order of time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from fakes import clicked, converted, shown
from late_logs import LATE, late_settings, told_log

from streaming.adapters.files import LogError
from streaming.backfill import Backfill
from streaming.lab.explain import ExplainError, explain
from streaming.ledger import BackfilledLine, RebuiltHead
from streaming.metrics import RunMetrics
from streaming.outputs import ExampleLine, SideLine
from streaming.publication import Gate
from streaming.replay import Replay
from streaming.scoring import Prediction
from streaming.set_aside import SetAside
from streaming.settings import Settings, dump, load
from streaming.standing_run import StandingRun

T = 1_700_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

#  a  shown T, clicked +10 s, converted +2 h: CLICKED, OBSERVED_NEGATIVE, DELAYED_POSITIVE, AGED, OUTCOME, a second click
#  b  shown T + 1 min, not clicked
#  c  shown T + 2 min, clicked +1 s: still open
#  d  only in the log, its window still open
CLICK = T + 10_000
LINES = [
    ("CLICKED", "click", "a", T, T + 15 * MINUTE, CLICK, None, False, 0.0, 0.0, 1),
    ("UNCLICKED", "click", "b", T + MINUTE, T + 16 * MINUTE, None, None, False, 0.0, 0.25, 1),
    ("CLICKED", "click", "c", T + 2 * MINUTE, T + 17 * MINUTE, T + 2 * MINUTE + 1_000, None, False, 0.0, 0.0, 1),
    ("OBSERVED_NEGATIVE", "observed", "a", T, CLICK + HOUR, CLICK, None, False, 0.0, 0.75, 2),
    ("DELAYED_POSITIVE", "settled", "a", T, CLICK + 2 * HOUR, CLICK, CLICK + 2 * HOUR, True, 1.0, 0.0, 3),
    ("AGED", "aged_7", "a", T, CLICK + 3 * HOUR, CLICK, CLICK + 2 * HOUR, True, None, None, None),
    ("OUTCOME", "outcome", "a", T, CLICK + 7 * DAY, CLICK, CLICK + 2 * HOUR, True, None, None, None),
]


def example(line: tuple[Any, ...]) -> ExampleLine:
    kind, slot, name, shown, due, click, conversion, converted, pos, neg, step = line
    value = 9.5 if conversion is not None else None
    return ExampleLine(kind, slot, 0, due, name, shown, click, conversion, converted, value, pos, neg, step)


def frames(records: list[Any]) -> bytes:
    """Each record in a zstandard frame of its own, as a run that synced after each would have written them."""
    return b"".join(zstandard.ZstdCompressor().compress(msgspec.json.encode(record) + b"\n") for record in records)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "examples.jsonl.zst").write_bytes(frames([example(line) for line in LINES]))
    made = [Prediction(name, T, 0.04, 0.125, "model") for name in "abc"]
    (folder / "predictions.jsonl.zst").write_bytes(frames(made))
    second = SideLine(
        "duplicates", "click", "the first counts", "clicks.jsonl:9", "a", CLICK + 500, T, '{"impression_id":"a"}'
    )
    (folder / "duplicates.jsonl").write_bytes(msgspec.json.encode(second) + b"\n")
    letters = [
        SideLine(
            "dead_letters",
            "conversion",
            "not JSON",
            "conversions.jsonl:3",
            None,
            None,
            None,
            '{"impression_id":"a", oops',
        ),
        SideLine(
            "dead_letters", "conversion", "looks like seconds", "conversions.jsonl:4", "a", T // 1000, None, '{"a"}'
        ),
        SideLine("dead_letters", "conversion", "not UTF-8", "conversions.jsonl:5", None, None, None, None, "/2E="),
    ]
    (folder / "dead_letters.jsonl").write_bytes(b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters))
    (folder / "settings.toml").write_text(dump(Settings()))
    metrics = RunMetrics(watermark_ms=T + HOUR, open_impressions=7)
    (folder / "metrics.json").write_bytes(msgspec.json.encode(metrics))
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    shown = [
        {"impression_id": "a", "event_time_ms": T, "features": {"item": "aa", "user": {"age": 31}}},
        {"impression_id": "d", "event_time_ms": T + 59 * MINUTE, "features": {"item": "a"}},
        {"impression_id": 'odd "id" ü', "event_time_ms": T + 59 * MINUTE, "features": {}},
    ]
    (folder / "impressions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in shown))
    sold = {"impression_id": "a", "event_time_ms": CLICK + 2 * HOUR, "value": 9.5}
    (folder / "conversions.jsonl").write_text("garbage about a\n" + json.dumps(sold) + "\n")
    return folder


def test_the_timeline_holds_facts_prediction_examples_and_side_outputs_in_order_of_time(run: Path) -> None:
    found = explain(run, "a")
    assert [
        (None if moment.at_ms is None else moment.at_ms - T, moment.what, moment.detail) for moment in found.timeline
    ] == [
        (0, "impression", ""),
        (10_000, "click", ""),
        (10_500, "click left by duplicates", "clicks.jsonl:9: the first counts"),
        (15 * MINUTE, "prediction", "pctr 0.04, pcvr 0.125, by the model"),
        (15 * MINUTE, "CLICKED (click)", "click after 10 s, taught c = 1, step 1"),
        (HOUR + 10_000, "OBSERVED_NEGATIVE (observed)", "click after 10 s, v = 0, taught a+ 0, a- 0.75, step 2"),
        (2 * HOUR + 10_000, "conversion", "value 9.5"),
        (
            2 * HOUR + 10_000,
            "DELAYED_POSITIVE (settled)",
            "click after 10 s, conversion after 2 h, v = 1, taught a+ 1, a- 0, step 3",
        ),
        (
            3 * HOUR + 10_000,
            "AGED (aged_7)",
            "click after 10 s, conversion after 2 h, v = 1, for the delay model",
        ),
        (7 * DAY + 10_000, "OUTCOME (outcome)", "click after 10 s, conversion after 2 h, v = 1, taught nothing"),
        (None, "conversion left by dead_letters", "conversions.jsonl:3: not JSON"),
        (None, "conversion left by dead_letters", "conversions.jsonl:4: looks like seconds"),
    ]


def test_an_age_before_the_first_row_is_not_when_the_prediction_was_made(run: Path) -> None:
    early = ("AGED", "aged_1", "a", T, CLICK + 30_000, CLICK, CLICK + 20_000, True, None, None, None)
    (run / "examples.jsonl.zst").write_bytes(frames([example(line) for line in (early, LINES[0])]))
    found = explain(run, "a")
    assert [moment.at_ms - T for moment in found.timeline if moment.at_ms and moment.what == "prediction"] == [
        15 * MINUTE
    ]
    assert found.notes[0].startswith("its conversion label is not final")


def test_the_mass_a_click_was_taught_with_is_summed_over_its_cvr_examples_alone(run: Path) -> None:
    found = explain(run, "a")
    assert (found.positive_mass, found.negative_mass) == (1.0, 0.75)
    unclicked = explain(run, "b")
    assert (unclicked.positive_mass, unclicked.negative_mass) == (0.0, 0.0)
    assert unclicked.timeline[-1].detail == "no click, taught c = 0, kappa 0.25, step 1"


def corrected(name: str, **changes: Any) -> BackfilledLine:
    given: dict[str, Any] = {
        "impression_id": name, "impression_ms": T, "click_ms": CLICK, "conversion_ms": None, "converted": None, "value": None,
        "clicked": 0.0, "unclicked": 0.0, "kappa": 0.0, "pos": 0.0, "neg": 0.0, "step": 412, "weights_version": 37, "at": ["clicks.jsonl:9"],
    }  # fmt: skip
    return BackfilledLine(**(given | changes))


def test_what_a_backfill_taught_and_took_back_is_told_and_summed(run: Path) -> None:
    lines = [
        corrected("b", clicked=1.0, unclicked=-1.0, kappa=-0.25),
        corrected("bb", pos=1.0),
        corrected("b", converted=True, conversion_ms=CLICK + HOUR, value=3.5, pos=1.0, neg=-0.5, step=1_413, weights_version=38,
                  at=["conversions.jsonl:7", "conversions.jsonl:8"]),
    ]  # fmt: skip
    (run / "backfilled.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(lines))
    found = explain(run, "b")
    assert found.backfilled == [lines[0], lines[2]]
    assert (found.positive_mass, found.negative_mass) == (1.0, -0.5)
    rows = found.rows()
    assert [value for label, value in rows if label == "backfill"] == [
        "click after 10 s: taught click +1, no click -1, kappa -0.25, step 412, weights version 37, by clicks.jsonl:9",
        "click after 10 s, conversion after 1 h, value 3.5: taught a+ +1, a- -0.5, step 1,413, weights version 38, by conversions.jsonl:7, conversions.jsonl:8",
    ]
    assert ("CVR mass taught", "a+ 1, a- -0.5") in rows
    assert rows.index(next(row for row in rows if row[0] == "backfill")) > len(found.timeline) - 1
    assert not explain(run, "a").backfilled


def test_an_impression_that_only_a_backfill_taught_is_explained(run: Path) -> None:
    line = corrected("new", click_ms=None, unclicked=1.0, kappa=0.9, at=["impressions.jsonl:5"])
    (run / "backfilled.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([line]))
    assert explain(run, "new").rows()[0] == (
        "backfill", "no click: taught no click +1, kappa +0.9, step 412, weights version 37, by impressions.jsonl:5",
    )  # fmt: skip


def test_what_the_newest_rebuilt_model_was_taught_is_a_note(run: Path) -> None:
    (run / "rebuilt").mkdir()
    head = RebuiltHead(from_ms=T, at_ms=T + 9 * DAY, examples_bytes=1, backfilled_bytes=0)
    matured = msgspec.structs.replace(example(LINES[4]), kind="MATURED")
    (run / "rebuilt/000001.jsonl.zst").write_bytes(frames([head]))
    (run / "rebuilt/000002.jsonl.zst").write_bytes(frames([head, example(LINES[0]), matured]))
    was = "the model was built anew since, in rebuilt/000002.jsonl.zst; of this impression it was taught there: "
    assert explain(run, "a").notes[-1] == was + "CLICKED, taught c = 1; MATURED, taught a+ 1, a- 0"
    assert explain(run, "b").notes[-1] == was + "nothing"


def test_after_a_backfill_the_masses_of_a_late_conversion_are_those_of_its_label(tmp_path: Path) -> None:
    facts = [
        (MINUTE, shown("late", MINUTE, b'{"shop":"slow","price":2}')),
        (MINUTE + 9, clicked("late", MINUTE + 9)),
        (3 * MINUTE + LATE, converted("late", 3 * MINUTE, 2.5)),
    ]
    log, out = told_log(tmp_path / "log", facts), tmp_path / "run"
    for _ in Replay(log, out, late_settings("es_dfm")).run():
        pass
    before = explain(out, "late", log)
    assert before.positive_mass == 0 < before.negative_mass
    standing = StandingRun(out)
    Backfill(standing, log).teach_late()
    standing.close()
    after = explain(out, "late", log)
    assert (after.positive_mass, after.negative_mass) == (1.0, pytest.approx(0.0, abs=1e-12))
    assert [line.converted for line in after.backfilled] == [True]


def test_only_what_carries_the_id_is_found_and_a_longer_id_does_not(run: Path) -> None:
    line = example(LINES[1])
    other = msgspec.structs.replace(line, impression_id="bb")
    (run / "examples.jsonl.zst").write_bytes(frames([line, other]))
    assert explain(run, "b").examples == [line]


def test_with_the_log_its_records_and_features_are_told(run: Path, log: Path) -> None:
    found = explain(run, "a", log)
    assert found.features == {"item": "aa", "user": {"age": 31}}
    assert [(record.kind, record.at) for record in found.logged] == [
        ("impression", "impressions.jsonl:1"),
        ("conversion", "conversions.jsonl:2"),
    ]
    assert [record.value for record in found.logged] == [None, 9.5]
    assert ("feature user", '{"age":31}') in found.rows()
    assert ("2023-11-14 22:13:20.000 UTC", "impression: impressions.jsonl:1") in found.rows()


def test_an_open_click_says_until_when_and_how_far_the_run_came(run: Path) -> None:
    (note,) = explain(run, "c").notes
    assert note == (
        "its conversion label is not final: its attribution window ends 2023-11-21 22:15:21 UTC; "
        "the run's watermark came to 2023-11-14 23:13:20 UTC"
    )


def test_an_impression_without_an_example_is_explained_from_the_log(run: Path, log: Path) -> None:
    found = explain(run, "d", log)
    assert found.examples == []
    assert found.notes == [
        "it has no example: its click window ends 2023-11-14 23:27:20 UTC; the run's watermark came to 2023-11-14 23:13:20 UTC"
    ]
    # an id that JSON may escape is found too
    assert explain(run, 'odd "id" ü', log).logged[0].at == "impressions.jsonl:3"


def test_a_refused_batch_is_told(run: Path) -> None:
    refused = msgspec.structs.replace(example(LINES[1]), pos=None, neg=None, step=None)
    (run / "examples.jsonl.zst").write_bytes(frames([refused]))
    assert explain(run, "b").notes == ["examples that belong to no step, because their batch was refused: 1"]


def test_an_impression_that_the_gate_judges_by_is_told(run: Path) -> None:
    gate = Gate(calibration_most=2.0, held_out_share=0.5)
    settings = msgspec.structs.replace(load(run / "settings.toml", {}), gate=gate)
    (run / "settings.toml").write_text(dump(settings))
    held_out = [name for name in "abc" if SetAside.of(gate).has(name)]
    assert 0 < len(held_out) < 3
    lines = [(*line[:8], None, None, None) if line[2] in held_out else line for line in LINES]
    (run / "examples.jsonl.zst").write_bytes(frames([example(line) for line in lines]))
    for name in "abc":
        is_told = "it is one of those that the gate judges by: nothing is learned of it" in explain(run, name).notes
        assert is_told == (name in held_out)


def test_an_explanation_is_json(run: Path, log: Path) -> None:
    found = json.loads(msgspec.json.encode(explain(run, "a", log)))
    assert found["prediction"]["pcvr"] == 0.125
    assert [moment["what"] for moment in found["timeline"]][:2] == ["impression", "click left by duplicates"]


def test_an_unknown_id_says_where_else_to_look(run: Path, log: Path) -> None:
    with pytest.raises(
        ExplainError,
        match=r"IMPRESSION_ID 'zz' is in no file of RUN .*run: 7 impressions were still open .* pass the log",
    ):
        explain(run, "zz")
    with pytest.raises(ExplainError, match=r"LOG .*log does not hold it either"):
        explain(run, "zz", log)
    # a dead letter of one impression is none of another's, even where no id could be read
    assert explain(run, "b").side_outputs == []


def test_what_is_no_run_or_damaged_is_an_error_that_names_it(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match=r"holds no examples\.jsonl\.zst: name the directory"):
        explain(tmp_path, "a")
    with pytest.raises(LogError, match="nowhere does not exist"):
        explain(run, "a", tmp_path / "nowhere")
    (run / "late.jsonl").write_text('{"door":"late","impression_id":"a"}\n')
    with pytest.raises(ExplainError, match=r"late\.jsonl:1 is not as docs/formats\.md has it"):
        explain(run, "a")
    whole = (run / "examples.jsonl.zst").read_bytes()
    (run / "examples.jsonl.zst").write_bytes(whole[:-4])
    with pytest.raises(ExplainError, match=r"examples\.jsonl\.zst is damaged or cut off after line 6"):
        explain(run, "a")
