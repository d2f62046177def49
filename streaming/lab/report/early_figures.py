"""The picture of early calibration, as plotly data; must not know files or where a figure came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from streaming.lab.report.axes import axis, picture, ratio_axis, rounded, rule
from streaming.lab.report.page import Picture

# Conversions expected from which on an interval is worth a frame that holds it; those of fewer reach far and say little.
_WORTH_A_FRAME = 5.0
_AGES = (
    (60, "1 min"), (600, "10 min"), (3_600, "1 h"), (10_800, "3 h"), (28_800, "8 h"), (86_400, "1 d"), (259_200, "3 d"),
    (604_800, "7 d"), (2_592_000, "30 d"),
)  # fmt: skip


class Ratio(msgspec.Struct, frozen=True):
    """Observed over expected at an age, with its interval; `is_prior` is True where what is expected rests on a prior."""

    age_seconds: float
    expected: float
    ratio: float
    low: float
    high: float
    is_prior: bool = False
    hover: str = ""


def ratios(points: Sequence[Ratio], total: Ratio | None, colour: str, band: str) -> Picture | None:
    """Ratios by age, both logarithmic, over the band of all together. None without any.

    Where the ratio is 0 the interval ends in a triangle at the foot; where it rests on a prior the mark is hollow.

    Args:
        points: youngest first.
        total: of all ages together.
        colour: of the marks. band: of the band, as CSS.
    """
    if not points:
        return None
    framed = [end for one in points if one.expected >= _WORTH_A_FRAME for end in (one.ratio, one.low, one.high)]
    whole = [] if total is None else [total.ratio, total.low, total.high]
    y = ratio_axis("observed / expected", [*framed, *whole, *(one.ratio for one in points)])
    foot = 10 ** (y["range"][0] * 0.97)
    ages = [one.age_seconds for one in points]
    span = [math.log10(min(ages) / 1.3), math.log10(max(ages) * 1.3)]
    ticks = [(second, text) for second, text in _AGES if span[0] <= math.log10(second) <= span[1]]
    x = axis("age of the clicks", type="log", range=span)
    x |= {"tickvals": [second for second, _ in ticks], "ticktext": [text for _, text in ticks]}
    if len(ticks) < 2:  # a narrow range between two of ours
        x |= {"tickvals": [rounded(age) for age in ages], "ticktext": [_hours(age) for age in ages]}
    data: list[dict[str, Any]] = []
    if total is not None:
        across = {"type": "scatter", "mode": "lines", "x": [10**end for end in span], "hoverinfo": "skip"}
        edge = {"width": 0, "color": colour}
        data += [
            across | {"y": [max(total.low, foot)] * 2, "line": edge, "showlegend": False},
            across
            | {"y": [total.high] * 2, "line": edge, "fill": "tonexty", "fillcolor": band, "name": "all together, 95 %"},
        ]
    for is_prior, name in ((False, "by age, 95 %"), (True, "by age, rests on the prior")):
        for is_none in (False, True):
            mine = [one for one in points if one.is_prior == is_prior and (one.ratio <= 0) == is_none]
            if mine:
                title = f"{name}, none observed" if is_none else name
                data.append(_marks(mine, title, colour, foot, is_hollow=is_prior, is_none=is_none))
    return picture(data, x, y, 360, shapes=[rule("y", 1, colour="#6b7280")])


def _marks(
    points: Sequence[Ratio], name: str, colour: str, foot: float, *, is_hollow: bool, is_none: bool
) -> dict[str, Any]:
    at = [max(one.ratio, foot) if is_none else one.ratio for one in points]
    symbol = ("triangle-down" if is_none else "circle") + ("-open" if is_hollow else "")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [rounded(one.age_seconds) for one in points],
        "y": [rounded(value) for value in at],
        "customdata": [one.hover for one in points],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {"size": 8, "symbol": symbol, "color": colour, "line": {"width": 1.6, "color": colour}},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [rounded(max(one.high - value, 0.0)) for one, value in zip(points, at, strict=True)],
            "arrayminus": [
                rounded(max(value - max(one.low, foot), 0.0)) for one, value in zip(points, at, strict=True)
            ],
            "color": colour,
            "thickness": 1,
            "width": 0,
        },
    }


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"
