"""Pending: the order in which records take effect, and that a snapshot keeps it."""

from __future__ import annotations

from fakes import T0, arrivals_of, clicked, converted, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.events import Event, RecordKind
from streaming.pending import Pending, Record, pack_record, unpack_record


def filled(*arrivals: tuple[Event, int]) -> Pending:
    """Records, each with the watermark it meets, arriving one by one."""
    pending = Pending()
    for number, (event, watermark) in enumerate(arrivals, 1):
        pending.add(arrivals_of([event], [watermark], first=number))
    return pending


def drain(pending: Pending, watermark: int, *, is_halt: bool = False) -> list[tuple[Record, int]]:
    positions, nows = pending.take(T0 + watermark, is_halt=is_halt)
    return [(pending.record(position), now - T0) for position, now in zip(positions, nows, strict=True)]


def ids(taken: list[tuple[Record, int]]) -> list[str]:
    return [record.event.impression_id for record, _ in taken]


def test_a_record_on_time_takes_effect_when_the_watermark_is_strictly_beyond_it() -> None:
    pending = filled((shown("a", 10), 0))
    assert not pending.is_ready(T0 + 10)
    assert drain(pending, 10) == []
    assert pending.is_ready(T0 + 11)
    assert [(ids([one]), one[1]) for one in drain(pending, 11)] == [(["a"], 10)]
    assert len(pending) == 0


def test_a_late_record_takes_effect_at_the_watermark_that_it_met() -> None:
    pending = filled((shown("a", 10), 30))
    assert drain(pending, 29) == []
    assert pending.is_ready(T0 + 30)
    assert [now for _, now in drain(pending, 30)] == [30]


def test_a_halt_leaves_the_late_records_that_met_exactly_it() -> None:
    pending = filled((shown("late", 10), 30), (shown("on time", 29), 5))
    assert ids(drain(pending, 30, is_halt=True)) == ["on time"]
    assert pending.next_ms == T0 + 30
    assert ids(drain(pending, 30)) == ["late"]


def test_at_one_time_late_ones_come_first_and_then_impressions_clicks_conversions() -> None:
    pending = filled(
        (converted("v", 30), 0), (clicked("c", 30), 0), (shown("i", 30), 0), (shown("b", 5), 30), (shown("a", 6), 30)
    )
    assert ids(drain(pending, 31)) == ["b", "a", "i", "c", "v"]


def test_at_one_time_and_kind_the_id_decides_and_then_the_bytes() -> None:
    same = [shown("b", 5, b'{"x":2}'), shown("b", 5, b'{"x":1}'), shown("a", 5, b'{"x":3}')]
    taken = drain(filled(*((event, 0) for event in same)), 6)
    assert [bytes(record.event.features) for record, _ in taken] == [b'{"x":3}', b'{"x":1}', b'{"x":2}']  # type: ignore[union-attr]


def test_late_records_of_one_moment_keep_their_order_of_arrival() -> None:
    pending = filled((shown("z", 3), 30), (shown("a", 9), 30), (shown("m", 1), 30))
    assert ids(drain(pending, 30)) == ["z", "a", "m"]


def test_a_record_says_where_it_stood_and_whether_it_was_late() -> None:
    pending = filled((shown("a", 10), 10), (clicked("b", 10), 11))
    (on_time, _), (late, _) = drain(pending, 11)
    assert (on_time.at, on_time.kind, on_time.is_late, on_time.watermark_ms) == (
        "log:1", RecordKind.IMPRESSION, False, T0 + 10,
    )  # fmt: skip
    assert (late.at, late.kind, late.is_late, late.watermark_ms) == ("log:2", RecordKind.CLICK, True, T0 + 11)
    assert unpack_record(pack_record(late)) == late


def test_nothing_pending_is_never_ready() -> None:
    pending = Pending()
    assert (len(pending), pending.next_ms, pending.is_ready(T0)) == (0, None, False)
    assert drain(pending, 10**6) == []
    assert pending.snapshot() == []


arriving = st.lists(
    st.tuples(
        st.one_of(
            st.builds(shown, st.sampled_from("ab"), st.integers(0, 9)),
            st.builds(clicked, st.sampled_from("ab"), st.integers(0, 9)),
            st.builds(converted, st.sampled_from("ab"), st.integers(0, 9)),
        ),
        st.integers(0, 9),
    ),
    max_size=12,
).map(lambda pairs: list(zip((event for event, _ in pairs), sorted(mark for _, mark in pairs), strict=True)))


@hypothesis_settings(deadline=None, max_examples=100)
@given(arriving, st.integers(0, 12))
def test_the_order_is_that_of_the_rule_read_literally(arrivals: list[tuple[Event, int]], stop: int) -> None:
    def rule(number: int) -> tuple[object, ...]:
        event, watermark = arrivals[number]
        at = event.event_time_ms - T0
        if at < watermark:
            return (watermark, 0, number)
        kind = type(event).__name__
        return (at, 1, ["Impression", "Click", "Conversion"].index(kind), event.impression_id, number)

    pending = filled(*arrivals)
    taken = drain(pending, stop) + drain(pending, 100)
    assert [int(record.at.partition(":")[2]) - 1 for record, _ in taken] == sorted(range(len(arrivals)), key=rule)


@hypothesis_settings(deadline=None, max_examples=100)
@given(arriving, st.integers(0, 12))
def test_cut_anywhere_and_restored_it_goes_on_the_same(arrivals: list[tuple[Event, int]], cut: int) -> None:
    first, second = filled(*arrivals[:cut]), Pending()
    before = drain(first, arrivals[cut][1] if cut < len(arrivals) else 9)
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    for number, (event, watermark) in enumerate(arrivals[cut:], cut + 1):
        second.add(arrivals_of([event], [watermark], first=number))
    assert before + drain(second, 100) == drain(filled(*arrivals), 100)


@hypothesis_settings(deadline=None, max_examples=200)
@given(arriving, st.integers(1, 12), st.integers(0, 9))
def test_taken_as_they_arrive_the_order_is_the_same(arrivals: list[tuple[Event, int]], at_once: int, lag: int) -> None:
    pending = Pending()
    taken: list[tuple[Record, int]] = []
    for start in range(0, len(arrivals), at_once):
        events, watermarks = zip(*arrivals[start : start + at_once], strict=True)
        pending.add(arrivals_of(events, watermarks, first=start + 1))
        taken += drain(pending, watermarks[-1] - lag, is_halt=True)  # with a lag, most wait while a few go
        assert len(pending) == start + len(events) - len(taken)
    assert taken + drain(pending, 100) == drain(filled(*arrivals), 100)
