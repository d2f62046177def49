"""Idleness: read to the end twice, a while apart; neither a dead broker nor a backlog nor our own pause is that."""

from __future__ import annotations

import pytest

from streaming.idleness import Idleness

AT_END = {"a": 5, "b": 9}


def look(
    idleness: Idleness, now_ms: int, ends: dict[str, int] = AT_END, paused: tuple[str, ...] = ()
) -> dict[str, bool]:
    return idleness.on_ends(ends, positions=AT_END, paused=paused, now_ms=now_ms)


def fresh() -> Idleness:
    idleness = Idleness(AT_END, timeout_ms=100)
    assert look(idleness, 0) == {"a": False, "b": False}
    return idleness


def test_read_to_the_end_twice_is_idle() -> None:
    idleness = fresh()
    assert look(idleness, 99) == {}
    assert look(idleness, 100) == {"a": True, "b": True}
    assert look(idleness, 500) == {}


@pytest.mark.parametrize(
    ("ends", "paused"),
    [({"a": 5, "b": 10}, ()), ({"a": 5}, ()), (AT_END, ("b",))],
    ids=["a backlog", "a dead broker", "our own pause"],
)
def test_is_no_idleness(ends: dict[str, int], paused: tuple[str, ...]) -> None:
    idleness = fresh()
    assert look(idleness, 50, ends, paused) == {}
    assert look(idleness, 120) == {"a": True}  # b is asked from anew
    assert look(idleness, 219) == {}
    assert look(idleness, 220) == {"b": True}
    assert look(idleness, 230, ends, paused) == {"b": False}


def test_a_record_ends_it_and_the_wait_begins_anew() -> None:
    idleness = fresh()
    look(idleness, 100)
    assert idleness.on_records(["a"]) == {"a": False}
    assert idleness.on_records(["a"]) == {}
    assert look(idleness, 150) == {}
    assert look(idleness, 250) == {"a": True}


def test_records_before_it_begin_the_wait_anew_too() -> None:
    idleness = fresh()
    assert idleness.on_records(["a"]) == {}
    assert look(idleness, 100) == {"b": True}
