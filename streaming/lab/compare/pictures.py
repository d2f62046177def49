"""Pictures of a comparison, as plotly data; must not know files, tables, or where a figure came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streaming.lab.compare.bootstrap import Estimate
from streaming.lab.compare.course import share_so_far, smoothed_above_oracle
from streaming.lab.compare.outcome import ANCHORS, ORACLE, PRETRAINED, WINDOW, MethodResult, Results
from streaming.lab.compare.theme import colour
from streaming.lab.report import figures
from streaming.lab.report.figures import Dot, Line, Point
from streaming.lab.report.page import Picture, moment

_CLOSE = 1.2
"""A calibration within this factor of 1 is drawn again in a close-up, without those that lie further off and press it flat."""

_LEGEND_ROW = 19  # pixels, and about five names fit into one
_FURTHEST = 0.05  # of the shares so far, at either end, that may lie outside the frame


def colours(results: Results) -> dict[str, str]:
    """Each compared method's colour; a user's own methods take turns."""
    names = sorted(method.method for method in results.methods)
    return {name: colour(name, at) for at, name in enumerate(names)}


def learners(results: Results) -> list[MethodResult]:
    """The methods that are neither a start nor the goal of a share."""
    return [method for method in results.methods if method.method not in ANCHORS]


def estimates(
    results: Results,
    methods: Sequence[MethodResult],
    of: Callable[[MethodResult], Estimate],
    title: str,
    *,
    reference: float,
) -> Picture | None:
    """A figure of each method with its interval, a row each; None where none has a value."""
    tone = colours(results)
    told = [(method.method, of(method)) for method in methods]
    rows = [
        Dot(label=name, colour=tone[name], value=found.value, low=found.low, high=found.high)
        for name, found in told
        if found.value is not None
    ]
    return figures.dots(rows, title, reference=reference)


def gap_shares(results: Results, of: Callable[[MethodResult], Estimate]) -> Picture | None:
    """The share of a gap that each method but the starts and the goal closes, in percent as in the tables."""
    picture = estimates(results, learners(results), of, "share of the gap", reference=1)
    if picture is not None:
        picture["layout"]["xaxis"]["tickformat"] = ".0%"
        for trace in picture["data"]:
            if "hovertemplate" in trace:
                trace["hovertemplate"] = "%{y}: %{x:.1%}<extra></extra>"
    return picture


def above_oracle(results: Results, methods: Sequence[MethodResult]) -> Picture | None:
    """Log loss above `oracle`'s by hour, each point the mean of the day around it."""
    lines = [
        _line(results, method.method, results.hours.start_ms, smoothed_above_oracle(results, method))
        for method in methods
    ]
    picture = figures.over_time(_drawn(lines), "nats a click above oracle", reference=0)
    if picture is not None:
        picture["layout"]["yaxis"]["tickformat"] = ".4~f"
    return _roomy(picture, len(lines))


def shares_so_far(results: Results, start: str) -> Picture | None:
    """The share of the gap in log loss closed since the stream began, from its second day on; None where there never was a gap."""
    end_of_first_day = results.hours.start_ms[0] + 86_400_000
    lines = []
    for method in learners(results):
        shares = share_so_far(results, method, start)
        values = [
            None if start_ms < end_of_first_day else share
            for start_ms, share in zip(results.hours.start_ms, shares, strict=True)
        ]
        lines.append(_line(results, method.method, results.hours.start_ms, values))
    shown = [point.value for line in lines for point in line.points]
    picture = figures.over_time(_drawn(lines), f"share of the gap from {start}", reference=1)
    if picture is not None:
        # By all but the furthest: a day's first hours may stand anywhere, and would press the rest flat.
        least, most = np.quantile(shown, (_FURTHEST, 1 - _FURTHEST)).tolist()
        low, high = min(least, 0.9) - 0.05, max(most, 1.0) + 0.05
        picture["layout"]["yaxis"] |= {"range": [low, high], "tickformat": ".0%"}
    return _roomy(picture, len(lines))


def calibration_by_day(results: Results, methods: Sequence[MethodResult]) -> Picture | None:
    """Sum p over sum y of each day, a line a method."""
    lines = [_line(results, method.method, results.days.start_ms, method.by_day.calibration) for method in methods]
    return _roomy(figures.over_time(_drawn(lines), "sum p / sum y", is_ratio=True), len(lines))


def near_one(results: Results) -> list[MethodResult]:
    """The methods whose calibration is close to 1, and `oracle`."""
    close = []
    for method in results.methods:
        overall = method.overall.pooled.calibration
        if method.method == ORACLE or (overall is not None and 1 / _CLOSE <= overall <= _CLOSE):
            close.append(method)
    return close


def _line(results: Results, name: str, start_ms: Sequence[int], values: Sequence[float | None]) -> Line:
    points = [
        Point(when=moment(at), value=value) for at, value in zip(start_ms, values, strict=True) if value is not None
    ]
    dash = {ORACLE: "dash", PRETRAINED: "dot", WINDOW: "dot"}.get(name, "solid")
    return Line(name=name, colour=colours(results)[name], points=points, dash=dash)


def _drawn(lines: Sequence[Line]) -> list[Line]:
    """Those with a point, oracle last: what all are held against lies on top."""
    return sorted((line for line in lines if line.points), key=lambda line: line.name == ORACLE)


def _roomy(picture: Picture | None, lines: int) -> Picture | None:
    """Higher by the rows its legend takes, and without a mark at each of hundreds of points."""
    if picture is None:
        return None
    picture["layout"]["height"] += _LEGEND_ROW * (lines // 5)
    for trace in picture["data"]:
        if len(trace["x"]) > 60:
            trace["mode"] = "lines"
        if trace.get("legendgroup") == ORACLE:
            trace["line"]["width"] = 3
    return picture
