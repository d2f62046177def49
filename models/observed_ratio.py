"""Observed over expected conversions, with an interval; must not know when clicks were or how F was learned."""

from __future__ import annotations

import math
from typing import NamedTuple

Z = 1.959964
"""Of a normal distribution, 95 % lies within so many standard deviations."""


class ObservedRatio(NamedTuple):
    """How many times as many conversions came as predictions said: 1 when they are right, below 1 when they are too high.

    Args:
        ratio: observed / expected. low, high: the ends of an interval of 95 %. None where nothing was expected.
    """

    ratio: float | None
    low: float | None
    high: float | None


def observed_ratio(observed: int, expected: float, *, square: float = 0.0, variance: float = 0.0) -> ObservedRatio:
    """The ratio, and which true ones go with what was observed.

    The chance of conversions gives a score interval (Wilson's, where all clicks are alike), good down to none observed. The error of
    what was expected comes on top, on the log scale and square to it.

    Args:
        observed: conversions.
        expected: of so many clicks by their age: sum of p F.
        square: sum of (p F)^2, by which conversions of clicks vary less than their number; 0 takes clicks as many and p as small.
        variance: relative, of `expected`.

    Raises:
        ValueError: a number is below 0.

    Example:
        >>> [round(figure, 2) for figure in observed_ratio(100, 130.0)]
        [0.77, 0.63, 0.94]
        >>> [round(figure, 2) for figure in observed_ratio(100, 130.0, variance=0.01)]  # F known to 10 %
        [0.77, 0.58, 1.01]
        >>> [round(figure, 2) for figure in observed_ratio(0, 10.0)]
        [0.0, 0.0, 0.38]
        >>> observed_ratio(0, 0.0)
        ObservedRatio(ratio=None, low=None, high=None)

    Source:
        Wilson, "Probable Inference", JASA 1927; Zou and Donner, "Construction of Confidence Limits about Effect Measures",
        Statistics in Medicine 2008, for putting the two errors together.
    """
    if min(observed, expected, square, variance) < 0:
        raise ValueError(
            f"observed, expected, square and variance must be 0 or more (got {observed}, {expected}, {square}, {variance})"
        )
    if expected == 0:
        return ObservedRatio(None, None, None)
    # All mu with (observed - mu)^2 <= Z^2 (mu - alike mu^2): the variance of a sum of independent yes and no.
    alike = square / expected**2
    a, b = 1 + Z**2 * alike, observed + Z**2 / 2
    root = math.sqrt(max(b**2 - a * observed**2, 0.0))
    low, high = (b - root) / a / expected, (b + root) / a / expected
    ratio = observed / expected
    spread = Z * math.sqrt(variance)
    middle = ratio if observed else 0.5 / expected
    high = middle * math.exp(math.hypot(math.log(high / middle), spread))
    low = ratio * math.exp(-math.hypot(math.log(ratio / low), spread)) if observed else 0.0
    return ObservedRatio(ratio, low, high)
