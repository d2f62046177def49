"""What every picture of a report shares: axes, frame, marks; must not know what is drawn."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from streaming.lab.report.page import Picture
from streaming.lab.report.style import FAINT, FONT, INK, LINES, MUTED


def rounded(value: float) -> float:
    """Six digits: more than a screen shows, and a page a fifth of the size."""
    return float(f"{value:.6g}")


def name_of(text: str) -> str:
    """A name as plotly may have it: it reads a few tags in its texts, and one from a log must not be one."""
    return html.escape(text if len(text) <= 48 else text[:47] + "…")


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis; `more` is plotly's."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": MUTED}, "standoff": 8},
        "gridcolor": LINES,
        "linecolor": "#cfd5dd",
        "zeroline": False,
        "tickfont": {"size": 11.5, "color": MUTED},
        "automargin": True,
        "fixedrange": True,
        **more,
    }


def rows_axis(labels: Sequence[str]) -> dict[str, Any]:
    """An axis of names, the first on top."""
    order: dict[str, Any] = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(labels),
        "autorange": "reversed",
    }
    return axis(gridcolor="rgba(0,0,0,0)", **order) | {"tickfont": {"size": 12, "color": INK}, "ticksuffix": "  "}


def picture(data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], height: int, **more: Any) -> Picture:
    """Traces in the frame that all pictures have; `more` is of plotly's layout."""
    layout = {
        "height": height,
        "font": {"family": FONT, "size": 12, "color": INK},
        "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "bgcolor": "#fff", "bordercolor": "#cfd5dd"},
        "bargap": 0.08,
        "xaxis": x,
        "yaxis": y,
        **more,
    }
    return Picture(data=data, layout=layout)


def rule(axis: str, at: Any, *, dash: str = "solid", colour: str = FAINT) -> dict[str, Any]:
    """A line across the whole picture where the "x" or the "y" axis has a value."""
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    if axis == "y":
        ends = {"y0": at, "y1": at, "x0": 0, "x1": 1, "yref": "y", "xref": "paper"}
    return {"type": "line", "line": {"color": colour, "width": 1, "dash": dash}, "layer": "above", **ends}


def note(x: Any, y: float, text: str, **more: Any) -> dict[str, Any]:
    """A few words in the picture; `more` is plotly's."""
    return {"x": x, "y": y, "text": text, "showarrow": False, "font": {"size": 11, "color": MUTED}, **more}


_RATIO_TICKS = (
    (1.55, (0.8, 0.9, 1, 1.1, 1.25)),
    (2.5, (0.5, 0.7, 1, 1.4, 2)),
    (10.0, (0.1, 0.2, 0.5, 1, 2, 5, 10)),
)


def ratio_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A log axis around 1, so that half and double are as far away; it reaches from 1.25 to 10 times, as `values` need."""
    needed = max([1.28, *(max(value, 1 / value) * 1.06 for value in values if value > 0)])
    reach = min(needed, 10.5)
    ticks = next((ticks for most, ticks in _RATIO_TICKS if reach <= most), _RATIO_TICKS[-1][1])
    span = [-math.log10(reach), math.log10(reach)]
    return axis(title, type="log", range=span, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], tickangle=0)
