"""Observed over expected: the interval covers as often as it says, and is one for any figures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.observed_ratio import Z, observed_ratio


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**7), st.floats(1e-6, 1e7), st.floats(0, 1), st.floats(0, 2))
def test_any_figures_give_an_interval_around_the_ratio(observed, expected, alike, variance):
    ratio, low, high = observed_ratio(observed, expected, square=alike * expected, variance=variance)
    assert 0 <= low <= ratio * (1 + 1e-9)
    assert ratio <= high * (1 + 1e-9)
    assert math.isfinite(high)
    wider = observed_ratio(observed, expected, square=alike * expected, variance=variance + 0.1)
    assert wider.low <= low
    assert wider.high >= high


def test_of_clicks_alike_it_is_wilsons_interval():
    clicks, conversions, p = 200, 30, 0.1
    _, low, high = observed_ratio(conversions, clicks * p, square=clicks * p**2)
    share = conversions / clicks
    middle = (share + Z**2 / 2 / clicks) / (1 + Z**2 / clicks)
    half = Z / (1 + Z**2 / clicks) * math.sqrt(share * (1 - share) / clicks + Z**2 / 4 / clicks**2)
    assert (low * p, high * p) == pytest.approx((middle - half, middle + half))


@pytest.mark.parametrize("conversions", [3, 10, 40, 400])
@pytest.mark.parametrize("error", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("true", [0.6, 1.0, 1.7])
def test_it_covers_the_true_ratio_19_times_in_20(conversions, error, true):
    """Expected of clicks with p = .1 each; F is off by a lognormal factor of `error`."""
    random = np.random.default_rng(conversions)
    clicks, p = conversions * 10, 0.1
    covered = 0
    for observed, factor in zip(
        random.binomial(clicks, p * true, 2000), np.exp(error * random.normal(size=2000)), strict=True
    ):
        expected = clicks * p * factor
        _, low, high = observed_ratio(int(observed), expected, square=clicks * (p * factor) ** 2, variance=error**2)
        covered += low <= true <= high
    # Conversions are whole: of ten, no interval covers 95 % at every true ratio. Here it is off by 2 %, either way.
    assert 0.925 <= covered / 2000 <= 0.985


@pytest.mark.parametrize("name", ["observed", "expected", "square", "variance"])
def test_figures_below_0_are_refused(name):
    figures = {"observed": 1, "expected": 1.0, "square": 0.0, "variance": 0.0} | {name: -1}
    with pytest.raises(ValueError, match=r"must be 0 or more \(got .*-1"):
        observed_ratio(**figures)
