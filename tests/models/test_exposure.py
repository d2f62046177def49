"""Sums of exposure, expected and observed: decay by click time, values of a field, and the same bits however rows are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exposure import BUCKETS, HIGHEST_LOGIT, LOWEST_LOGIT, ExposureSums, Seen
from models.logit_map import logit

SEGMENT_MS, HALF_LIFE_MS = 10, 70
rows = st.lists(
    st.tuples(st.floats(0, 1), st.booleans(), st.floats(0, 1), st.integers(0, 3000), st.integers(-3, 3)),
    min_size=1,
    max_size=40,
)


def seen(some):
    p, converted, exposure, click_ms, ids = (np.array(column) for column in zip(*some, strict=True))
    return Seen.of(p, converted.astype(float), exposure, click_ms=click_ms, field_ids=ids)


def sums_of(*parts, max_values=100):
    sums = ExposureSums(segment_ms=SEGMENT_MS, half_life_ms=HALF_LIFE_MS, max_values=max_values)
    for part in parts:
        sums.add(seen(part))
    return sums


def state(sums):
    return {name: tensor.numpy().tolist() for name, tensor in sums.snapshot().items()}


@settings(deadline=None, max_examples=60)
@given(rows)
def test_the_sums_are_what_a_list_of_all_rows_gives(some):
    newest = max(click_ms // SEGMENT_MS * SEGMENT_MS for _, _, _, click_ms, _ in some)
    cells: dict[int, np.ndarray] = {}
    everywhere = np.zeros((3, BUCKETS))
    for p, converted, exposure, click_ms, value in some:
        weight = 0.5 ** ((newest - click_ms // SEGMENT_MS * SEGMENT_MS) / HALF_LIFE_MS)
        place = (float(logit(np.array(p))) - LOWEST_LOGIT) / (HIGHEST_LOGIT - LOWEST_LOGIT) * BUCKETS
        bucket = min(max(int(place), 0), BUCKETS - 1)
        figures = weight * np.array([max(exposure, 1e-9), max(p, 1e-12) * max(exposure, 1e-9), converted])
        everywhere[:, bucket] += figures
        cells.setdefault(value, np.zeros((3, BUCKETS)))[:, bucket] += figures
    sums = sums_of(some)
    np.testing.assert_allclose(sums.everywhere, everywhere, rtol=1e-12)
    assert sums.ids.tolist() == sorted(cells)
    np.testing.assert_allclose(sums.by_value, [cells[value] for value in sorted(cells)], rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(rows, st.data())
def test_however_rows_are_cut_the_bits_are_the_same(some, data):
    cut = data.draw(st.integers(1, len(some)))
    parts = [part for part in (some[:cut], some[cut:]) if part]
    assert state(sums_of(*parts)) == state(sums_of(some))


@settings(deadline=None, max_examples=40)
@given(rows)
def test_the_order_of_rows_moves_the_last_digits_at_most(some):
    np.testing.assert_allclose(sums_of(some[::-1]).by_value, sums_of(some).by_value, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(rows, rows)
def test_a_restored_one_goes_on_bit_for_bit(before, after):
    kept = sums_of(before)
    other = sums_of(after)
    other.restore(kept.snapshot())
    kept.add(seen(after))
    other.add(seen(after))
    assert state(other) == state(kept)


def test_where_values_are_too_many_those_with_the_least_exposure_go():
    heavy = [(0.1, False, 1.0, 0, value) for value in range(8) for _ in range(1 + value)]
    sums = sums_of(heavy, [(0.1, False, 0.5, 0, 99)], max_values=8)
    assert sums.ids.tolist() == [2, 3, 4, 5, 6, 7]
    assert sums.everywhere[0].sum() == pytest.approx(36.5)  # what is forgotten of a value still counts for all


def test_clicks_from_a_thousand_half_lives_ago_are_nothing_and_harm_nothing():
    sums = sums_of([(0.5, True, 1.0, 0, 1)], [(0.5, True, 1.0, 100_000 * HALF_LIFE_MS, 2)], [(0.5, True, 1.0, 0, 3)])
    assert sums.everywhere.sum(axis=1) == pytest.approx([1.0, 0.5, 1.0])
    assert np.isfinite(sums.by_value).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposure": [1.5]}, r"exposure\[0\] must lie between 0 and 1 \(got 1.5\)"),
        ({"exposure": [np.nan]}, r"exposure\[0\] must lie between 0 and 1 \(got nan\)"),
        ({"exposure": [0.5, 0.5]}, r"as many rows"),
        ({"click_ms": [1, 2]}, r"as many rows"),
        ({"field_ids": [1, 2]}, r"as many rows"),
        ({"p": [1.1]}, r"p\[0\] must be a probability"),
        ({"converted": [0.5]}, r"y\[0\] must be 0 or 1"),
    ],
)
def test_rows_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Seen.of(**({"p": [0.1], "converted": [0], "exposure": [1.0], "click_ms": [0]} | change))


@pytest.mark.parametrize("name", ["segment_ms", "half_life_ms", "max_values"])
def test_settings_of_0_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must be above 0 \(got 0\)"):
        ExposureSums(**({"segment_ms": 1, "half_life_ms": 1, "max_values": 1} | {name: 0}))
