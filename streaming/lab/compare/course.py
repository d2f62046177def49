"""What the hours of a comparison say one after the other: smoothed, and added up from the start; must not know how they are drawn."""

from __future__ import annotations

import numpy as np

from models.batch import Float64
from streaming.lab.compare.outcome import ORACLE, MethodResult, Results

DAY_MS = 86_400_000


def smoothed_above_oracle(results: Results, method: MethodResult) -> list[float]:
    """For each hour, log loss above `oracle`'s over the 24 hours around it, by clicks: (H,) nats a click.

    A whole day around each point, so that the daily rhythm of traffic does not look like learning.
    """
    start_ms = np.array(results.hours.start_ms)
    clicks = np.array(results.hours.clicks, np.float64)
    above = clicks * (_log_loss(method) - _log_loss(results.method(ORACLE)))
    first, end = np.searchsorted(start_ms, start_ms - DAY_MS // 2), np.searchsorted(start_ms, start_ms + DAY_MS // 2)
    summed, counted = np.append(0.0, np.cumsum(above)), np.append(0.0, np.cumsum(clicks))
    return [float(mean) for mean in (summed[end] - summed[first]) / (counted[end] - counted[first])]


def share_so_far(results: Results, method: MethodResult, start: str) -> list[float | None]:
    """For each hour, the share of the gap in log loss closed from the stream's first hour to it, (H,); None where there is no gap yet."""
    clicks = np.array(results.hours.clicks, np.float64)
    before, own, best = (
        np.cumsum(clicks * _log_loss(one)) for one in (results.method(start), method, results.method(ORACLE))
    )
    return [float((b - o) / (b - g)) if b > g else None for b, o, g in zip(before, own, best, strict=True)]


def _log_loss(method: MethodResult) -> Float64:
    # Every hour of a comparison holds a click, and so has a log loss.
    return np.array(method.by_hour.log_loss, np.float64)
