"""Remembered: what left is known to the millisecond for as long as it must be, and no longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.remembered import Left, Remembered

CLICK_WINDOW, HOLD = 10, 5


def fresh() -> Remembered:
    return Remembered(click_window_ms=CLICK_WINDOW, hold_ms=HOLD)


@pytest.mark.parametrize(("now", "is_held"), [(110, True), (115, True), (116, False)])
def test_an_unclicked_impression_is_remembered_up_to_and_including_the_hold(now: int, is_held: bool) -> None:
    # shown 100        leaves 110        115| forgotten
    remembered = fresh()
    remembered.add_unclicked(["a"], [100])
    assert remembered.holds("a", now_ms=now) is is_held
    assert remembered.get("a", now_ms=now) == (Left(100, None, False) if is_held else None)
    assert len(remembered) == is_held


@pytest.mark.parametrize(("now", "is_held"), [(200, True), (205, True), (206, False)])
def test_any_other_is_remembered_from_when_it_left(now: int, is_held: bool) -> None:
    remembered = fresh()
    remembered.add("a", 200, Left(100, 104, True))
    assert remembered.get("a", now_ms=now) == (Left(100, 104, True) if is_held else None)
    assert len(remembered) == is_held


def test_what_never_was_there_is_not_remembered() -> None:
    assert not fresh().holds("a", now_ms=10**6)
    assert fresh().get("a", now_ms=10**6) is None


def test_each_is_found_among_many() -> None:
    remembered = fresh()
    for number in range(200):
        remembered.add_unclicked([f"ü{number}"], [number // 50])
    assert remembered.get("ü0", now_ms=16) is None
    assert remembered.get("ü49", now_ms=16) is None
    assert remembered.get("ü50", now_ms=16) == Left(1, None, False)
    assert remembered.get("ü199", now_ms=16) == Left(3, None, False)
    assert len(remembered) == 150


def test_a_name_may_be_used_again_once_it_is_forgotten() -> None:
    remembered = fresh()
    remembered.add_unclicked(["a"], [100])
    remembered.forget(116)
    remembered.add_unclicked(["a"], [106])
    assert remembered.get("a", now_ms=121) == Left(106, None, False)
    assert remembered.get("a", now_ms=122) is None


def test_thousands_are_forgotten_without_a_trace() -> None:
    remembered = fresh()
    for number in range(20_000):
        remembered.add_unclicked([f"i{number}"], [number])
        remembered.forget(number)
    assert len(remembered) == 16  # those shown at 19,984 and after it
    assert remembered.get("i19984", now_ms=19_999) == Left(19_984, None, False)
    assert remembered.snapshot().unclicked_ms == list(range(19_984, 20_000))


def test_times_months_apart_are_kept_to_the_millisecond() -> None:
    day = 86_400_000
    remembered = Remembered(click_window_ms=CLICK_WINDOW, hold_ms=100 * day)
    for number in range(12_000):
        remembered.add_unclicked([f"i{number}"], [number * day // 60])  # 200 days
        remembered.forget(number * day // 60)
    assert remembered.get("i6001", now_ms=11_999 * day // 60) == Left(6_001 * day // 60, None, False)
    assert remembered.snapshot().unclicked_ms == [number * day // 60 for number in range(5_999, 12_000)]
    restored = Remembered(click_window_ms=CLICK_WINDOW, hold_ms=100 * day)
    restored.restore(remembered.snapshot())
    assert restored.get("i11999", now_ms=11_999 * day // 60) == Left(11_999 * day // 60, None, False)
    restored.forget(500 * day)
    restored.add_unclicked(["new"], [500 * day])
    assert restored.snapshot().unclicked_ms == [500 * day]


lives = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"), st.integers(0, 40), st.none() | st.tuples(st.integers(0, 30), st.booleans())
    ),
    max_size=12,
    unique_by=lambda life: life[0],
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(lives, st.lists(st.integers(0, 90), max_size=5).map(sorted))
def test_equals_a_dictionary_and_survives_a_snapshot(
    left: list[tuple[str, int, tuple[int, bool] | None]], asked: list[int]
) -> None:
    naive: dict[str, tuple[int, Left]] = {}
    remembered = fresh()
    for name, at, click in sorted(left, key=lambda life: life[1]):
        if click is None:
            naive[name] = (at + CLICK_WINDOW, Left(at, None, False))
            remembered.add_unclicked([name], [at])
    for name, at, click in sorted(left, key=lambda life: life[1] + (life[2] or (0,))[0]):
        if click is not None:
            naive[name] = (at + click[0], Left(at, at, click[1]))
            remembered.add(name, at + click[0], naive[name][1])
    for now in asked:
        expected = {name: facts for name, (leave, facts) in naive.items() if leave + HOLD >= now}
        assert {name: remembered.get(name, now_ms=now) for name in "abcdefgh"} == {
            name: expected.get(name) for name in "abcdefgh"
        }
        remembered.forget(now)
        assert len(remembered) == len(expected)
        restored = fresh()
        restored.restore(remembered.snapshot())
        assert restored.snapshot() == remembered.snapshot()
        remembered = restored
