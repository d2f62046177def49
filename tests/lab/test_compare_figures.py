"""Figures of groups of clicks, against scikit-learn and a second writing pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from models import evaluate
from models.sums import Sums
from streaming.lab.compare.figures import FIGURES, Figures, Grouped, Series

# Few scores, so that ties are everywhere, with 0 and 1 among them; three groups, any of which may be empty or of one class.
ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 1), st.integers(0, 2)),
    min_size=1,
    max_size=60,
)


def grouped(rows: list[tuple[float, int, int]]) -> tuple[Grouped, list[tuple[list[float], list[int]]]]:
    columns = np.array(rows)
    found = Grouped.of(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.int64), 3)
    return found, [([p for p, _, g in rows if g == at], [y for _, y, g in rows if g == at]) for at in range(3)]


def papers_pr_auc(p: list[float], y: list[int]) -> float:
    precision, recall, _ = metrics.precision_recall_curve(y, p)
    return float(metrics.auc(recall, precision))


@settings(deadline=None, max_examples=80)
@given(ROWS)
def test_areas_of_each_group_are_scikit_learns(rows: list[tuple[float, int, int]]) -> None:
    found, groups = grouped(rows)
    for at, (p, y) in enumerate(groups):
        if len(set(y)) < 2:
            assert np.isnan(found.auc[at])
            assert np.isnan(found.pr_auc[at])
        else:
            assert found.auc[at] == pytest.approx(metrics.roc_auc_score(y, p))
            assert found.pr_auc[at] == pytest.approx(papers_pr_auc(p, y))


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_other_figures_are_those_a_run_reports(rows: list[tuple[float, int, int]]) -> None:
    found, groups = grouped(rows)
    columns = found.columns()
    for at, (p, y) in enumerate(groups):
        sums = Sums.of(p, y)
        for name, figure in (
            ("log_loss", evaluate.log_loss(sums)),
            ("calibration", evaluate.calibration(sums)),
            ("normalized_entropy", evaluate.normalized_entropy(sums)),
        ):
            value = columns[name][at]
            assert np.isnan(value) if figure is None else value == pytest.approx(figure, abs=1e-12), name


@settings(deadline=None, max_examples=30)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_clicks_changes_no_figure(rows: list[tuple[float, int, int]], random: object) -> None:
    before, _ = grouped(rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    after, _ = grouped(rows)
    for column, shuffled in zip(before, after, strict=True):
        np.testing.assert_allclose(shuffled, column, rtol=1e-12)


def test_areas_survive_a_million_equal_scores() -> None:
    y = np.zeros(1_000_000)
    y[::4] = 1
    found = Grouped.of(np.full(1_000_000, 0.25), y, np.zeros(1_000_000, np.int64), 1)
    assert found.auc[0] == 0.5
    assert found.pr_auc[0] == pytest.approx((1 + 0.25) / 2)  # one straight line from precision 1 to the base rate


def test_more_groups_than_sixteen_bits_count_are_kept_apart() -> None:
    groups = (1 << 16) + 3
    group = np.repeat(np.arange(groups), 2)[::-1].copy()
    y = np.tile([0.0, 1.0], groups)
    found = Grouped.of(np.where(group % 3 == 0, 1 - y, y), y, group, groups)
    np.testing.assert_array_equal(found.auc, np.where(np.arange(groups) % 3 == 0, 0.0, 1.0))


def test_the_mean_over_hours_weighs_by_clicks_and_passes_over_hours_without_a_value() -> None:
    # hour 0: two clicks in order; hour 1: no conversion; hour 2: four clicks the wrong way round
    p = [0.2, 0.8, 0.5, 0.9, 0.8, 0.2, 0.1]
    y = [0, 1, 0, 0, 0, 1, 1]
    found = Grouped.of(p, y, np.array([0, 0, 1, 2, 2, 2, 2]), 3)
    means = found.mean_weighted_by_clicks()
    assert means["auc"] == pytest.approx((2 * 1.0 + 4 * 0.0) / 6)
    assert means["log_loss"] == pytest.approx(metrics.log_loss(y, p))  # where every hour counts, it is the pooled one
    assert means["calibration"] == pytest.approx((2 * 1.0 + 4 * 1.0) / 6)


def test_no_clicks_have_no_figures() -> None:
    found = Grouped.of([], [], np.zeros(0, np.int64), 2)
    assert all(np.isnan(column).all() for column in found.columns().values())
    assert all(np.isnan(value) for value in found.mean_weighted_by_clicks().values())


def test_certain_and_wrong_costs_a_lot_and_not_infinity() -> None:
    found = Grouped.of([0.0, 1.0], [1, 0], np.zeros(2, np.int64), 1)
    assert found.sum_log_loss[0] == pytest.approx(-2 * np.log(1e-12), rel=1e-4)


def test_predictions_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"p\[1\] must be a probability"):
        Grouped.of([0.5, np.nan], [0, 1], np.zeros(2, np.int64), 1)


def test_a_series_has_the_figures_of_a_single_set() -> None:
    assert Series.__struct_fields__ == Figures.__struct_fields__ == FIGURES
