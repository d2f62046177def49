"""The prior of delays, the curve of all conversions, and reading it at any age."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.delay_curve import Ages, DelayPrior, GlobalCurve
from models.delay_edges import edges_ms, log_age

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
EDGES = (HOUR_MS, 3 * HOUR_MS, 12 * HOUR_MS, DAY_MS)
examples = st.lists(
    st.tuples(st.integers(-500, 3000), st.integers(0, 3), st.booleans()), max_size=30
)  # (ms since the last batch, k, in bin)


def curve(edges=EDGES, **changes):
    return GlobalCurve(edges, **({"prior": DelayPrior(), "half_life_ms": 1000, "prior_examples": 5.0} | changes))


def test_the_prior_gives_back_its_shares_at_its_ages():
    prior = DelayPrior(ages_ms=(HOUR_MS, 12 * HOUR_MS), shares=(0.4, 0.9))
    np.testing.assert_allclose(prior.completed(EDGES)[[0, 2, 3]], [0.4, 0.9, 1.0])


def test_a_prior_beyond_the_window_is_cut_there():
    week = edges_ms(HOUR_MS, 7 * DAY_MS)
    shares = DelayPrior().completed(week)
    assert shares[-1] == 1
    assert shares[week.index(HOUR_MS)] == pytest.approx(0.35 / 0.81)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40 * DAY_MS), min_size=1, max_size=6, unique=True), st.data())
def test_the_hazards_of_a_prior_multiply_to_its_shares(ages, data):
    shares = sorted(data.draw(st.lists(st.floats(0.05, 1), min_size=len(ages), max_size=len(ages))))
    prior = DelayPrior(ages_ms=tuple(sorted(ages)), shares=tuple(shares))
    hazards = prior.hazards(EDGES)
    assert ((hazards[1:] > 0) & (hazards[1:] < 1)).all()
    product = [math.prod(1 - r for r in hazards[j + 1 :]) for j in range(len(EDGES))]
    # Each hazard is kept from 0 and 1 by 1e-4, and there are three.
    np.testing.assert_allclose(product, prior.completed(EDGES), atol=4e-4)


@pytest.mark.parametrize(
    ("ages", "shares", "message"),
    [
        ((), (), r"equally many, at least one \(got 0 and 0\)"),
        ((1, 2), (0.5,), r"equally many, at least one \(got 2 and 1\)"),
        ((2, 2), (0.5, 0.6), r"ages_ms must ascend from above 0 \(got 2 after 2\)"),
        ((0,), (0.5,), r"ages_ms must ascend from above 0 \(got 0 after 0\)"),
        ((1, 2), (0.5, 1.1), r"a share must lie above 0 and up to 1 \(got 1.1\)"),
        ((1,), (0.0,), r"a share must lie above 0 and up to 1 \(got 0.0\)"),
        ((1,), (math.nan,), r"a share must lie above 0 and up to 1 \(got nan\)"),
        ((1, 2), (0.5, 0.4), r"shares must ascend with age \(got 0.4 after 0.5\)"),
    ],
)
def test_a_prior_that_is_no_curve_is_refused(ages, shares, message):
    with pytest.raises(ValueError, match=f"delay_prior: .*{message}"):
        DelayPrior(ages_ms=ages, shares=shares)


@settings(deadline=None, max_examples=80)
@given(examples)
def test_the_curve_is_what_a_list_of_all_examples_gives(steps):
    taught, now, seen = curve(), 0, []
    for gap, k, in_bin in steps:
        now = max(now + gap, now) if seen else now + gap
        taught.learn(np.array([k]), np.array([in_bin]), at_ms=now)
        seen.append((now, k, in_bin))
    prior = DelayPrior().completed(EDGES)
    share = 1.0
    expected = [1.0]
    for k in (3, 2, 1):
        weights = [(0.5 ** ((now - at) / 1000), hit) for at, bin_, hit in seen if bin_ == k]
        start = 5.0 * (1 - prior[k - 1] / prior[k])
        rate = (sum(w for w, hit in weights if hit) + start) / (sum(w for w, _ in weights) + 5.0)
        share *= 1 - rate
        expected.insert(0, share)
        assert taught.learned[k] == (sum(w for w, _ in weights) >= 5.0)
    np.testing.assert_allclose(taught.completed(np.array(EDGES)), expected, rtol=1e-9)


def test_a_batch_from_before_the_latest_is_taken_at_the_latest():
    ordered, turned = curve(), curve()
    for one, times in ((ordered, (5000, 5000)), (turned, (5000, 100))):
        for at_ms in times:
            one.learn(np.array([1]), np.array([True]), at_ms=at_ms)
    np.testing.assert_array_equal(ordered.hazards, turned.hazards)


def test_an_age_rests_on_the_prior_until_every_bin_beyond_it_is_learned():
    taught = curve()
    assert taught.rests_on_prior([-1, 0, HOUR_MS, DAY_MS - 1, DAY_MS, 2 * DAY_MS]).tolist() == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    taught.learn(np.full(5, 3), np.zeros(5, np.bool_), at_ms=0)  # the last bin, from 12 hours to a day
    assert taught.rests_on_prior([3 * HOUR_MS, 12 * HOUR_MS - 1, 12 * HOUR_MS, DAY_MS - 1]).tolist() == [
        True,
        True,
        False,
        False,
    ]
    taught.learn(np.repeat([1, 2], 5), np.zeros(10, np.bool_), at_ms=0)
    assert not taught.rests_on_prior(0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-10, 2 * DAY_MS), min_size=1, max_size=20))
def test_between_edges_the_curve_is_straight_in_log_age(ages):
    taught = curve()
    at_edges = taught.completed(np.array(EDGES))
    x = [log_age(edge) for edge in (0, *EDGES)]
    expected = [0.0 if age < 0 else np.interp(log_age(age), x, [0.0, *at_edges]) for age in ages]
    np.testing.assert_allclose(taught.completed(np.array(ages)), expected, atol=1e-12)


def test_conversions_in_the_very_millisecond_of_the_click_have_a_bin_where_zero_is_an_edge():
    taught = curve((0, HOUR_MS), prior_examples=1e-9)
    taught.learn(np.ones(4, np.int64), np.array([True, True, True, False]), at_ms=0)
    np.testing.assert_allclose(taught.completed(np.array([-1, 0, HOUR_MS])), [0, 0.25, 1], atol=1e-6)


@pytest.mark.parametrize("edges", [(), (0,), (-1, 5), (5, 5), (7, 5)])
def test_edges_that_bound_no_bins_are_refused(edges):
    with pytest.raises(ValueError, match="edges must ascend from 0 or above and end above 0"):
        Ages(edges)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half_life_ms": 0}, r"half_life_ms must be above 0 \(got 0\)"),
        ({"prior_examples": 0.0}, r"prior_examples must be above 0 and finite \(got 0.0\)"),
        ({"prior_examples": math.inf}, r"prior_examples must be above 0 and finite \(got inf\)"),
    ],
)
def test_a_curve_without_memory_or_prior_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        curve(**changes)


@pytest.mark.parametrize("ages", [[4], [-1]])
def test_an_edge_that_there_is_not_is_refused(ages):
    with pytest.raises(ValueError, match="ages must lie between 0 and 3"):
        curve().learn(np.array(ages), np.array([True]), at_ms=0)


@settings(deadline=None, max_examples=30)
@given(examples, st.integers(0, 30))
def test_a_curve_cut_anywhere_goes_on_as_it_was(steps, cut):
    whole, first, second = curve(), curve(), curve()
    now = 0
    for number, (gap, k, in_bin) in enumerate(steps):
        now += gap
        if number == cut:
            second.restore(first.snapshot())
        for one in (whole, first if number < cut else second):
            one.learn(np.array([k]), np.array([in_bin]), at_ms=now)
    last = second if len(steps) > cut else first
    assert whole.hazards.tobytes() == last.hazards.tobytes()
