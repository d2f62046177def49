"""Fits against scikit-learn, against slopes by finite differences, and at their extremes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from models.exposure import BUCKETS, ExposureSums, Seen
from models.logit_map import LogitMap, logit, probability
from models.map_fits import FITS, MOST_SHIFT, by_value, isotonic, platt

cells = st.lists(
    st.tuples(
        st.integers(0, BUCKETS - 1),
        st.floats(0, 1e6),
        st.floats(0.001, 0.999),
        st.one_of(st.just(0.0), st.floats(0, 1e6)),
    ),
    min_size=1,
    max_size=30,
)


def table(some):
    """(3, BUCKETS) of (bucket, exposure, where p lies in the bucket, observed)."""
    filled = np.zeros((3, BUCKETS))
    for bucket, exposure, share, observed in some:
        p = float(probability(np.array(-16 + (bucket + share) / 4)))
        filled[:, bucket] += [exposure + 1e-6, p * (exposure + 1e-6), observed]
    return filled


def summed(p, converted, exposure=None, ids=None):
    sums = ExposureSums(segment_ms=1, half_life_ms=1, max_values=10_000)
    ones = np.ones_like(p) if exposure is None else exposure
    sums.add(Seen.of(p, converted, ones, click_ms=np.zeros(len(p), np.int64), field_ids=ids))
    return sums


def true_and_predicted(rows, seed, *, slope=0.7, shift=0.4):
    """(q, p): what is true, and what a model says, on the logit (logit q - shift) / slope."""
    random = np.random.default_rng(seed)
    s = random.normal(-2.5, 1.0, rows)
    return probability(slope * s + shift), probability(s), random


@pytest.mark.parametrize("kind", FITS)
@settings(deadline=None, max_examples=60)
@given(some=cells)
def test_any_sums_give_a_rising_finite_map(kind, some):
    mapped = FITS[kind](table(some))
    p = np.concatenate([[0.0], np.geomspace(1e-15, 0.5, 100), 1 - np.geomspace(0.5, 1e-15, 100), [1.0]])
    mapped_p = mapped.apply(p)
    assert np.isfinite(mapped_p).all()
    assert (np.diff(mapped_p) >= -1e-13).all()  # the exponential function rounds
    assert ((mapped_p >= 0) & (mapped_p <= 1)).all()
    assert np.abs(mapped.to - mapped.at).max() <= 2 * MOST_SHIFT + 1e-9


@settings(deadline=None, max_examples=60)
@given(st.lists(cells, min_size=1, max_size=4))
def test_any_sums_of_values_give_finite_rising_lines(some):
    slope, intercept = by_value(LogitMap(), np.stack([table(each) for each in some]))
    assert np.isfinite(intercept).all()
    assert (slope > 0).all()


def test_platt_is_logistic_regression():
    q, p, random = true_and_predicted(200_000, 1)
    y = random.random(len(q)) < q
    mapped = platt(summed(p, y).everywhere)
    judge = LogisticRegression(C=np.inf).fit(logit(p)[:, None], y)
    assert mapped.slope == pytest.approx(judge.coef_[0, 0], abs=0.005)
    np.testing.assert_allclose(
        mapped.read(np.array([-5.0, -2.5, 0.0])), judge.decision_function([[-5.0], [-2.5], [0.0]]), atol=0.01
    )


@settings(deadline=None, max_examples=60)
@given(cells)
def test_platt_ends_where_its_loss_is_flat(some):
    filled = table(some)
    mapped = platt(filled)
    n, e, y = filled[:, filled[0] > 0]
    s, middle = logit(e / n), mapped.at[0]
    shift, slope = float(mapped.to[0] - middle), mapped.slope
    if not (abs(shift) < 4.99 and 0.21 < slope < 4.99):
        return  # held at a bound

    def loss(shift, slope):
        z = middle + shift + slope * (s - middle)
        return (n * np.logaddexp(0, z) - y * z).sum() + shift**2 / 2 / 2.0**2 + (slope - 1) ** 2 / 2 / 0.5**2

    here, step = loss(shift, slope), 1e-3
    for by in ((step, 0), (-step, 0), (0, step), (0, -step)):
        assert loss(shift + by[0], slope + by[1]) >= here - 1e-9 * abs(here)


def test_isotonic_steps_are_those_of_scikit_learn():
    q, p, random = true_and_predicted(100_000, 2)
    sums = summed(p, random.random(len(q)) < q).everywhere
    n, e, y = sums[:, sums[0] > 0]
    judge = IsotonicRegression().fit(e / n, y / n, sample_weight=n)
    # Ours are joined by lines where the judge's are stairs, and made of bins: alike on the whole, not everywhere.
    off = isotonic(sums).apply(e / n) / np.maximum(judge.predict(e / n), 1e-9) - 1
    assert np.sqrt(np.average(off**2, weights=n * judge.predict(e / n))) < 0.04


def test_isotonic_follows_a_curve_that_no_line_does():
    random = np.random.default_rng(3)
    s = random.normal(-2.5, 1.2, 300_000)
    bent = np.where(s < -2.5, s, -2.5 + 0.3 * (s + 2.5)) + 0.5
    sums = summed(probability(s), random.random(len(s)) < probability(bent)).everywhere
    at = np.linspace(-4.5, 0, 20)
    true = np.where(at < -2.5, at, -2.5 + 0.3 * (at + 2.5)) + 0.5
    found = {kind: np.sqrt(np.mean((fit(sums).read(at) - true) ** 2)) for kind, fit in FITS.items()}
    assert found["isotonic"] < 0.08
    assert found["platt"] > 0.2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000))
def test_isotonic_gives_as_many_conversions_as_there_were(seed):
    q, p, random = true_and_predicted(20_000, seed)
    sums = summed(p, random.random(len(q)) < q).everywhere
    n, e, y = sums[:, sums[0] > 0]
    assert n @ isotonic(sums).apply(e / n) == pytest.approx(y.sum(), rel=0.003)


def test_few_conversions_move_little():
    sums = np.zeros((3, BUCKETS))
    sums[:, 50] = 10, 1, 2
    assert platt(sums).apply([0.1])[0] < 0.2
    assert isotonic(sums).apply([0.1])[0] < 0.14


def test_values_that_differ_are_told_apart_and_shrunk():
    random = np.random.default_rng(5)
    values, rows = 60, 60 * 1500
    ids = np.arange(rows) % values
    s, offset = random.normal(-2.5, 0.7, rows), random.normal(0, 0.5, values)
    sums = summed(probability(s), random.random(rows) < probability(s + offset[ids]), ids=ids)
    fitted = by_value(LogitMap(), sums.by_value)
    at = -2.5
    found = fitted.intercept + (fitted.slope - 1) * at
    raw = logit(sums.by_value[:, 2].sum(axis=1) / 1500) - logit(sums.by_value[:, 1].sum(axis=1) / 1500)
    assert np.corrcoef(found, offset)[0, 1] > 0.95
    assert np.sqrt(np.mean((found - offset) ** 2)) < np.sqrt(np.mean((raw - offset) ** 2))
    assert np.sqrt(np.mean((found - offset) ** 2)) < 0.1


def test_a_field_that_says_nothing_changes_nothing():
    random = np.random.default_rng(6)
    rows = 60 * 300
    s = random.normal(-2.5, 0.7, rows)
    sums = summed(probability(s), random.random(rows) < probability(s), ids=np.arange(rows) % 60)
    fitted = by_value(LogitMap(), sums.by_value)
    change = fitted.intercept + (fitted.slope - 1) * -2.5
    assert np.sqrt(np.mean(change**2)) < 0.08  # unshrunk 0.2: thirty conversions each
