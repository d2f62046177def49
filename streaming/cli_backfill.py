"""The part of the command line that teaches a run after the event. Says what was done; everything else is done elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.console import print_json, print_rows, progress, warn

if TYPE_CHECKING:
    from streaming.backfill import BackfillReport

MANY = 0.05
"""Late clicks to clicks on time from which on a model is better rebuilt."""


def backfill(
    run: Annotated[Path, typer.Argument(help="Directory of a run that is not being written.", metavar="RUN")],
    log: Annotated[Path, typer.Option("--log", help="The log that RUN was made from: it holds the features.")],
    rebuild_days: Annotated[
        float | None,
        typer.Option(
            "--rebuild-days",
            help="Build the model anew over the labels of so many days before the end of RUN, late ones among them.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")] = False,
) -> None:
    """Teach RUN what came too late, and take back the labels that were wrong; then `replay --resume` goes on from there."""
    from streaming.backfill import Backfill
    from streaming.run import CrashAt
    from streaming.standing_run import StandingRun

    standing = StandingRun(run, at_step=CrashAt(os.environ), environ=os.environ, tell=warn)
    try:
        with progress(f"backfilling {run}", None):
            filling = Backfill(standing, log)
            report = filling.teach_late() if rebuild_days is None else filling.rebuild(rebuild_days)
    finally:
        standing.close()
    for reason in report.passed_over:
        warn(f"{reason}; the cut before it is used")
    print_json(report) if as_json else print_rows(f"Backfilled {run}", _rows(report))
    if report.refused:
        warn(f"batches were refused and not learned, rows by reason: {_counted(report.refused)}; see [safeguards]")
    if rebuild_days is None and report.clicks > MANY * report.clicks_on_time:
        warn(
            f"{report.clicks:,} clicks came late, beside {report.clicks_on_time:,} on time: one pass over so many, with nothing on the other "
            "side, is no match for learning them in their place; use --rebuild-days"
        )
    if report.without_features:
        warn(f"{report.without_features:,} impressions with late facts are not in {log}, and were not taught")


def _rows(report: BackfillReport) -> list[tuple[str, str]]:
    from streaming.lab.durations import utc

    rows = [
        ("taught their late click", f"{report.clicks:,} impressions"),
        ("taught their final label", f"{report.labels:,} clicks"),
        ("came late, taught unclicked", f"{report.impressions:,} impressions"),
        ("wait for their labels", f"{report.waiting:,} impressions"),
    ]
    if report.from_ms is not None:
        rows.append(("rebuilt from", f"{_counted(report.rows)}; due after {utc(report.from_ms)}"))
    changed = f"cut {report.cut}, {report.steps:,} steps, weights version {report.weights_version}"
    return [*rows, ("changed", "nothing" if report.cut is None else changed)]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
