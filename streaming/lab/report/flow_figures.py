"""Pictures of what went through a run, as plotly data; must not know files or where a figure came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streaming.lab.report.axes import axis, name_of, note, picture, rounded, rows_axis, rule
from streaming.lab.report.page import Picture
from streaming.lab.report.style import FAINT, MUTED


class Curve(msgspec.Struct, frozen=True):
    """A cumulative share over delays in seconds."""

    name: str
    colour: str
    seconds: Sequence[float]
    shares: Sequence[float]


_DELAYS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3_600, "1 h"), (21_600, "6 h"), (86_400, "1 d"))
_LONG_DELAYS = ((604_800, "7 d"), (2_592_000, "30 d"))


def delays(curves: Sequence[Curve], windows: Mapping[str, tuple[float, str]]) -> Picture | None:
    """Share of what came within a delay, over delays on a logarithmic axis from 1 s; `windows` (name -> seconds, colour) are marked."""
    if not curves:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name_of(curve.name),
            "x": [rounded(max(second, 1.0)) for second in curve.seconds],
            "y": [rounded(100 * share) for share in curve.shares],
            "line": {"color": curve.colour, "width": 2, "shape": "hv"},
            "hovertemplate": "%{y:.1f} % within %{x:.4g} s<extra>" + name_of(curve.name) + "</extra>",
        }
        for curve in curves
    ]
    last = max([60.0, *(second for second, _ in windows.values()), *(max(curve.seconds) for curve in curves)])
    ticks = [(second, text) for second, text in (*_DELAYS, *_LONG_DELAYS) if second <= last * 1.3]
    x = axis(
        "delay",
        type="log",
        range=[0, math.log10(last * 1.3)],
        tickvals=[second for second, _ in ticks],
        ticktext=[text for _, text in ticks],
    )
    shapes = [rule("x", max(second, 1.0), dash="dot", colour=colour) for second, colour in windows.values()]
    notes = [
        note(math.log10(max(second, 1.0)), 0.03, name, yref="paper", textangle=-90, xanchor="right", yanchor="bottom")
        for name, (second, _) in windows.items()
    ]
    y = axis("share that came", range=[0, 103], ticksuffix=" %")
    return picture(data, x, y, 360, shapes=shapes, annotations=notes)


def volumes(
    panels: Mapping[str, tuple[str, Sequence[tuple[str, int]]]], width_ms: int, until: str | None
) -> Picture | None:
    """Bars over event time, one panel a name -> (colour, (when, how many)), each with its own scale."""
    panels = {name: panel for name, panel in panels.items() if panel[1]}
    if not panels:
        return None
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"showlegend": False, "annotations": []}
    height = 1 / len(panels)
    for row, (name, (colour, bars)) in enumerate(panels.items()):
        suffix = "" if row == 0 else str(row + 1)
        top = 1 - row * height
        data.append(
            {
                "type": "bar",
                "name": name_of(name),
                "x": [when for when, _ in bars],
                "y": [amount for _, amount in bars],
                "width": width_ms * 0.9,
                "offset": 0,
                "marker": {"color": colour, "line": {"width": 0}},
                "yaxis": f"y{suffix}",
                "hovertemplate": "%{x|%a %d %b %H:%M}<br>%{y:,}<extra>" + name_of(name) + "</extra>",
            }
        )
        layout[f"yaxis{suffix}"] = axis(domain=[top - height * 0.8, top - height * 0.08], nticks=4, rangemode="tozero")
        layout["annotations"].append(
            note(0, top, f"<b>{name_of(name)}</b>", xref="paper", yref="paper", xanchor="left", yanchor="middle")
        )
    shapes = [] if until is None else [rule("x", until, dash="dot", colour=MUTED)]
    x = axis("event time, UTC", type="date", anchor=f"y{'' if len(panels) == 1 else len(panels)}")
    first = layout.pop("yaxis")
    return picture(data, x, first, 90 + 130 * len(panels), shapes=shapes, **layout)


def stacked_over_time(
    bars: Mapping[str, Sequence[tuple[str, float]]], colours: Mapping[str, str], width_ms: int, title: str
) -> Picture | None:
    """Bars over event time, stacked by name."""
    data = [
        {
            "type": "bar",
            "name": name_of(name),
            "x": [when for when, _ in amounts],
            "y": [rounded(amount) for _, amount in amounts],
            "width": width_ms * 0.9,
            "offset": 0,
            "marker": {"color": colours.get(name, FAINT), "line": {"width": 0}},
            "hovertemplate": "%{x|%a %d %b %H:%M}<br>%{y:,.6~g}<extra>" + name_of(name) + "</extra>",
        }
        for name, amounts in bars.items()
        if amounts
    ]
    if not data:
        return None
    return picture(data, axis("event time, UTC", type="date"), axis(title, rangemode="tozero"), 330, barmode="relative")


def rows_of_bars(
    rows: Mapping[str, Mapping[str, int]], colours: Mapping[str, str], title: str, *, is_log: bool = False
) -> Picture | None:
    """Horizontal bars, one a row, stacked by kind. `is_log` suits one kind a row: stacks add up on a linear axis only."""
    if not any(amount for kinds in rows.values() for amount in kinds.values()):
        return None
    kinds = list(dict.fromkeys(kind for by_kind in rows.values() for kind in by_kind))
    labels = [name_of(row.replace("_", " ")) for row in rows]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name_of(kind),
            "y": labels,
            "x": [by_kind.get(kind, 0) or None for by_kind in rows.values()],
            "marker": {"color": colours.get(kind, FAINT), "line": {"width": 0}},
            "hovertemplate": "%{y}: %{x:,}<extra>" + name_of(kind) + "</extra>",
            "showlegend": len(kinds) > 1,
        }
        for kind in kinds
    ]
    y = rows_axis(labels)
    x = axis(title, type="log" if is_log else "linear", rangemode="tozero")
    return picture(data, x, y, 100 + 32 * len(rows), barmode="stack", bargap=0.35)
