"""Sums of cohorts against lists of all clicks, in any order, cut, added and folded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cohorts import Cohorts

EDGES = (5, 20, 60)
COHORT_MS, SETTLES_MS = 10, 7
CURVE = np.array([0.2, 0.6, 1.0])

clicks = st.lists(
    st.tuples(
        st.integers(0, 120),  # click_ms
        st.floats(0, 1),  # p
        st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),  # F at the edges but the last
        st.one_of(st.none(), st.integers(0, EDGES[-1])),  # delay of its conversion
    ),
    max_size=25,
)


def fresh():
    return Cohorts(EDGES, cohort_ms=COHORT_MS, settles_after_ms=SETTLES_MS)


def add(cohorts, some):
    click_ms = np.array([click for click, *_ in some], np.int64)
    completed = np.array([[*shares, 1.0] for _, _, shares, _ in some]).reshape(-1, 3)
    cohorts.add_clicks(click_ms, np.array([p for _, p, *_ in some]), completed, curve=CURVE)
    converted = [(click, delay) for click, _, _, delay in some if delay is not None]
    cohorts.add_conversions([click for click, _ in converted], [delay for _, delay in converted])


def of(*parts):
    cohorts = fresh()
    for part in parts:
        add(cohorts, part)
    return cohorts


def looked(cohorts, now_ms):
    return [column.tolist() for column in cohorts.look(now_ms)]


def state(cohorts):
    return {name: tensor.numpy().tobytes() for name, tensor in cohorts.snapshot().items()}


@settings(deadline=None, max_examples=60)
@given(clicks, st.integers(0, 250))
def test_the_sums_are_what_a_list_of_all_clicks_gives(some, now_ms):
    expected = []
    for start in sorted({click // COHORT_MS * COHORT_MS for click, *_ in some}):
        end = start + COHORT_MS
        reached = [k for k, edge in enumerate(EDGES) if end + max(edge, SETTLES_MS) <= now_ms]
        if not reached:
            continue
        k = reached[-1]
        mine = [each for each in some if start <= each[0] < end]
        due = [p * [*shares, 1.0][k] for _, p, shares, _ in mine]
        sum_p = sum(p for _, p, _, _ in mine)
        came = sum(delay is not None and delay <= EDGES[k] for *_, delay in mine)
        expected.append((start, k, len(mine), sum(due), sum(e**2 for e in due), sum_p * CURVE[k], sum_p, came))
    found = list(zip(*of(some).look(now_ms), strict=True))
    assert len(found) == len(expected)
    if expected:
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(clicks, st.data(), st.integers(0, 250))
def test_however_clicks_are_cut_the_bits_are_the_same(some, data, now_ms):
    cut = data.draw(st.integers(0, len(some)))
    assert state(of(some[:cut], some[cut:])) == state(of(some))


@settings(deadline=None, max_examples=30)
@given(clicks, st.randoms(use_true_random=False), st.integers(0, 250))
def test_the_order_of_clicks_moves_the_last_digits_at_most(some, random, now_ms):
    shuffled = random.sample(some, len(some))
    for one, other in zip(looked(of(shuffled), now_ms), looked(of(some), now_ms), strict=True):
        assert one == pytest.approx(other, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(clicks, clicks, st.integers(0, 250), st.integers(0, 250))
def test_partitions_add_up(some, others, folded_ms, now_ms):
    one, other = of(some), of(others)
    one.fold(folded_ms)
    together = of(some, others)
    together.fold(folded_ms)
    both = one + other
    both.fold(folded_ms)
    assert both.folded == pytest.approx(together.folded, rel=1e-12)
    for mine, theirs in zip(looked(both, now_ms), looked(together, now_ms), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(clicks, clicks, st.integers(0, 250))
def test_a_restored_one_goes_on_bit_for_bit(before, after, now_ms):
    kept, resumed = of(before), of(after)
    kept.fold(now_ms)
    resumed.restore(kept.snapshot())
    for each in (kept, resumed):
        add(each, after)
        each.fold(now_ms + 30)
    assert state(resumed) == state(kept)


@settings(deadline=None, max_examples=30)
@given(clicks, clicks, st.lists(st.integers(0, 250), max_size=4))
def test_folding_loses_nobody_and_takes_in_who_comes_after(some, later, times):
    cohorts = of(some)
    for now_ms in times:
        cohorts.fold(now_ms)
    add(cohorts, later)
    now_ms = max(times, default=0)
    left = [click // COHORT_MS * COHORT_MS for click, *_ in some]
    left = [start for start in left if start + COHORT_MS + max(EDGES[-1], SETTLES_MS) <= now_ms]
    until = max(left) + COHORT_MS if left else -1
    gone = [each for each in [*some, *later] if each[0] // COHORT_MS * COHORT_MS < until]
    n, sum_p, square, converted = cohorts.folded
    assert (n, converted) == (len(gone), sum(delay is not None for *_, delay in gone))
    assert (sum_p, square) == pytest.approx((sum(p for _, p, *_ in gone), sum(p**2 for _, p, *_ in gone)), rel=1e-12)
    cohorts.fold(10_000)
    assert cohorts.folded[0] == len(some) + len(later)


def test_what_was_asked_for_is_not_what_it_keeps():
    cohorts = of([(3, 0.5, (0.1, 0.9), 4)])
    before = state(cohorts)
    for tensor in cohorts.snapshot().values():
        tensor.zero_()
    for column in cohorts.look(1000):
        column += 1
    assert state(cohorts) == before


@pytest.mark.parametrize(
    ("click_ms", "p", "completed", "curve", "message"),
    [
        ([1, 2], [0.1], [CURVE], CURVE, r"a row a click"),
        ([1], [0.1], [CURVE[1:]], CURVE, r"completed 3 edges"),
        ([1], [1.1], [CURVE], CURVE, r"p must lie between 0 and 1 \(got 1.1 to 1.1\)"),
        ([1], [np.nan], [CURVE], CURVE, r"p must lie between 0 and 1"),
        ([1], [0.1], [CURVE * 2], CURVE, r"completed must lie between 0 and 1 \(got 0.4 to 2.0\)"),
        ([1], [0.1], [CURVE], CURVE / 2, r"curve must have 3 edges, none below 0 and 1 at the last"),
    ],
)
def test_clicks_out_of_range_are_refused(click_ms, p, completed, curve, message):
    cohorts = fresh()
    with pytest.raises(ValueError, match=message):
        cohorts.add_clicks(click_ms, p, np.array(completed), curve=curve)
    assert state(cohorts) == state(fresh())


@pytest.mark.parametrize(
    ("click_ms", "delay_ms", "message"),
    [
        ([1], [61], r"delay_ms must lie between 0 and the attribution window of 60 \(got 61 to 61\)"),
        ([1], [-1], r"delay_ms must lie between 0"),
        ([1, 2], [1], r"two rows of one length"),
    ],
)
def test_conversions_out_of_the_window_are_refused(click_ms, delay_ms, message):
    with pytest.raises(ValueError, match=message):
        fresh().add_conversions(click_ms, delay_ms)


def test_cohorts_that_are_not_alike_do_not_add_up():
    with pytest.raises(ValueError, match="cohorts add up if they have the same edges"):
        fresh() + Cohorts(EDGES)
    with pytest.raises(ValueError, match="the snapshot has 3 edges, these cohorts 2"):
        Cohorts((1, 2)).restore(fresh().snapshot())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"cohort_ms": 0}, "cohort_ms must be above 0"), ({"settles_after_ms": -1}, "settles_after_ms must be 0 or more")],
)
def test_settings_that_make_no_cohort_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        Cohorts(EDGES, **settings_)
