"""The report's sections on what went through the run: delays, volumes, training; must not know how pages are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streaming.lab.report import figures, flow_figures, page
from streaming.lab.report.course import bucket_ms
from streaming.lab.report.figures import Line, Point
from streaming.lab.report.flow_figures import Curve
from streaming.lab.report.page import Html, Page, element, number
from streaming.lab.report.style import COLOURS
from streaming.lab.report.sums import RunSums
from streaming.metrics import RunMetrics
from streaming.settings import Windows

_SHARES = [share / 200 for share in range(201)]
_MOST_BARS = 200
_KIND_COLOURS = {
    "UNCLICKED": "#c9d3df",
    "CLICKED": COLOURS["ctr"],
    "IMMEDIATE_POSITIVE": COLOURS["cvr"],
    "OBSERVED_NEGATIVE": "#ecc9a9",
    "REVISIT": "#d9bd8a",
    "AGED": "#b9a6cf",
    "DELAYED_POSITIVE": "#8c3d0c",
    "REAL_NEGATIVE": "#f1dcc8",
    "MATURED": "#d18a55",
    "ORACLE": "#a0662f",
    "OUTCOME": COLOURS["ctcvr"],
}


def label_delays(report: Page, sums: RunSums, windows: Windows | None) -> None:
    """How long conversions took, with the windows that were set."""
    conversions, seconds = _delay_curve(sums, "OUTCOME", "click_ms", "conversion_ms")
    clicks, click_seconds = _delay_curve(sums, "CLICKED", "impression_ms", "click_ms")
    curves = []
    if seconds:
        curves.append(Curve(name="click to conversion", colour=COLOURS["cvr"], seconds=seconds, shares=_SHARES))
    if click_seconds:
        curves.append(Curve(name="impression to click", colour=COLOURS["ctr"], seconds=click_seconds, shares=_SHARES))
    marks: dict[str, tuple[float, str]] = {}
    if windows is not None:
        marks = {
            "click window": (windows.click_window_ms / 1000, COLOURS["ctr"]),
            "observation window": (windows.observation_window_ms / 1000, COLOURS["cvr"]),
            "attribution window": (windows.attribution_window_ms / 1000, COLOURS["cvr"]),
        }
    why = "no conversions yet among clicks whose attribution window has passed" if sums.has_examples else _NO_EXAMPLES
    picture = report.picture(
        "How soon clicks and conversions come",
        f"Of {conversions:,} conversions of clicks whose attribution window has passed, and of {clicks:,} clicks. What comes after "
        "the observation window is not there yet when a click gets its first conversion label.",
        flow_figures.delays(curves, marks),
        why,
    )
    limits = {limit: page.duration(limit) for limit in (60_000, 600_000, 3_600_000, 21_600_000, 86_400_000)}
    if windows is not None:
        for name, limit in (
            ("observation", windows.observation_window_ms),
            ("attribution", windows.attribution_window_ms),
        ):
            limits[limit] = f"{page.duration(limit)} ({name} window)"
    ordered = sorted(limits.items())
    shares = sums.share_within([limit for limit, _ in ordered]) if conversions else []
    rows = [[name, Html(f"{100 * part:.1f} %")] for (_, name), part in zip(ordered, shares, strict=False)]
    quantiles = [
        [f"{100 * q:g} % came within", page.duration(1000 * seconds[round(q * 200)])]
        for q in (0.5, 0.9, 0.95)
        if seconds
    ]
    tables = [page.table(("conversions within", "share"), rows), page.table(("", "delay"), quantiles)]
    report.section(
        "delays",
        "Label delay",
        "How long after its click a conversion comes, by event time: why a fresh model cannot wait for its labels.",
        page.pair(picture, page.joined(tables) if rows else page.no_value(why)),
    )


_NO_EXAMPLES = "examples.jsonl.zst is not in the run directory"


def _delay_curve(sums: RunSums, kind: str, start: str, end: str) -> tuple[int, list[float]]:
    found, milliseconds = sums.delay_quantiles(kind, start, end, _SHARES)
    return found, [delay / 1000 for delay in milliseconds]


def _bucketed(hours: Iterable[tuple[int, float]], size: int) -> list[tuple[int, float]]:
    buckets: dict[int, float] = {}
    for hour, amount in hours:
        start = hour - hour % size
        buckets[start] = buckets.get(start, 0) + amount
    return sorted(buckets.items())


def volumes(report: Page, sums: RunSums, metrics: RunMetrics) -> None:
    """Facts by their own time, and examples by the time they left."""
    facts = sums.facts_by_hour()
    size = bucket_ms((hour for hours in facts.values() for hour, _ in hours), _MOST_BARS)
    colours = {"impressions": "#9fb3c8", "clicks": COLOURS["ctr"], "conversions": COLOURS["cvr"]}
    bars = {name: _bucketed(hours, size) for name, hours in facts.items()}
    panels = {
        name: (colours[name], [(page.moment(start), int(amount)) for start, amount in found])
        for name, found in bars.items()
    }
    why = "nothing has left the join yet" if sums.has_examples else _NO_EXAMPLES
    until = None if metrics.watermark_ms is None else page.moment(metrics.watermark_ms)
    joined = report.picture(
        f"Joined facts (bars of {page.duration(size)})",
        "By their own event time. An impression counts once its click label is out, so the last bars before the watermark "
        "(dotted) are still filling. A gap in one stream alone is a fault.",
        flow_figures.volumes(panels, size, until),
        why,
    )
    in_all = {name: sum(amount for _, amount in hours) for name, hours in facts.items()}
    read = {"impressions": "impression", "clicks": "click", "conversions": "conversion"}
    rows = [
        [name.capitalize(), page.count(metrics.events.get(read[name], 0)), page.count(amount)]
        for name, amount in in_all.items()
    ]
    rows.append(["Malformed", page.count(metrics.events.get("malformed", 0)), "–"])
    by_time = {name: dict(found) for name, found in bars.items()}
    starts = sorted({start for found in by_time.values() for start in found})
    timeline = [
        [page.moment(start), *(page.count(by_time[name].get(start, 0)) for name in by_time)] for start in starts
    ]
    beside = page.joined(
        [
            page.table(("", "read", "joined"), rows),
            page.table(("from, UTC", "impressions", "clicks", "conversions"), timeline, tall=True) if timeline else "",
        ]
    )
    report.section(
        "volumes",
        "Volumes",
        "What was read, what was joined, and which examples came of it.",
        page.pair(joined, beside),
        _examples(report, sums, metrics, why),
    )


def _examples(report: Page, sums: RunSums, metrics: RunMetrics, why: str) -> Html:
    by_hour = sums.examples_by_hour()
    size = bucket_ms((hour for _, hour, _ in by_hour), _MOST_BARS)
    by_kind: dict[str, list[tuple[int, float]]] = {kind: [] for kind in _KIND_COLOURS}
    for kind, hour, amount in by_hour:
        by_kind.setdefault(kind, []).append((hour, amount))
    bars = {
        kind: [(page.moment(start), amount) for start, amount in _bucketed(hours, size)]
        for kind, hours in by_kind.items()
        if kind != "UNCLICKED"
    }
    picture = report.picture(
        f"Examples of clicked impressions, by kind (bars of {page.duration(size)})",
        "By the event time at which they left. UNCLICKED is left out of the picture: it would hide the rest.",
        flow_figures.stacked_over_time(bars, _KIND_COLOURS, size, "examples"),
        "no example of a click yet" if by_hour else why,
    )
    total = sum(metrics.examples.values())
    rows = [
        [page.joined([_dot(_KIND_COLOURS.get(kind)), kind]), page.count(amount), page.share(amount, total)]
        for kind, amount in sorted(metrics.examples.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    return page.pair(picture, page.table(("examples", "emitted", "share"), rows) if rows else Html(""))


def _dot(colour: str | None) -> Html:
    return element("span", class_="chip", style=f"background:{colour or '#a9b0ba'}")


def training(report: Page, sums: RunSums, metrics: RunMetrics) -> None:
    """Kappa, mass and steps."""
    hours = sums.taught_by_hour()
    size = bucket_ms((hour.hour_ms for hour in hours), _MOST_BARS)
    kappa = [Point(when=page.moment(hour.hour_ms), value=hour.kappa) for hour in hours if hour.kappa is not None]
    if not any(point.value for point in kappa):
        kappa = []
    why = "no batch has been learned yet" if sums.has_examples else _NO_EXAMPLES
    why_no_kappa = (
        "unclicked impressions weigh nothing: objective composed, or no conversion label taught yet" if hours else why
    )
    kappa_picture = report.picture(
        "Kappa",
        "Mean weight of UNCLICKED rows, by hour of due time: conversion mass taught for each click seen. It starts at 0; in a steady stream it comes to the mass that a click teaches in all.",
        figures.over_time([Line(name="kappa", colour=COLOURS["ctcvr"], points=kappa)], "kappa", reference=None),
        why_no_kappa,
    )
    masses: Mapping[str, list[tuple[int, float]]] = {
        "towards a conversion (a+)": _bucketed(((hour.hour_ms, hour.positive_mass) for hour in hours), size),
        "towards none (a-)": _bucketed(((hour.hour_ms, hour.negative_mass) for hour in hours), size),
    }
    has_mass = any(amount for amounts in masses.values() for _, amount in amounts)
    mass_picture = report.picture(
        f"Conversion mass taught (bars of {page.duration(size)})",
        "Sums of the weights a+ and a- of clicked examples. A stop in one of them is a stop of a stream. Method survival takes back "
        "what it taught too much, so that its sums may fall below 0.",
        flow_figures.stacked_over_time(
            {name: [(page.moment(start), amount) for start, amount in amounts] for name, amounts in masses.items()},
            {"towards a conversion (a+)": COLOURS["cvr"], "towards none (a-)": "#ecc9a9"},
            size,
            "mass",
        )
        if has_mass
        else None,
        "no clicked example has taught by a weight: none is due yet, or the method has a likelihood of its own"
        if hours
        else why,
    )
    taught_mass = sum(hour.positive_mass + hour.negative_mass for hour in hours)
    version = f"{metrics.weights_epoch}.{metrics.weights_version}" if metrics.weights_version else None
    rows = [
        ["gradient steps", page.count(metrics.steps)],
        ["rows taught", page.count(metrics.taught)],
        ["conversion mass taught", page.count(taught_mass)],
        ["kappa", number(metrics.kappa or None, 3, why_no_kappa)],
        ["loss of the last step, nats a configured row", number(metrics.last_loss, 4, "no step yet")],
        ["embedding rows", page.count(metrics.embedding_rows)],
        ["cuts taken", page.count(metrics.cuts)],
        ["weights published (epoch.version)", version or number(None, 0, "none published yet")],
        *([f"batches refused: {why}", page.count(n)] for why, n in sorted(metrics.refused_batches.items())),
    ]
    if not metrics.refused_batches:
        rows.append(["batches refused", page.count(0)])
    report.section(
        "training",
        "Training",
        "What the model was taught, and with what weight.",
        page.pair(page.joined([kappa_picture, mass_picture]), page.table(("", ""), rows)),
    )
