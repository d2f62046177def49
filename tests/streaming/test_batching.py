"""Batching: which examples make a group, what a batch says of them, and what survives a cut."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import ClickMemory, Event
from models.delay_edges import bin_of, edges_ms
from models.schema import Feature
from streaming.batching import Batcher, collate, collate_aged, collate_matured, decode_examples, encode_examples, is_row
from streaming.events import Impression, Served
from streaming.examples import Example, Examples, Kind, Slot
from streaming.features import FeatureReader
from streaming.open_clicks import OpenClicks

START = 1_717_200_000_000  # a multiple of every interval used here
INTERVAL = 10


def example(due, kind=Kind.UNCLICKED, name="i", features=b"{}", slot=Slot.CLICK, **facts):
    impression = Impression(name, START, msgspec.Raw(features))
    return Example(START + due, kind, int(slot), 0, impression, **facts)


def dues(groups):
    return [[one.due_ms - START for one in group] for group in groups]


NO_ROWS = (Kind.OUTCOME, Kind.AGED)
KINDS = st.sampled_from([Kind.UNCLICKED, Kind.CLICKED, Kind.REVISIT, *NO_ROWS])
STREAM = st.lists(st.tuples(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 3, 12]), KINDS), max_size=30).map(
    lambda steps: [
        example(due, kind, name=str(number))
        for number, (due, (_, kind)) in enumerate(
            zip(itertools.accumulate(gap for gap, _ in steps), steps, strict=True)
        )
    ]
)


def grouped(examples, batch_size):
    """The groups, written a second time: over the whole list, one example after the other."""
    groups, rows = [], 0
    for before, one in zip([None, *examples], examples, strict=False):
        if before is None or before.due_ms // INTERVAL != one.due_ms // INTERVAL or rows == batch_size:
            groups.append([])
            rows = 0
        groups[-1].append(one)
        rows += one.kind not in NO_ROWS
    return groups


@given(STREAM, st.integers(1, 5), st.data())
@settings(deadline=None, max_examples=100)
def test_groups_are_the_same_however_examples_and_watermark_arrive(examples, batch_size, data):
    batcher = Batcher(batch_size=batch_size, batch_interval_ms=INTERVAL)
    groups, at = [], 0
    while at < len(examples):
        length = data.draw(st.sampled_from([1, 1, 2, 5, 15]), "length")
        groups += batcher.on_examples(Examples.of(examples[at : at + length]))
        at += length
        if at < len(examples) and examples[at - 1].due_ms < examples[at].due_ms:
            # It has passed what was emitted and not what was not: anywhere between the two.
            between = st.integers(examples[at - 1].due_ms + 1, examples[at].due_ms)
            for watermark_ms in sorted(data.draw(st.lists(between, max_size=2), "watermarks")):
                groups += batcher.on_watermark(watermark_ms)
        if data.draw(st.booleans(), "cut here"):
            resumed = Batcher(batch_size=batch_size, batch_interval_ms=INTERVAL)
            resumed.restore(batcher.snapshot())
            batcher = resumed
    groups += batcher.flush()
    assert unpacked(groups) == unpacked(grouped(examples, batch_size))
    assert list(batcher.flush()) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_feeding_one_by_one_is_feeding_all_at_once(batch_size):
    examples = [
        example(due, Kind.OUTCOME if due % 6 == 0 else Kind.CLICKED, str(due))
        for due in range(0, 60, 2)
        for _ in range(2)
    ]
    at_once, one_by_one = (Batcher(batch_size=batch_size, batch_interval_ms=INTERVAL) for _ in range(2))
    expected = [*at_once.on_examples(Examples.of(examples)), *at_once.flush()]
    fed = [group for one in examples for group in one_by_one.on_examples(Examples.of([one]))]
    assert unpacked([*fed, *one_by_one.flush()]) == unpacked(expected) == unpacked(grouped(examples, batch_size))


def unpacked(groups):
    return [[(one.due_ms, one.kind, one.impression.impression_id) for one in group] for group in groups]


def test_the_interval_is_over_when_the_watermark_has_passed_its_last_millisecond():
    #   0 ......... 9 | 10
    batcher = Batcher(batch_size=100, batch_interval_ms=INTERVAL)
    assert dues(batcher.on_examples(Examples.of([example(0), example(9)]))) == []
    assert dues(batcher.on_watermark(START + 9)) == []
    assert dues(batcher.on_watermark(START + 10)) == [[0, 9]]
    assert dues(batcher.on_watermark(START + 1000)) == []


def test_a_group_leaves_with_the_row_that_fills_it():
    batcher = Batcher(batch_size=2, batch_interval_ms=INTERVAL)
    assert dues(batcher.on_examples(Examples.of([example(0)]))) == []
    assert dues(batcher.on_examples(Examples.of([example(1)]))) == [[0, 1]]
    assert dues(batcher.flush()) == []


@pytest.mark.parametrize("outcome", NO_ROWS)
def test_outcomes_and_ages_travel_along_and_do_not_fill_a_group(outcome):
    row = Kind.CLICKED
    batcher = Batcher(batch_size=2, batch_interval_ms=INTERVAL)
    kinds = [outcome, row, outcome, outcome, row, outcome, row]
    ready = batcher.on_examples(Examples.of([example(due, kind) for due, kind in enumerate(kinds)]))
    assert dues(ready) == [[0, 1, 2, 3, 4]]
    assert dues(batcher.flush()) == [[5, 6]]


def test_one_long_list_yields_the_groups_of_all_its_intervals():
    batcher = Batcher(batch_size=2, batch_interval_ms=INTERVAL)
    assert dues(batcher.on_examples(Examples.of([example(due) for due in (0, 1, 2, 11, 12, 25, 31, 32, 33)]))) == [
        [0, 1],
        [2],
        [11, 12],
        [25],
        [31, 32],
    ]
    assert dues(batcher.on_watermark(START + 40)) == [[33]]


def test_a_flush_lets_the_rest_of_the_interval_form_a_group_of_its_own():
    batcher = Batcher(batch_size=4, batch_interval_ms=INTERVAL)
    assert dues(batcher.on_examples(Examples.of([example(0), example(1)]))) == []
    assert dues(batcher.flush()) == [[0, 1]]
    assert dues(batcher.on_examples(Examples.of([example(2), example(15)]))) == [[2]]


def test_groups_form_even_if_nobody_looks_at_what_is_returned():
    batcher = Batcher(batch_size=1, batch_interval_ms=INTERVAL)
    batcher.on_examples(Examples.of([example(0)]))
    assert dues(batcher.flush()) == []


@pytest.mark.parametrize(("before", "arrival"), [([5], [4]), ([], [5, 4]), ([12], [3]), ([5], [6, 3])])
def test_examples_that_go_back_in_time_are_refused(before, arrival):
    batcher = Batcher(batch_size=10, batch_interval_ms=INTERVAL)
    batcher.on_examples(Examples.of([example(due) for due in before]))
    with pytest.raises(ValueError, match="must come in order of due time"):
        batcher.on_examples(Examples.of([example(due) for due in arrival]))


def test_no_examples_are_no_groups():
    batcher = Batcher(batch_size=1, batch_interval_ms=INTERVAL)
    assert [*batcher.on_examples(Examples.of([])), *batcher.on_watermark(START), *batcher.flush()] == []
    assert decode_examples(batcher.snapshot()) == []


READER_FEATURES = (Feature(name="x", kind="numeric"), Feature(name="user", kind="categorical"))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in NO_ROWS])
def test_every_kind_that_teaches_has_the_event_of_its_name(kind):
    batch = collate(Examples.of([example(0, kind)]), FeatureReader(READER_FEATURES))
    assert Event(int(batch.events[0])).name == kind.name


def test_a_batch_holds_its_rows_in_order():
    rows = [
        example(0, Kind.UNCLICKED, features=b'{"x":1,"user":"a"}'),
        example(1, Kind.IMMEDIATE_POSITIVE, features=b'{"x":2,"user":"b"}', converted=True),
        example(2, Kind.MATURED, features=b'{"x":3,"user":"a"}'),
    ]
    batch = collate(Examples.of(rows), FeatureReader(READER_FEATURES))
    assert batch.events.tolist() == [Event.UNCLICKED, Event.IMMEDIATE_POSITIVE, Event.MATURED]
    assert batch.converted.tolist() == [0.0, 1.0, 0.0]
    assert batch.inputs.numbers.tolist() == [[1.0], [2.0], [3.0]]
    assert batch.inputs.ids[0] == batch.inputs.ids[2] != batch.inputs.ids[1]
    assert (batch.events.dtype, batch.converted.dtype) == (np.int8, np.float32)


def test_a_batch_of_nothing_has_no_rows():
    batch = collate(Examples.of([]), FeatureReader(READER_FEATURES))
    assert (len(batch), len(batch.inputs), batch.inputs.ids.shape) == (0, 0, (0, 1))


@pytest.mark.parametrize("kind", NO_ROWS)
def test_what_is_no_row_is_not_collated(kind):
    examples = [example(0), example(1, kind)]
    assert is_row(Examples.of(examples)).tolist() == [True, False]
    with pytest.raises(ValueError, match="must not hold an OUTCOME or an AGED"):
        collate(Examples.of(examples), FeatureReader(READER_FEATURES))


def test_a_batch_says_when_each_click_was_how_long_its_conversion_took_and_which_look_it_is():
    rows = [
        example(1, Kind.UNCLICKED),
        example(2, Kind.CLICKED, click_ms=START + 1),
        example(30, Kind.REVISIT, slot=Slot.REVISIT + 3, click_ms=START + 1),
        example(40, Kind.DELAYED_POSITIVE, click_ms=START + 1, conversion_ms=START + 35, converted=True),
    ]
    batch = collate(Examples.of(rows), FeatureReader(READER_FEATURES))
    assert batch.click_ms.tolist() == [-1, START + 1, START + 1, START + 1]
    assert batch.delay_ms.tolist() == [-1, -1, -1, 34]
    assert batch.looks.tolist() == [0, 0, 3, 0]
    assert batch.age_ms.tolist() == [-1, 1, 29, 39]  # the conversion came at 34, and was known at 39
    assert batch.memory is None


def test_a_batch_recalls_what_its_clicks_were_taught():
    first, later = example(1, Kind.OBSERVED_NEGATIVE, "a"), example(2, Kind.REVISIT, "a", slot=Slot.REVISIT + 1)
    clicks, reader = OpenClicks(), FeatureReader(READER_FEATURES)
    clicks.remember(Examples.of([first]), ClickMemory(np.array([0]), np.array([0.2]), np.array([0.0]), np.array([0.9])))
    memory = collate(Examples.of([example(1), later]), reader, clicks).memory
    assert (memory.click.tolist(), memory.first_f.tolist(), memory.negative.tolist()) == ([-1, 0], [0.2], [0.9])


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 11)), max_size=8))
@settings(deadline=None, max_examples=60)
def test_an_age_tells_whether_the_delay_falls_in_the_bin_that_ends_there(aged):
    edges = edges_ms(20, 100)
    told = [
        (delay, k)
        for delay, step in aged
        for k in [max(1, min(bin_of(delay, edges) + step, len(edges) - 1))]
        if edges[k] >= delay
    ]
    group = [
        example(200, Kind.AGED, slot=Slot.AGED + k, features=b'{"x":%d}' % delay, click_ms=START + 5,
                conversion_ms=START + 5 + delay)
        for delay, k in told
    ]  # fmt: skip
    ages = collate_aged(group, FeatureReader(READER_FEATURES), edges)
    assert ages.edges.tolist() == [k for _, k in told]
    assert ages.in_bin.tolist() == [k == 0 or edges[k - 1] < delay for delay, k in told]
    assert ages.inputs.numbers[:, 0].tolist() == [delay for delay, _ in told]


def test_final_labels_tell_whether_a_click_converted_within_the_observation_window():
    click_ms = START + 5
    told = [(None, False), (0, True), (20, True), (21, True), (99, True)]
    outcomes = [
        example(200, Kind.OUTCOME, features=b'{"x":%d}' % place, click_ms=click_ms, converted=converted,
                conversion_ms=None if delay is None else click_ms + delay)
        for place, (delay, converted) in enumerate(told)
    ]  # fmt: skip
    matured = collate_matured(outcomes, FeatureReader(READER_FEATURES), 20)
    assert matured.observed.tolist() == [False, True, True, False, False]
    assert matured.converted.tolist() == [False, True, True, True, True]
    assert matured.inputs.numbers[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(collate_matured([], FeatureReader(READER_FEATURES), 20)) == 0


MAYBE_MS = st.none() | st.integers(0, 2**40)
IMPRESSIONS = st.builds(
    Impression,
    impression_id=st.text(min_size=1, max_size=5),
    event_time_ms=st.integers(START, START + 10**9),
    features=st.binary(max_size=30).map(msgspec.Raw) | st.just(msgspec.Raw(b' {"a" : 1.0} \n')),
    served=st.none() | st.builds(Served, st.floats(0, 1), st.floats(0, 1), st.none() | st.integers(0, 9)),
    join_key=st.none() | st.text(min_size=1, max_size=3),
)
EXAMPLES = st.builds(
    Example,
    due_ms=st.integers(START, START + 10**9),
    kind=st.sampled_from(Kind),
    slot=st.integers(0, 193),
    p=st.integers(0, 9),
    impression=IMPRESSIONS,
    click_ms=MAYBE_MS,
    conversion_ms=MAYBE_MS,
    converted=st.booleans(),
    value=st.none() | st.floats(allow_nan=False),
)


@given(st.lists(EXAMPLES, max_size=4))
@settings(deadline=None, max_examples=60)
def test_examples_survive_encoding_with_their_features_byte_for_byte(examples):
    decoded = decode_examples(encode_examples(examples))
    assert [bytes(one.impression.features) for one in decoded] == [bytes(one.impression.features) for one in examples]
    assert [plain(one) for one in decoded] == [plain(one) for one in examples]
    assert all(type(one.kind) is Kind for one in decoded)


def plain(one):
    impression = msgspec.structs.replace(one.impression, features=b"")
    return msgspec.structs.replace(one, impression=impression)


def test_what_is_no_list_of_examples_is_not_decoded():
    with pytest.raises(msgspec.DecodeError):
        decode_examples(b"\x81\xa1a\x01")
