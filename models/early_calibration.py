"""Conversions observed over those expected so far, by cohorts of clicks, long before labels are final; must not know a network.

Of a click with prediction p, p F(e) conversions are expected by age e. So what is observed of young clicks says today what their final
labels will say an attribution window later, within what chance and the error of F leave open.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.batch import Float64
from models.cohorts import Cohorts
from models.completion_error import KnownCurve
from models.observed_ratio import observed_ratio


class Calibration(NamedTuple):
    """What came of some clicks, over what was expected by now.

    Args:
        clicks: how many. expected: sum of p F. observed: conversions by the same ages.
        ratio, low, high: observed / expected and its interval of 95 %, as in `observed_ratio`. It is the inverse of sum p / sum y.
        rests_on_prior: whether F does, for some of them.
    """

    clicks: int
    expected: float
    observed: int
    ratio: float | None
    low: float | None
    high: float | None
    rests_on_prior: bool


class CohortCalibration(NamedTuple):
    """The same of the clicks of one cohort, which starts at `start_ms`, at the age `age_ms` that all have reached."""

    start_ms: int
    age_ms: int
    calibration: Calibration


class AgeCalibration(NamedTuple):
    """The same of all cohorts that stand at the age `age_ms`, together."""

    age_ms: int
    calibration: Calibration


class EarlyCalibration(NamedTuple):
    """The same of all cohorts that have reached an edge, oldest first; of those at each age, youngest first; and of all together.

    None, and no ages, where there are no cohorts.
    """

    cohorts: list[CohortCalibration]
    ages: list[AgeCalibration]
    total: Calibration | None


def early_calibration(cohorts: Cohorts, now_ms: int, known: KnownCurve) -> EarlyCalibration:
    """How predictions have done so far.

    Args:
        cohorts: their clicks and conversions.
        now_ms: all that was due before it has been added to them.
        known: the curve of all clicks as it stands now, and its error, which is taken for that of F(e | x) on average. Where it has moved
            since clicks were added, what is expected of them moves as much.

    Raises:
        ValueError: the curve has other edges.

    Example:
        >>> minute, hour = 60_000, 3_600_000
        >>> cohorts, curve = Cohorts((hour, 3 * hour), cohort_ms=hour), np.array([0.5, 1.0])
        >>> clicks = np.arange(1000) * hour // 1000
        >>> cohorts.add_clicks(clicks, np.full(1000, 0.2), np.tile(curve, (1000, 1)), curve=curve)
        >>> cohorts.add_conversions(clicks[:75], np.full(75, 30 * minute))
        >>> total = early_calibration(cohorts, 2 * hour, KnownCurve.exactly(curve)).total
        >>> round(total.expected, 9), total.observed  # two hours before labels are final
        (100.0, 75)
        >>> round(total.low, 2), round(total.ratio, 2), round(total.high, 2)
        (0.6, 0.75, 0.93)
    """
    edges = len(cohorts.edges)
    if known.completed.shape != (edges,):
        raise ValueError(
            f"known must have {edges} edges (got {len(known.completed)}): make it of the curve of these clicks"
        )
    looked = cohorts.look(now_ms)
    if not len(looked.edge):
        return EarlyCalibration([], [], None)
    now = looked.sum_p * known.completed[looked.edge]
    moved = np.divide(now, looked.by_curve, out=np.ones_like(now), where=looked.by_curve > 0)
    expected = looked.expected * moved
    figures = np.stack([looked.clicks, expected, looked.observed, looked.square * moved**2])  # (4, C)
    at_edge = np.zeros((len(expected), edges))
    at_edge[np.arange(len(expected)), looked.edge] = expected
    each = [
        CohortCalibration(start_ms, cohorts.edges[edge], _calibration(figure, amounts, known))
        for start_ms, edge, figure, amounts in zip(
            looked.starts_ms.tolist(), looked.edge.tolist(), figures.T, at_edge, strict=True
        )
    ]
    by_age = [
        AgeCalibration(
            cohorts.edges[edge], _calibration(figures[:, here].sum(axis=1), at_edge[here].sum(axis=0), known)
        )
        for edge in np.unique(looked.edge).tolist()
        for here in (looked.edge == edge,)
    ]
    return EarlyCalibration(each, by_age, _calibration(figures.sum(axis=1), at_edge.sum(axis=0), known))


def final_calibration(cohorts: Cohorts) -> Calibration:
    """How predictions have done by the final labels of all clicks whose cohorts were folded; nothing of it rests on F."""
    clicks, expected, square, observed = cohorts.folded
    ratio = observed_ratio(observed, expected, square=square)
    return Calibration(clicks, expected, observed, *ratio, rests_on_prior=False)


def _calibration(figures: Float64, at_edge: Float64, known: KnownCurve) -> Calibration:
    """Of clicks, expected, observed and squares (4,), with what of `expected` is at which edge (edges,)."""
    clicks, expected, observed, square = figures.tolist()
    variance = known.variance_of_sum(at_edge) if expected > 0 else 0.0
    ratio = observed_ratio(round(observed), expected, square=square, variance=variance)
    rests_on_prior = bool(known.rests_on_prior[at_edge > 0].any())
    return Calibration(round(clicks), expected, round(observed), *ratio, rests_on_prior=rests_on_prior)
