"""One run's predictions on the compared clicks, by hour, by day and at once; must not know a method, a seed, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.batch import Bool, Float64, Int64
from streaming.lab.compare.bootstrap import Days, Draws
from streaming.lab.compare.figures import Figures, Grouped, summed, told
from streaming.lab.compare.files import Clicks, ResultsError
from streaming.lab.compare.outcome import Overall, Slices

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Grid(NamedTuple):
    """The compared clicks, in their hours and days.

    Args:
        label: (B,)
        hour, day: (B,) which of `hours` and `days` a click is in.
        day_of_hour: (H,) which day an hour is in.
    """

    label: Float64
    hour: Int64
    day: Int64
    hours: Slices
    days: Slices
    day_of_hour: Int64

    @classmethod
    def of(cls, clicks: Clicks, is_common: Bool) -> Grid:
        """The grid of the clicks marked True."""
        click_ms, label = clicks.click_ms[is_common], clicks.label[is_common]
        wrong = (label != 0.0) & (label != 1.0)
        if wrong.any():
            raise ResultsError(
                f"a scored click must be labelled 0 or 1 (got {label[int(wrong.argmax())]}): a label that is not final scores nobody"
            )
        hours, hour = np.unique(click_ms // HOUR_MS * HOUR_MS, return_inverse=True)
        days, day = np.unique(click_ms // DAY_MS * DAY_MS, return_inverse=True)
        return cls(
            label,
            hour,
            day,
            _slices(hours, hour, label),
            _slices(days, day, label),
            np.searchsorted(days, hours // DAY_MS * DAY_MS),
        )


def _slices(starts: Int64, of: Int64, label: Float64) -> Slices:
    clicks, positives = np.bincount(of, minlength=len(starts)), np.bincount(of, label, len(starts)).astype(np.int64)
    return Slices(starts.tolist(), clicks.tolist(), positives.tolist())


class Scored(NamedTuple):
    """What one run's predictions come to, by hour, by day, and at once; and what is drawn when days are.

    Args:
        drawn: figure -> (D,) its sum over each day's clicks. An area under a curve is no sum over clicks; what adds up is clicks
            times area, hour by hour.
    """

    hours: Grouped
    days: Grouped
    pooled: Grouped
    drawn: dict[str, Float64]

    @classmethod
    def of(cls, p: Float64, grid: Grid) -> Scored:
        """The figures of (B,) predictions."""
        hours = Grouped.of(p, grid.label, grid.hour, len(grid.hours.start_ms))
        days = Grouped.of(p, grid.label, grid.day, len(grid.days.start_ms))
        areas = {
            name: summed(np.where(hours.has_both, area * hours.clicks, 0.0), grid.day_of_hour, len(days.clicks))
            for name, area in (("auc", hours.auc), ("pr_auc", hours.pr_auc))
        }
        at_once = Grouped.of(p, grid.label, np.zeros(len(p), np.int64), 1)
        return cls(hours, days, at_once, {"log_loss": days.sum_log_loss, "calibration": days.sum_p, **areas})

    @property
    def overall(self) -> Overall:
        """Both forms."""
        pooled = {name: told(float(column[0])) for name, column in self.pooled.columns().items()}
        means = {name: told(value) for name, value in self.hours.mean_weighted_by_clicks().items()}
        return Overall(Figures(**pooled), Figures(**means))


def drawn(runs: Sequence[Scored], grid: Grid, days: Days) -> dict[str, Draws]:
    """Each figure over the days and their resamples, the mean over runs. The denominators are the labels', so one for all runs."""
    first = runs[0]
    ranked = summed(np.where(first.hours.has_both, first.hours.clicks, 0.0), grid.day_of_hour, days.count)
    wholes = {"log_loss": first.days.clicks, "calibration": first.days.positives, "auc": ranked, "pr_auc": ranked}
    return {
        name: days.ratio(np.mean([run.drawn[name] for run in runs], axis=0), whole) for name, whole in wholes.items()
    }
