"""Metrics against scikit-learn, against brute force, and where they have no value."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as judge

from models.evaluate import (
    auc,
    bucketed_auc,
    calibration,
    ece,
    gauc,
    log_loss,
    normalized_entropy,
    reliability,
)
from models.sums import Sums

probabilities = st.one_of(st.sampled_from([0.0, 1.0, 0.25, 0.5]), st.floats(0, 1))
rows = st.lists(st.tuples(probabilities, st.integers(0, 1)), max_size=60)


def columns(drawn):
    return np.array([p for p, _ in drawn]), np.array([float(y) for _, y in drawn])


def planted(n, seed=0):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-3, 1.5, n)))
    return p, (rng.random(n) < p).astype(np.float64)


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(0, 60))
def test_rows_given_in_two_pieces_yield_the_bits_of_the_rows_given_at_once(drawn, cut):
    p, y = columns(drawn)
    pieces = Sums()
    pieces.update(p[:cut], y[:cut])
    pieces.update(p[cut:], y[cut:])
    assert pieces.pack() == Sums.of(p, y).pack()


@settings(deadline=None, max_examples=60)
@given(rows, rows)
def test_sums_of_two_sets_add_up_to_the_sums_of_both(one, other):
    p, y = columns(one + other)
    added = Sums.of(*columns(one)) + Sums.of(*columns(other))
    np.testing.assert_allclose(added.figures, Sums.of(p, y).figures, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(added.buckets, Sums.of(p, y).buckets, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(rows)
def test_unpacking_what_was_packed_gives_every_bit_back(drawn):
    sums = Sums.of(*columns(drawn))
    again = Sums.unpack(sums.pack())
    assert again.figures.tobytes() == sums.figures.tobytes()
    assert again.buckets.tobytes() == sums.buckets.tobytes()


def test_adding_leaves_both_terms_as_they_were():
    one, other = Sums.of([0.5], [1]), Sums.of([0.25], [0])
    before = one.pack(), other.pack()
    one + other
    assert (one.pack(), other.pack()) == before


@settings(deadline=None, max_examples=60)
@given(rows, st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_a_row_of_weight_k_counts_like_k_rows(drawn, weights):
    p, y = columns(drawn)
    weights = np.array(weights[: len(p)], dtype=np.int64)
    weighted, repeated = Sums.of(p, y, weights), Sums.of(np.repeat(p, weights), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.figures, repeated.figures, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weighted.buckets, repeated.buckets, rtol=1e-12, atol=1e-12)


def test_figures_agree_with_scikit_learn():
    p, y = planted(5_000)
    sums = Sums.of(p, y)
    mean = y.mean()
    assert log_loss(sums) == pytest.approx(judge.log_loss(y, p), rel=1e-12)
    assert normalized_entropy(sums) == pytest.approx(
        judge.log_loss(y, p) / judge.log_loss(y, np.full_like(p, mean)), rel=1e-12
    )
    assert calibration(sums) == pytest.approx(p.sum() / y.sum(), rel=1e-12)
    assert auc(p, y) == pytest.approx(judge.roc_auc_score(y, p), rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(rows)
def test_auc_is_the_share_of_pairs_ranked_right_with_ties_half(drawn):
    p, y = columns(drawn)
    pairs = [(a > b) + (a == b) / 2 for a in p[y == 1] for b in p[y == 0]]
    assert auc(p, y) == (pytest.approx(np.mean(pairs)) if pairs else None)


@settings(deadline=None, max_examples=100)
@given(rows)
def test_bucketed_auc_is_within_its_error_of_the_exact_one(drawn):
    p, y = columns(drawn)
    found, exact = bucketed_auc(Sums.of(p, y)), auc(p, y)
    assert (found is None) == (exact is None)
    if found is not None:
        assert abs(found.auc - exact) <= found.error + 1e-12


def test_bucketed_auc_states_a_small_error_on_spread_scores_and_a_half_on_a_constant():
    p, y = planted(5_000)
    assert bucketed_auc(Sums.of(p, y)).error < 0.003
    assert bucketed_auc(Sums.of(np.full(10, 0.3), np.arange(10) % 2)) == (0.5, 0.5)


@settings(deadline=None, max_examples=60)
@given(rows, st.lists(st.sampled_from(["ann", "bob", "eve"]), min_size=60, max_size=60))
def test_gauc_is_the_mean_over_groups_of_scikit_learns_auc_weighted_by_rows(drawn, groups):
    p, y = columns(drawn)
    groups = np.array(groups[: len(p)], dtype=str)
    told = [g for g in np.unique(groups) if 0 < y[groups == g].mean() < 1]
    expected = [judge.roc_auc_score(y[groups == g], p[groups == g]) for g in told]
    sizes = [(groups == g).sum() for g in told]
    assert gauc(p, y, groups) == (pytest.approx(np.average(expected, weights=sizes)) if told else None)


def test_ece_is_the_weighted_gap_of_equal_mass_bins():
    p, y = planted(4_000)
    order = np.argsort(p, kind="stable")
    gaps = [abs(p[part].mean() - y[part].mean()) for part in np.array_split(order, 10)]
    assert ece(Sums.of(p, y), bins=10) == pytest.approx(np.mean(gaps), abs=0.004)  # bins end at bucket edges


def test_ece_sees_what_the_mean_hides():
    p = np.array([0.2] * 500 + [0.8] * 500)
    y = np.array([1.0] * 500 + [0.0] * 500)
    assert calibration(Sums.of(p, y)) == pytest.approx(1.0)
    assert ece(Sums.of(p, y)) == pytest.approx(0.8)


def test_reliability_bins_hold_equal_mass_and_every_row():
    p, y = planted(20_000)
    curve = reliability(Sums.of(p, y), bins=10)
    assert len(curve) == 10
    assert all(n == pytest.approx(2_000, rel=0.1) for _, _, n in curve)
    assert [mean_p for mean_p, _, _ in curve] == sorted(mean_p for mean_p, _, _ in curve)
    assert sum(n * mean_p for mean_p, _, n in curve) == pytest.approx(p.sum())
    assert sum(n * mean_y for _, mean_y, n in curve) == pytest.approx(y.sum())


def test_reliability_of_one_score_is_one_bin():
    assert reliability(Sums.of([0.3] * 4, [0, 1, 1, 0])) == [(pytest.approx(0.3), 0.5, 4.0)]


@pytest.mark.parametrize(
    ("p", "y", "absent"),
    [
        ([], [], (calibration, log_loss, normalized_entropy, ece, bucketed_auc)),
        ([0.1, 0.2], [0, 0], (calibration, normalized_entropy, bucketed_auc)),
        ([0.1, 0.2], [1, 1], (normalized_entropy, bucketed_auc)),
    ],
    ids=["no rows", "no positives", "only positives"],
)
def test_a_figure_without_value_is_none(p, y, absent):
    figures = (calibration, log_loss, normalized_entropy, ece, bucketed_auc)
    assert tuple(figure for figure in figures if figure(Sums.of(p, y)) is None) == absent
    assert auc(p, y) is None
    assert gauc(p, y, [0] * len(p)) is None


def test_certain_predictions_cost_a_finite_log_loss():
    assert log_loss(Sums.of([0.0, 1.0], [0, 1])) == pytest.approx(0.0, abs=1e-11)
    assert log_loss(Sums.of([0.0, 1.0], [1, 0])) == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert Sums.of([0.0, 1.0], [0, 1]).sum_p == 1.0


def test_float32_predictions_are_summed_in_float64():
    p = np.full(100_000, 0.1, np.float32)
    assert Sums.of(p, np.zeros(100_000)).sum_p == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("p", "y", "weights", "match"),
    [
        ([0.1, math.nan], [0, 0], None, r"p\[1\] must be a probability.*nan"),
        ([1.5], [0], None, r"p\[0\] must be a probability.*1\.5"),
        ([0.5], [0.5], None, r"y\[0\] must be 0 or 1"),
        ([0.5], [0, 1], None, "of one length"),
        ([0.5], [0], [-1.0], "weights must be finite, 0 or more"),
        ([0.5], [0], [1.0, 1.0], "one for each of the 1 rows"),
    ],
)
def test_rows_that_cannot_be_summed_are_refused_and_nothing_is_added(p, y, weights, match):
    sums = Sums.of([0.5], [1])
    before = sums.pack()
    with pytest.raises(ValueError, match=match):
        sums.update(p, y, weights)
    assert sums.pack() == before


def test_bytes_that_are_no_packed_sums_are_refused():
    packed = Sums.of([0.5], [1]).pack()
    with pytest.raises(ValueError, match="32 bytes and 26"):
        Sums.unpack(packed[:-1])
    with pytest.raises(ValueError, match="name bucket 65535"):
        Sums.unpack(packed[:32] + b"\xff\xff" + packed[34:])


def test_groups_and_bins_out_of_range_are_refused():
    with pytest.raises(ValueError, match="group for each of the 2 rows"):
        gauc([0.1, 0.2], [0, 1], ["ann"])
    with pytest.raises(ValueError, match="bins must be 1 or more"):
        reliability(Sums(), bins=0)
