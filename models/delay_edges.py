"""At which ages of a click its completion curve is learned; must not know a network, a feature or who converts.

    age      0      e_0          e_1               e_2                    e_K = w_a
    bin      [-- 0 --](--- 1 ----](------- 2 ------](------- ... --------]

A delay on an edge belongs to the bin that ends there. Bin 0 holds a delay of 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left

MINUTE_MS = 60_000
MOST_EDGES = 63  # slots aged_0 to aged_62 of an impression
MOST_HORIZONS = 32  # bins between them need edges too; with 8, `survival` closes .997 of the gap from window to Oracle
_BINS = 16
"""Wanted, not exact. A converter is an example at every edge that it is quicker than, so edges cost. Of w_o = 1 h and w_a = 3 d, 24 made 11.4
examples a converter, 16 make 6.4, and S(w_o | x) is no worse: rmse .093 on 2,500 converters (.097 with 24), .154 on 500 (.158). With 12 the mean
curve between edges, of w_o = 15 min and w_a = 30 d, is .023 off; with 16 it is .009."""


def log_age(age_ms: float) -> float:
    """log(1 + age in minutes): what edges are evenly spaced in, and F is linear in between them.

    In minutes, so that an age below one, of which no edge tells, is on a scale that is nearly linear.
    """
    return math.log1p(age_ms / MINUTE_MS)


def horizons_ms(observation_window_ms: int, attribution_window_ms: int, count: int = 6) -> tuple[int, ...]:
    """The ages at which `survival` looks at a click: e_0 = w_o < e_1 < ... < e_count = w_a, evenly spaced in `log_age`.

    Fewer where the windows are so close that two would fall on one millisecond; w_o alone where they are equal.

    Args:
        observation_window_ms: w_o, 0 or more.
        attribution_window_ms: w_a, at least w_o and above 0.
        count: steps from w_o to w_a, 1 to `MOST_HORIZONS`.

    Raises:
        ValueError: one of them is out of its range.

    Example:
        >>> [round(age / 60_000) for age in horizons_ms(3_600_000, 259_200_000)]
        [60, 123, 251, 512, 1043, 2123, 4320]
        >>> horizons_ms(5000, 5000)
        (5000,)
    """
    if attribution_window_ms <= 0:
        raise ValueError(
            f"attribution_window_ms must be above 0 (got {attribution_window_ms}): no conversion would be waited for"
        )
    if not 0 <= observation_window_ms <= attribution_window_ms:
        raise ValueError(
            f"observation_window_ms must lie between 0 and attribution_window_ms = {attribution_window_ms} "
            f"(got {observation_window_ms}): the first look at a click cannot come after the last"
        )
    if not 1 <= count <= MOST_HORIZONS:
        raise ValueError(
            f"horizons must lie between 1 and {MOST_HORIZONS} (got {count}): bins between them need edges too, and 6 are enough"
        )
    return _spaced(observation_window_ms, attribution_window_ms, count)


def edges_ms(observation_window_ms: int, attribution_window_ms: int, horizons: int = 6) -> tuple[int, ...]:
    """Where bins end: some 16 ages up to w_a, w_o and all `horizons_ms` among them, 63 at most.

    Raises:
        ValueError: as `horizons_ms`.

    Example:
        >>> edges = edges_ms(3_600_000, 259_200_000)
        >>> len(edges), edges[0], edges[-1]
        (14, 40304, 259200000)
        >>> set(horizons_ms(3_600_000, 259_200_000)) <= set(edges)
        True
        >>> edges_ms(0, 259_200_000)[:2]  # w_o = 0: bin 0 holds who converts in the millisecond of the click
        (0, 35527)
    """
    looks = horizons_ms(observation_window_ms, attribution_window_ms, horizons)
    step = log_age(attribution_window_ms) / _BINS
    edges = set(looks)
    # A step may come short of `step`, never much beyond it: from 0 to w_o, and between horizons.
    for start, end in zip((0, *looks[:-1]), looks, strict=True):
        parts = max(1, round((log_age(end) - log_age(start)) / step))
        edges.update(_spaced(start, end, parts)[1:])
    assert len(edges) <= MOST_EDGES
    return tuple(sorted(edges))


def bin_of(delay_ms: int, edges: tuple[int, ...]) -> int:
    """The bin that a delay falls in: 0 <= delay_ms <= edges[-1].

    Example:
        >>> [bin_of(delay, (10, 20, 40)) for delay in (0, 10, 11, 40)]
        [0, 0, 1, 2]
    """
    return bisect_left(edges, delay_ms)


def _spaced(start_ms: int, end_ms: int, steps: int) -> tuple[int, ...]:
    """From start to end, evenly in `log_age`, whole and different milliseconds."""
    start, end = log_age(start_ms), log_age(end_ms)
    inner = (round(MINUTE_MS * math.expm1(start + (end - start) * step / steps)) for step in range(1, steps))
    return tuple(sorted({start_ms, end_ms} | {age for age in inner if start_ms < age < end_ms}))
