"""The report's sections on what taught nothing: side outputs, and what is still open; must not know how pages are drawn."""

from __future__ import annotations

from pathlib import Path

from streaming.lab.report import flow_figures, page
from streaming.lab.report.files import SideRecord, doors_of, sample_side_output
from streaming.lab.report.page import Html, Page, element
from streaming.lab.report.style import COLOURS
from streaming.metrics import RunMetrics

_RECORD_COLOURS = {
    "impression": "#9fb3c8",
    "click": COLOURS["ctr"],
    "conversion": COLOURS["cvr"],
    "malformed": "#7c5c69",
}
_DOORS = {
    "dead_letters": "could not be read",
    "future": "stamped too far ahead of everything else",
    "duplicates": "said again, or not the first",
    "late": "came behind the watermark, too late to be used",
    "out_of_window": "too long after what it follows, or before it",
    "orphans": "nothing in the log that it follows",
}


def side_outputs(report: Page, run: Path, metrics: RunMetrics) -> None:
    """What taught nothing, by the door it left by, with a few whole records of each kind."""
    doors = doors_of(metrics)
    counts = {door: {kind: n for kind, n in metrics.side_outputs.get(door, {}).items() if n} for door in doors}
    read = sum(metrics.events.values())
    picture = report.picture(
        "Records that taught nothing, by the door they left by",
        "Every record leaves by one door only: the first that fits, in this order.",
        flow_figures.rows_of_bars(counts, _RECORD_COLOURS, "records"),
        "none left by a side door" if read else "nothing was read",
    )
    rows = []
    for door in doors:
        name = page.joined([door.replace("_", " "), element("small", _DOORS.get(door, ""), class_="none")])
        for kind, amount in (counts[door] or {"–": 0}).items():
            rows.append([name, kind, page.count(amount), page.share(amount, read)])
            name = Html("")
    table = page.table(("door", "kind", "records", "of all read"), rows, words=2)
    samples = [
        block
        for door in doors
        for kind, records in sample_side_output(run, door, counts[door]).items()
        for block in (_samples(door, kind, counts[door][kind], records),)
    ]
    faults = metrics.feature_faults
    blocks = [page.pair(picture, table)]
    if faults:
        fault_picture = report.picture(
            "Feature values of a wrong type, taken as missing",
            "A feature that stands out has changed its type where it is logged.",
            flow_figures.rows_of_bars(
                {name: {"values": n} for name, n in faults.items()}, {"values": "#7c5c69"}, "values"
            ),
        )
        fault_rows = [[name, page.count(n)] for name, n in sorted(faults.items(), key=lambda entry: -entry[1])]
        blocks.append(page.pair(fault_picture, page.table(("feature", "values"), fault_rows)))
    report.section(
        "side",
        "Side outputs",
        "Nothing is dropped in silence: these records are counted, and kept whole in the run directory.",
        *blocks,
        *([element("h3", "A few of them, whole"), *samples] if samples else []),
    )


def _samples(door: str, kind: str, amount: int, records: list[SideRecord]) -> Html:
    title = f"{door.replace('_', ' ')}, {kind}: {len(records)} of {amount:,}"
    if not records:
        return page.folded(title, element("p", f"{door}.jsonl holds no record of this kind.", class_="note"))
    rows = [
        [record.at, record.reason, element("pre", record.record or record.record_base64 or "")] for record in records
    ]
    return page.folded(title, element("div", page.table(("at", "reason", "record"), rows, words=3), class_="samples"))


def still_open(report: Page, metrics: RunMetrics) -> None:
    """What waits at the end."""
    waits = {
        "impressions": (metrics.open_impressions, "wait for a click, a conversion, or the end of their windows"),
        "of them clicked": (metrics.open_clicks, "wait for a conversion until the attribution window has passed"),
        "predictions": (metrics.open_predictions, "wait for the label that scores them"),
        "records": (metrics.pending_records, "were read, but the watermark has not passed them"),
        "facts": (metrics.held_facts, "wait for an impression that may still come"),
        "remembered": (metrics.remembered_impressions, "closed; remembered so that what follows is called what it is"),
    }
    picture = report.picture(
        "What waits at the end",
        "The last cut holds it: a log that follows takes it up. None of it was given a label.",
        flow_figures.rows_of_bars(
            {name: {"open": amount} for name, (amount, _) in waits.items()}, {"open": "#9fb3c8"}, "how many"
        ),
        "nothing is open",
    )
    rows = [[name, meaning, page.count(amount)] for name, (amount, meaning) in waits.items()]
    report.section(
        "open",
        "Still open",
        f"Event time stands at {page.moment(metrics.watermark_ms)}, the newest event at {page.moment(metrics.max_event_time_ms)} (UTC).",
        page.pair(picture, page.table(("", "", "how many"), rows, words=2)),
    )
