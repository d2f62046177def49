"""The lines that a run writes: their form is a promise to other tools."""

from __future__ import annotations

import base64

import msgspec
import numpy as np
import pytest
from fakes import T0, clicked, line_of, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import RecordKind
from streaming.examples import Example, Examples, Kind, Slot, slot_name
from streaming.joined import Side
from streaming.log_file import Refused
from streaming.outputs import (
    ExampleLine,
    SideLine,
    door_of,
    example_lines,
    prediction_lines,
    refused_batch_lines,
    refused_line,
    side_line,
)
from streaming.pending import Record
from streaming.scoring import Predicted, Prediction

ODD = 'line\nbreak "quoted" \u2028 ü 😀 \\'


def example(kind: Kind, slot: int, name: str = "i", features: bytes = b"{}", **facts: object) -> Example:
    return Example(T0 + 10, kind, slot, 0, shown(name, 0, features), **facts)  # type: ignore[arg-type]


def predicted(each: list[tuple[str, float, float, bool]]) -> Predicted:
    """Predictions of impressions: (id, pctr, pcvr, whether they were served)."""
    pctr, pcvr = np.array([(ctr, cvr) for _, ctr, cvr, _ in each], np.float64).reshape(-1, 2).T
    impressions = [shown(name, 0) for name, _, _, _ in each]
    times, served = np.full(len(each), T0), np.array([is_served for *_, is_served in each], np.bool_)
    return Predicted(impressions, times, pctr, pcvr, served)


def read_predictions(lines: bytes) -> list[Prediction]:
    return [msgspec.json.decode(line, type=Prediction) for line in lines.split(b"\n") if line]


def read(lines: bytes) -> list[ExampleLine]:
    return [msgspec.json.decode(line, type=ExampleLine) for line in lines.splitlines()]


def test_a_line_is_written_as_the_formats_say() -> None:
    one = example(
        Kind.IMMEDIATE_POSITIVE, Slot.OBSERVED, click_ms=T0 + 3, conversion_ms=T0 + 9, converted=True, value=2.5
    )
    assert example_lines(Examples.of([one]), np.array([1.0]), np.array([0.25]), 17) == (
        b'{"kind":"IMMEDIATE_POSITIVE","slot":"observed","p":0,"due_ms":%d,"impression_id":"i","impression_ms":%d,'
        b'"click_ms":%d,"conversion_ms":%d,"converted":true,"value":2.5,"pos":1.0,"neg":0.25,"step":17}\n'
        % (T0 + 10, T0, T0 + 3, T0 + 9)
    )  # fmt: skip


def test_weights_go_to_the_rows_that_taught_and_pass_outcomes_and_ages_by() -> None:
    group = [
        example(Kind.UNCLICKED, Slot.CLICK, "a"),
        example(Kind.OUTCOME, Slot.OUTCOME, "b", click_ms=T0),
        example(Kind.MATURED, Slot.SETTLED, "b", click_ms=T0),
        example(Kind.AGED, Slot.AGED + 12, "b", click_ms=T0, conversion_ms=T0 + 2, converted=True),
        example(Kind.REVISIT, Slot.REVISIT + 3, "c", click_ms=T0),
        example(Kind.OUTCOME, Slot.OUTCOME, "c", click_ms=T0),
    ]
    lines = read(example_lines(Examples.of(group), np.array([0.0, 1.0, -0.25]), np.array([0.5, 0.0, 0.25]), 3))
    assert [(line.pos, line.neg, line.step) for line in lines] == [
        (0.0, 0.5, 3), (None, None, None), (1.0, 0.0, 3), (None, None, None), (-0.25, 0.25, 3), (None, None, None),
    ]  # fmt: skip
    assert [line.slot for line in lines] == ["click", "outcome", "settled", "aged_12", "revisit_3", "outcome"]


def test_what_taught_nothing_has_no_weights_and_no_step() -> None:
    (line,) = read(example_lines(Examples.of([example(Kind.CLICKED, Slot.CLICK)]), None, None, None))
    assert (line.pos, line.neg, line.step, line.click_ms, line.value) == (None, None, None, None, None)


def test_no_examples_no_lines() -> None:
    assert example_lines(Examples.of([]), np.empty(0), np.empty(0), 1) == b""
    assert prediction_lines(predicted([])) == b""


def test_an_odd_id_stays_on_its_line() -> None:
    lines = example_lines(
        Examples.of([example(Kind.CLICKED, 0, ODD), example(Kind.CLICKED, 0, "next")]), None, None, None
    )
    assert lines.count(b"\n") == 2
    assert [line.impression_id for line in read(lines)] == [ODD, "next"]


def test_predictions_are_lines() -> None:
    assert prediction_lines(predicted([("i", 0.03, 0.12, False), (ODD, 5e-324, 1.0, True)])) == (
        b'{"impression_id":"i","event_time_ms":%d,"pctr":0.03,"pcvr":0.12,"whose":"model"}\n'
        b'{"impression_id":%s,"event_time_ms":%d,"pctr":5e-324,"pcvr":1.0,"whose":"served"}\n'
        % (T0, msgspec.json.encode(ODD), T0)
    )


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
PREDICTIONS = st.tuples(NAMES, st.floats(0, 1), st.floats(0, 1), st.booleans())


@given(st.lists(PREDICTIONS, max_size=4))
@settings(deadline=None, max_examples=100)
def test_prediction_lines_are_those_of_a_second_writing(each: list[tuple[str, float, float, bool]]) -> None:
    columns = predicted(each)
    assert read_predictions(prediction_lines(columns)) == columns.each()


WEIGHTS = st.floats(-2, 2)
ROWS = st.tuples(NAMES, st.sampled_from(Kind), WEIGHTS, WEIGHTS)


@given(st.lists(ROWS, max_size=6), st.none() | st.integers(1, 9))
@settings(deadline=None, max_examples=100)
def test_example_lines_are_those_of_a_second_writing(
    rows: list[tuple[str, Kind, float, float]], step: int | None
) -> None:
    slots = {Kind.UNCLICKED: Slot.CLICK, Kind.CLICKED: Slot.CLICK, Kind.OUTCOME: Slot.OUTCOME}
    group = [
        example(kind, slots.get(kind, Slot.OBSERVED), name, **({} if kind == Kind.UNCLICKED else {"click_ms": T0 + 1}))
        for name, kind, _, _ in rows
    ]
    taught = [(up, down) for _, kind, up, down in rows if kind not in (Kind.OUTCOME, Kind.AGED)]
    weights = np.array(taught, np.float64).reshape(-1, 2).T
    positive, negative = (None, None) if step is None else weights
    expected = [
        ExampleLine(
            one.kind.name, slot_name(one.slot), one.p, one.due_ms, one.impression.impression_id,
            one.impression.event_time_ms, one.click_ms, one.conversion_ms, one.converted, one.value,
            *((None, None, None) if step is None or kind in (Kind.OUTCOME, Kind.AGED) else (up, down, step)),
        )
        for one, (_, kind, up, down) in zip(group, rows, strict=True)
    ]  # fmt: skip
    written = example_lines(Examples.of(group), positive, negative, step)
    assert written == msgspec.json.Encoder().encode_lines(expected)


def test_a_side_output_keeps_the_record_as_it_was() -> None:
    fact = clicked("i", 5)
    record = Record(fact, line_of(fact), "clicks.jsonl:7", T0 + 9, True)
    line = msgspec.json.decode(side_line(Side("late", "why", record)), type=SideLine)
    assert line == SideLine("late", "click", "why", "clicks.jsonl:7", "i", T0 + 5, T0 + 9, line_of(fact).decode())
    assert b"record_base64" not in side_line(Side("late", "why", record))


@pytest.mark.parametrize(("is_future", "door"), [(False, "dead_letters"), (True, "future")])
def test_a_refused_record_goes_to_its_door(is_future: bool, door: str) -> None:
    refused = Refused(RecordKind.CLICK, "clicks.jsonl:7", b"garbage", "why", is_future, None, None, None)
    assert door_of(refused) == door
    written = msgspec.json.decode(refused_line(refused))
    assert written == {
        "door": door, "kind": "click", "reason": "why", "at": "clicks.jsonl:7", "impression_id": None,
        "event_time_ms": None, "watermark_ms": None, "record": "garbage",
    }  # fmt: skip


def test_bytes_that_are_no_text_are_kept_as_base64() -> None:
    raw = b'{"a":"\xff\n"}'
    refused = Refused(RecordKind.CLICK, "clicks.jsonl:7", raw, "why", False, "i", 10**19, None)
    written = msgspec.json.decode(refused_line(refused))
    assert base64.b64decode(written["record_base64"]) == raw
    assert "record" not in written
    assert written["event_time_ms"] == 10**19


def test_a_refused_batch_keeps_its_features_as_they_were() -> None:
    group = [
        example(Kind.CLICKED, Slot.CLICK, ODD, b'{ "a" : "}\\n" }', click_ms=T0),
        example(Kind.UNCLICKED, Slot.CLICK, "b", b'{"a":\t1.50}'),
    ]
    head, *lines = refused_batch_lines(Examples.of(group), "the loss is NaN").splitlines()
    assert msgspec.json.decode(head) == {"reason": "the loss is NaN", "examples": 2}
    assert [msgspec.json.decode(line)["features"] for line in lines] == [{"a": "}\n"}, {"a": 1.5}]
    assert lines[1].endswith(b',"features":{"a":\t1.50}}')
    assert [msgspec.json.decode(line)["impression_id"] for line in lines] == [ODD, "b"]
