"""Pictures of how good predictions were, as plotly data; must not know files or where a figure came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from streaming.lab.report.axes import axis, name_of, picture, ratio_axis, rounded, rows_axis, rule
from streaming.lab.report.page import Picture
from streaming.lab.report.style import FAINT, TRUTH

WIDTH_95 = 1.959964  # standard errors on either side of a 95 % interval


class Dot(msgspec.Struct, frozen=True):
    """One measured figure with its interval, and beside it what the truth would have scored."""

    label: str
    colour: str
    value: float
    low: float | None = None
    high: float | None = None
    truth: float | None = None


class Point(msgspec.Struct, frozen=True):
    """A figure at a time (`when` is "YYYY-MM-DD HH:MM"); `is_complete` is False while labels are still open."""

    when: str
    value: float
    low: float | None = None
    high: float | None = None
    is_complete: bool = True
    hover: str = ""


class Line(msgspec.Struct, frozen=True):
    """A named line over time."""

    name: str
    colour: str
    points: Sequence[Point]
    dash: str = "solid"


def dots(rows: Sequence[Dot], title: str, *, reference: float | None = None, is_ratio: bool = False) -> Picture | None:
    """A figure of each task, one a row, with its interval and the truth's own. None without any."""
    if not rows:
        return None
    labels = [name_of(row.label) for row in rows]
    ends = [end for row in rows for end in (row.value, row.low, row.high, row.truth) if end is not None]
    values = [rounded(row.value) for row in rows]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": values,
            "y": labels,
            "marker": {"size": 10, "color": [row.colour for row in rows]},
            "showlegend": False,
            "hovertemplate": "%{y}: %{x:.4g}<extra></extra>",
        }
    ]
    for row, label in zip(rows, labels, strict=True):
        if row.low is not None and row.high is not None:
            line = {"type": "scatter", "mode": "lines", "x": [rounded(row.low), rounded(row.high)], "y": [label] * 2}
            data.insert(0, line | {"line": {"color": row.colour, "width": 2}, "showlegend": False, "hoverinfo": "skip"})
    truths = [(row.truth, label) for row, label in zip(rows, labels, strict=True) if row.truth is not None]
    if truths:
        marker = {"size": 9, "symbol": "diamond-open", "color": TRUTH, "line": {"width": 1.6}}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "the truth itself",
                "x": [rounded(truth) for truth, _ in truths],
                "y": [label for _, label in truths],
                "marker": marker,
                "hovertemplate": "truth, %{y}: %{x:.4g}<extra></extra>",
                "showlegend": True,
            }
        )
    x = ratio_axis(title, ends) if is_ratio else axis(title, **_frame(ends, reference))
    y = rows_axis(labels)
    shapes = [] if reference is None else [rule("x", reference, colour="#6b7280")]
    return picture(data, x, y, 96 + 34 * len(rows), shapes=shapes)


def over_time(
    lines: Sequence[Line], title: str, *, is_ratio: bool = False, reference: float | None = 1
) -> Picture | None:
    """Lines over event time; where labels are still open a hollow grey mark stands alone. None without a point."""
    data: list[dict[str, Any]] = []
    complete: list[float] = []
    for line in lines:
        for is_complete in (True, False):
            points = [point for point in line.points if point.is_complete == is_complete]
            if not points:
                continue
            trace: dict[str, Any] = {
                "type": "scatter",
                "name": name_of(line.name) if is_complete else f"{name_of(line.name)}, labels still open",
                "x": [point.when for point in points],
                "y": [rounded(point.value) for point in points],
                "customdata": [point.hover for point in points],
                "hovertemplate": "%{x|%a %d %b %H:%M}<br>%{y:.4g}  %{customdata}<extra>"
                + name_of(line.name)
                + "</extra>",
                "mode": "lines+markers" if is_complete else "markers",
                "legendgroup": line.name,
                "showlegend": is_complete or all(not point.is_complete for point in line.points),
            }
            if is_complete:
                complete += [point.value for point in points]
                trace["line"] = {"color": line.colour, "width": 2, "dash": line.dash}
                trace["marker"] = {"size": 6 if len(points) < 60 else 3, "color": line.colour}
                if all(point.low is not None and point.high is not None for point in points):
                    trace["error_y"] = {
                        "type": "data",
                        "symmetric": False,
                        "array": [rounded((point.high or 0) - point.value) for point in points],
                        "arrayminus": [rounded(point.value - (point.low or 0)) for point in points],
                        "color": line.colour,
                        "thickness": 1,
                        "width": 0,
                    }
            else:
                trace["marker"] = {"size": 7, "color": "#fff", "line": {"color": FAINT, "width": 1.4}}
            data.append(trace)
    if not data:
        return None
    # Around what is complete: one hour with open labels must not press the rest flat.
    y = ratio_axis(title, complete) if is_ratio else axis(title, **_frame(complete, reference))
    shapes = [] if reference is None else [rule("y", reference, colour="#6b7280")]
    return picture(data, axis("event time, UTC", type="date"), y, 330, shapes=shapes)


def _frame(values: Sequence[float], reference: float | None) -> dict[str, Any]:
    """Around all values and the reference, so that an interval is seen to end; without values, as plotly likes."""
    if not values:
        return {}
    ends = [*values, *([] if reference is None else [reference])]
    edge = 0.06 * (max(ends) - min(ends)) or 0.1
    return {"range": [rounded(min(ends) - edge), rounded(max(ends) + edge)]}


def reliability(
    bins: Sequence[tuple[float, float, int]], truth: Sequence[tuple[float, float, int]], colour: str
) -> Picture | None:
    """Mean label over mean prediction in equal-mass bins, both logarithmic; bins without a positive stand at the foot."""
    seen = [(p, y, n) for p, y, n in bins if p > 0 and y > 0]
    bare = [(p, n) for p, y, n in bins if p > 0 and y <= 0]
    known = [(p, t) for p, t, _ in truth if p > 0 and t > 0]
    if not seen and not bare:
        return None
    ends = [end for p, y, _ in seen for end in (p, y)] + [p for p, _ in bare] + [end for pair in known for end in pair]
    low, high = min(ends) / 1.6, min(max(ends) * 1.6, 1.3)
    foot = low * 1.12
    bounds = [_wilson(y, n) for _, y, n in seen]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": FAINT, "width": 1},
            "hoverinfo": "skip",
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "labels",
            "x": [rounded(p) for p, _, _ in seen],
            "y": [rounded(y) for _, y, _ in seen],
            "customdata": [[f"{n:,}", f"{round(y * n):,}"] for _, y, n in seen],
            "hovertemplate": "predicted %{x:.4g}<br>observed %{y:.4g}<br>%{customdata[1]} of %{customdata[0]}<extra></extra>",
            "marker": {"size": 7, "color": colour},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [rounded(max(upper - y, 0)) for (_, upper), (_, y, _) in zip(bounds, seen, strict=True)],
                "arrayminus": [rounded(max(y - lower, 0)) for (lower, _), (_, y, _) in zip(bounds, seen, strict=True)],
                "color": colour,
                "thickness": 1,
                "width": 0,
            },
        },
    ]
    if bare:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "no positive",
                "x": [rounded(p) for p, _ in bare],
                "y": [rounded(foot)] * len(bare),
                "customdata": [f"{n:,}" for _, n in bare],
                "hovertemplate": "predicted %{x:.4g}<br>none of %{customdata}<extra></extra>",
                "marker": {"size": 8, "symbol": "triangle-down-open", "color": FAINT},
            }
        )
    if known:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "truth",
                "x": [rounded(p) for p, _ in known],
                "y": [rounded(t) for _, t in known],
                "hovertemplate": "predicted %{x:.4g}<br>truth %{y:.4g}<extra></extra>",
                "marker": {"size": 8, "symbol": "diamond-open", "color": TRUTH, "line": {"width": 1.3}},
            }
        )
    span = [math.log10(low), math.log10(high)]
    ticks = _log_ticks(low, high)
    marks = {"type": "log", "range": span, "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return picture(data, axis("mean prediction", **marks), axis("share of positives", **marks), 340)


def _log_ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [rounded(step * 10.0**decade) for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def _wilson(rate: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share; Wilson's, which stays within 0 and 1."""
    z2 = WIDTH_95**2 / n
    middle = (rate + z2 / 2) / (1 + z2)
    reach = WIDTH_95 / (1 + z2) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n))
    return max(middle - reach, 0.0), middle + reach
