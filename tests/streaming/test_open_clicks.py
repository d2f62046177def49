"""What open clicks have been taught is kept from their first event to the one that settles them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from fakes import T0, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import ClickMemory
from streaming.examples import Example, Examples, Kind
from streaming.open_clicks import OpenClick, OpenClicks

SETTLING = (Kind.IMMEDIATE_POSITIVE, Kind.DELAYED_POSITIVE, Kind.REAL_NEGATIVE)
KEPT = (Kind.OBSERVED_NEGATIVE, Kind.REVISIT)


def example(name: str, kind: Kind) -> Example:
    return Example(T0 + 9, kind, 1, 0, shown(name, 0), click_ms=T0)


def taught(memory: ClickMemory, *negatives: float) -> ClickMemory:
    """The memory after a batch: clicks told these a- and as much more of a+, first with an f of twice as much."""
    negative = np.array(negatives)
    return ClickMemory(memory.click, 2 * negative, 1 + negative, negative)


def told(clicks: OpenClicks) -> dict[str, float]:
    return {name: own.negative for name, own in clicks.snapshot().items()}


def test_rows_of_one_click_have_one_number_and_rows_of_no_click_none() -> None:
    rows = Examples.of(
        [
            example("a", Kind.OBSERVED_NEGATIVE),
            example("b", Kind.REVISIT),
            example("c", Kind.UNCLICKED),
            example("a", Kind.REVISIT),
            example("b", Kind.CLICKED),  # of the click, but nothing that CVR is taught by
        ]
    )
    memory = OpenClicks().recall(rows)
    assert memory.click.tolist() == [0, 1, -1, 0, -1]
    assert np.isnan(memory.first_f).all()
    assert np.isnan(memory.positive).all()
    assert np.isnan(memory.negative).all()


def test_what_a_click_was_told_is_recalled() -> None:
    clicks, rows = (
        OpenClicks(),
        Examples.of([example("a", Kind.OBSERVED_NEGATIVE), example("b", Kind.OBSERVED_NEGATIVE)]),
    )
    clicks.remember(rows, taught(clicks.recall(rows), 0.1, 0.2))
    memory = clicks.recall(
        Examples.of([example("b", Kind.REVISIT), example("new", Kind.REVISIT), example("a", Kind.REAL_NEGATIVE)])
    )
    assert memory.negative.tolist() == pytest.approx([0.2, math.nan, 0.1], nan_ok=True)
    assert memory.positive.tolist() == pytest.approx([1.2, math.nan, 1.1], nan_ok=True)
    assert memory.first_f.tolist() == pytest.approx([0.4, math.nan, 0.2], nan_ok=True)


@pytest.mark.parametrize("kind", SETTLING)
def test_a_click_that_is_settled_is_forgotten(kind: Kind) -> None:
    clicks, first = (
        OpenClicks(),
        Examples.of([example("a", Kind.OBSERVED_NEGATIVE), example("b", Kind.OBSERVED_NEGATIVE)]),
    )
    clicks.remember(first, taught(clicks.recall(first), 0.1, 0.2))
    last = Examples.of([example("a", kind)])
    clicks.remember(last, taught(clicks.recall(last), 1.0))
    assert told(clicks) == {"b": 0.2}


def test_a_click_first_seen_and_settled_in_one_batch_is_not_kept() -> None:
    clicks, rows = (
        OpenClicks(),
        Examples.of([example("a", Kind.OBSERVED_NEGATIVE), example("a", Kind.DELAYED_POSITIVE)]),
    )
    clicks.remember(rows, taught(clicks.recall(rows), 1.0))
    assert len(clicks) == 0


def test_a_click_that_was_told_nothing_is_not_kept() -> None:
    clicks, rows = OpenClicks(), Examples.of([example("a", Kind.REVISIT)])
    clicks.remember(rows, clicks.recall(rows))
    assert len(clicks) == 0


def test_settling_without_a_lesson_forgets_too() -> None:
    clicks, rows = (
        OpenClicks(),
        Examples.of([example("a", Kind.OBSERVED_NEGATIVE), example("b", Kind.OBSERVED_NEGATIVE)]),
    )
    clicks.remember(rows, taught(clicks.recall(rows), 0.1, 0.2))
    clicks.settle(
        Examples.of([example("a", Kind.REAL_NEGATIVE), example("b", Kind.REVISIT), example("c", Kind.REAL_NEGATIVE)])
    )
    assert told(clicks) == {"b": 0.2}


def test_a_batch_of_nothing_is_no_clicks() -> None:
    clicks = OpenClicks()
    memory = clicks.recall(Examples.of([]))
    assert [len(column) for column in (memory.click, memory.first_f, memory.negative)] == [0, 0, 0]
    clicks.remember(Examples.of([]), memory)
    assert clicks.snapshot() == {}


STEPS = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([*KEPT, *SETTLING, Kind.UNCLICKED])), max_size=6),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_it_holds_what_was_last_told_and_goes_on_from_bytes(
    steps: list[list[tuple[str, Kind]]], cut: int, random: object
) -> None:
    clicks, expected = OpenClicks(), dict[str, float]()
    for number, batch in enumerate(steps):
        if number == cut:
            kept = msgspec.msgpack.encode(clicks.snapshot())
            clicks = OpenClicks()
            clicks.restore(msgspec.msgpack.decode(kept, type=dict[str, OpenClick]))
        rows = Examples.of([example(name, kind) for name, kind in batch])
        memory = clicks.recall(rows)
        names = list(dict.fromkeys(name for name, kind in batch if kind != Kind.UNCLICKED))
        assert memory.negative.tolist() == pytest.approx([expected.get(name, math.nan) for name in names], nan_ok=True)
        negatives = [random.random() for _ in names]  # type: ignore[attr-defined]
        clicks.remember(rows, taught(memory, *negatives))
        expected |= dict(zip(names, negatives, strict=True))
        for name, kind in batch:
            if kind in SETTLING:
                expected.pop(name, None)
        assert told(clicks) == expected
