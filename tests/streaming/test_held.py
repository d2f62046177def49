"""Held: who is released, who has waited long enough, and in which order."""

from __future__ import annotations

from fakes import T0, clicked, converted, line_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.events import Fact
from streaming.held import Held
from streaming.pending import Record

HOLD = 10


def record_of(fact: Fact, at: str = "log:1", line: bytes | None = None) -> Record:
    return Record(fact, line_of(fact) if line is None else line, at, T0, False)


def holding(*facts: Fact) -> Held:
    held = Held(HOLD)
    for number, fact in enumerate(facts, 1):
        held.add(fact.impression_id, record_of(fact, f"log:{number}"))
    return held


def test_a_fact_is_held_up_to_and_including_the_hold() -> None:
    held = holding(clicked("a", 5))
    assert held.next_ms == T0 + 15
    assert held.expire(T0 + 15) == []
    assert [record.at for record in held.expire(T0 + 16)] == ["log:1"]
    assert (len(held), held.next_ms, "a" in held.names) == (0, None, False)


def test_what_is_released_comes_in_the_order_of_event_time_and_does_not_expire() -> None:
    held = holding(converted("a", 7), clicked("b", 1), clicked("a", 9), clicked("a", 7))
    assert [record.at for record in held.release("a")] == ["log:4", "log:1", "log:3"]
    assert (len(held), set(held.names)) == (1, {"b"})
    assert [record.at for record in held.expire(T0 + 1_000)] == ["log:2"]


def test_a_released_fact_does_not_hold_the_clock_back() -> None:
    held = holding(clicked("a", 1), clicked("b", 5))
    held.release("a")
    assert held.next_ms == T0 + 15


def test_facts_that_leave_at_once_leave_by_time_kind_name_and_bytes() -> None:
    held = Held(HOLD)
    for at, fact, line in (
        ("1", converted("a", 5), b"x"),
        ("2", clicked("b", 5), b"x"),
        ("3", clicked("a", 5), b"z"),
        ("4", clicked("a", 5), b"y"),
        ("5", clicked("z", 4), b"x"),
    ):
        held.add(fact.impression_id, record_of(fact, at, line))
    assert [record.at for record in held.expire(T0 + 1_000)] == ["5", "4", "3", "2", "1"]


def test_equal_lines_are_each_held() -> None:
    held = holding(clicked("a", 5), clicked("a", 5), clicked("a", 5))
    assert len(held) == 3
    assert [record.at for record in held.expire(T0 + 16)] == ["log:1", "log:2", "log:3"]


facts = st.lists(
    st.one_of(
        st.builds(clicked, st.sampled_from("abc"), st.integers(0, 30)),
        st.builds(converted, st.sampled_from("abc"), st.integers(0, 30)),
    ),
    max_size=10,
)


@hypothesis_settings(deadline=None, max_examples=100)
@given(facts, facts, st.sampled_from("abc"), st.integers(0, 50))
def test_restored_from_a_snapshot_it_goes_on_the_same(first: list[Fact], then: list[Fact], name: str, at: int) -> None:
    held, restored = holding(*first), Held(HOLD)
    if name in held.names:
        held.release(name)
    held.expire(T0 + at)
    restored.restore(held.snapshot())
    assert len(restored) == len(held)
    assert restored.snapshot() == held.snapshot()
    for one in (held, restored):
        for number, fact in enumerate(then):
            one.add(fact.impression_id, record_of(fact, f"then:{number}"))
    assert restored.expire(T0 + at + 5) == held.expire(T0 + at + 5)
    assert restored.next_ms == held.next_ms
    assert restored.expire(T0 + 1_000) == held.expire(T0 + 1_000)
