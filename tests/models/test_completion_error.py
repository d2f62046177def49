"""The error of the completion curve, against simulated streams of converters."""

import numpy as np
import pytest

from models.completion_error import KnownCurve
from models.delay_curve import DelayPrior, GlobalCurve

HOUR_MS = 3_600_000
EDGES = tuple(HOUR_MS * hours for hours in (1, 2, 4, 8, 16, 32))
TRUE = np.array([0.3, 0.45, 0.6, 0.75, 0.9, 1.0])
PRIOR = DelayPrior(ages_ms=EDGES, shares=tuple(TRUE))


def taught(random, converters, prior_examples=2.0):
    curve = GlobalCurve(EDGES, prior=PRIOR, half_life_ms=10**12, prior_examples=prior_examples)
    bins = np.searchsorted(TRUE, random.random(converters))
    for k in range(len(EDGES)):  # each is an example at every edge by which it has converted
        curve.learn(np.full((bins <= k).sum(), k), bins[bins <= k] == k, at_ms=0)
    return curve


def known(curve, prior_examples=2.0):
    seen = curve.snapshot()["seen"].numpy()
    return KnownCurve.of_counts(curve.hazards, seen, prior_examples=prior_examples)


def test_the_variance_is_that_of_many_streams():
    random = np.random.default_rng(1)
    curves = [known(taught(random, 150)) for _ in range(800)]
    spread = np.log([each.completed for each in curves]).var(axis=0)
    said = np.mean([each.variance for each in curves], axis=0)
    np.testing.assert_allclose(said[:-1], spread[:-1], rtol=0.15)
    assert said[-1] == spread[-1] == 0


def test_a_sum_over_ages_varies_as_in_many_streams():
    random = np.random.default_rng(2)
    curves = [known(taught(random, 150)) for _ in range(800)]
    amounts = np.array([3.0, 0.0, 5.0, 1.0, 0.0, 4.0])  # as expected under the true curve
    sums = [float((amounts * each.completed / TRUE).sum()) for each in curves]
    said = np.mean([each.variance_of_sum(amounts) for each in curves])
    assert said == pytest.approx(np.var(sums) / amounts.sum() ** 2, rel=0.15)


def test_it_agrees_with_the_curve_it_is_made_of():
    curve = GlobalCurve(EDGES, prior=PRIOR, half_life_ms=10**12, prior_examples=5.0)
    curve.learn(np.repeat([5, 4], 6), np.tile([True, False], 6), at_ms=0)
    belief = known(curve, 5.0)
    np.testing.assert_array_equal(belief.completed, curve.completed_at_edges())
    np.testing.assert_array_equal(belief.rests_on_prior, curve.rests_on_prior(np.array(EDGES)))
    assert belief.rests_on_prior.tolist() == [True, True, True, False, False, False]


def test_a_curve_known_exactly_has_no_error():
    exact = KnownCurve.exactly(TRUE)
    assert exact.variance_of_sum(np.ones(len(TRUE))) == 0
    assert not exact.rests_on_prior.any()


@pytest.mark.parametrize(
    ("completed", "variance", "message"),
    [
        ([0.5, 1.0], [0.1], r"one number an edge"),
        ([0.5, 0.9], [0.1, 0.0], r"completed must ascend to 1"),
        ([0.5, 0.4, 1.0], [0.1, 0.1, 0.0], r"completed must ascend to 1"),
        ([0.5, 1.0], [0.1, 0.1], r"variance must fall to 0"),
        ([0.5, 0.7, 1.0], [0.1, 0.2, 0.0], r"variance must fall to 0"),
        ([0.5, 1.0], [np.nan, 0.0], r"variance must fall to 0"),
        ([], [], r"completed must ascend to 1"),
    ],
)
def test_what_is_no_curve_is_refused(completed, variance, message):
    with pytest.raises(ValueError, match=message):
        KnownCurve(np.array(completed), np.array(variance), np.zeros(len(completed), np.bool_))
