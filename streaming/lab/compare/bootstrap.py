"""Days drawn again and again: intervals of figures that are sums over days; must not know which figures, nor any file."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from models.batch import Float64

RESAMPLES = 1_000
"""Enough that the ends of a 95 % interval move by a fiftieth of its width from one seed to another."""

LEAST_DAYS = 5
"""Fewer days than this can agree by chance: of four, all err to the same side once in eight times."""

_NORMAL_975 = 1.959964


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its 95 % interval over days; where the value or the interval is None, `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def contains_zero(self) -> bool | None:
        """Whether the interval contains 0; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= 0.0 <= self.high


class Draws(NamedTuple):
    """One figure over the days as they were, and over each resample of them.

    Args:
        value: over the days as they were; NaN is "no value".
        resampled: (R,); NaN where a resample has no value. (0,) where there are too few days to draw from.
        days: D.
    """

    value: float
    resampled: Float64
    days: int

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.value - other.value, self.resampled - other.resampled, self.days)

    def __neg__(self) -> Draws:
        return Draws(-self.value, -self.resampled, self.days)

    def over(self, other: Draws) -> Draws:
        """This over the other, where the other is positive; NaN elsewhere."""
        value = self.value / other.value if other.value > 0 else math.nan
        whole = np.where(other.resampled > 0, other.resampled, np.nan)
        return Draws(value, self.resampled / whole, self.days)

    def estimate(self, without: str) -> Estimate:
        """The value with its interval.

        A percentile interval over few days is too narrow: draws with replacement vary by (D - 1) / D too little, and know
        no more of the spread than D days tell. So its arms are stretched by sqrt(D / (D - 1)) and by Student's t over the normal.

        Args:
            without: the reason to give where there is no value.

        Source:
            Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 2015 (both corrections).
        """
        if math.isnan(self.value):
            return Estimate(None, reason=without)
        drawn = self.resampled[~np.isnan(self.resampled)]
        if drawn.size == 0:
            return Estimate(
                self.value, reason=f"no interval: {self.days} days, and fewer than {LEAST_DAYS} can agree by chance"
            )
        low, high = np.quantile(drawn, (0.025, 0.975))
        stretch = math.sqrt(self.days / (self.days - 1)) * student_975(self.days - 1) / _NORMAL_975
        return Estimate(
            self.value,
            self.value + (float(low) - self.value) * stretch,
            self.value + (float(high) - self.value) * stretch,
        )


class Days:
    """The days of a comparison and the resamples of them: the same for whatever is asked, so that differences are paired.

    Days are drawn whole, because clicks of one day share their weather: a model that lags is wrong about all of them.

    Args:
        count: D.
        resamples: R.
        seed: of the draws; the same seed gives the same intervals.

    Example:
        >>> days = Days(6)
        >>> loss = days.ratio(np.array([3.0, 4, 5, 3, 4, 5]), np.full(6, 10.0))
        >>> loss.value, (loss - loss).estimate("").high
        (0.4, 0.0)
    """

    def __init__(self, count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        if count < 1:
            raise ValueError(f"count must be 1 or more (got {count}): there is nothing to draw from")
        self.count = count
        self.resamples = resamples if count >= LEAST_DAYS else 0
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), self.resamples)
        self._times: Float64 = drawn.astype(np.float64)  # (R, D) how often each resample has drawn each day

    def ratio(self, part: Float64, whole: Float64) -> Draws:
        """Sum of `part` over sum of `whole`, both (D,); NaN where a resample's whole is 0."""
        sums = self._times @ np.stack((part, whole), axis=1)  # (R, 2)
        resampled = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
        return Draws(float(part.sum() / whole.sum()) if whole.sum() > 0 else math.nan, resampled, self.count)


def share_closed(start: Draws, own: Draws, goal: Draws, *, names: tuple[str, str]) -> Estimate:
    """How much of the way from `start` to `goal` a method has come: 0 is no nearer, 1 is there; below 0 is worse than the start.

    Args:
        start, own, goal: one figure, turned so that higher is worse.
        names: of start and goal, for the reason.

    Returns:
        No value where the goal is no better than the start, or not by more than the days' own noise. Resamples in which it is
        not are left out; fewer than one in forty are, or there is no value.
    """
    gap = start - goal
    told = gap.estimate("")
    if told.value is None:
        return Estimate(None, reason="the figure has no value")
    if told.value <= 0.0:
        return Estimate(None, reason=f"no gap: {names[1]} is no better than {names[0]} here")
    if told.contains_zero:
        return Estimate(
            None,
            reason=f"the gap from {names[0]} to {names[1]} lies within its noise ({told.low:.2g} to {told.high:.2g})",
        )
    return (start - own).over(gap).estimate("the figure has no value")


def student_975(freedom: int) -> float:
    """The .975 quantile of Student's t with 4 degrees of freedom or more, to .3 %.

    Source:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.

    Example:
        >>> round(student_975(4), 2), round(student_975(30), 3)      # 2.776 and 2.042
        (2.77, 2.042)
    """
    z = _NORMAL_975
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom**power) for power, term in enumerate(terms, start=1))
