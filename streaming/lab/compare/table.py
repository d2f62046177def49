"""A comparison as a table for the terminal; must not know how figures are made."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from streaming.lab.compare.outcome import ANCHORS, ORACLE, MethodResult, Results
from streaming.lab.compare.words import percent, signed, signed_interval, standing
from streaming.lab.summary import figure

HEAD = (
    "method", "log loss", "above oracle", "95 %", "calibration", "AUC", "PR-AUC", "gap from window", "from pretrained", "events a click", "time",
)  # fmt: skip


def table(results: Results) -> Table:
    """One row a method, lowest log loss first; what the columns are stands below.

    AUC and PR-AUC are means over hours; shares are of the gap in log loss that is closed.
    """
    found = Table(box=None, pad_edge=True, caption=_caption(results), caption_justify="left")
    for at, name in enumerate(HEAD):
        found.add_column(name, justify="left" if at == 0 else "right", no_wrap=at == 0)
    for method in results.methods:
        style = "dim" if method.method in ANCHORS else "bold" if standing(method) == "within" else ""
        found.add_row(*(escape(cell) for cell in row(method)), style=style)
    return found


def row(method: MethodResult) -> tuple[str, ...]:
    """The cells of a method, in the order of `HEAD`."""
    pooled, hourly, cost = method.overall.pooled, method.overall.mean_over_hours, method.cost
    against = method.against_oracle.log_loss
    relative = cost.seconds_over_window
    return (
        method.method,
        figure(pooled.log_loss, 5),
        "-" if method.method == ORACLE else signed(against.value),
        "" if method.method == ORACLE else signed_interval(against),
        figure(pooled.calibration, 3),
        figure(hourly.auc),
        figure(hourly.pr_auc),
        percent(method.share_from_window.log_loss.value),
        percent(method.share_from_pretrained.log_loss.value),
        "-" if cost.events_per_click is None else f"{cost.events_per_click:.2f}",
        f"{cost.seconds:,.0f} s" if relative is None else f"{relative:.2f} x",
    )


def _caption(results: Results) -> str:
    seeds = f", means of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    return (
        f"{results.clicks:,} clicks scored by all runs, {results.positives:,} converted, {len(results.days.start_ms)} days{seeds}. "
        "Log loss in nats a click; 95 %: bootstrap over days. Calibration is sum p / sum y, 1 is right. AUC, PR-AUC: means over hours, by clicks. "
        "Gap: share of the log loss between a start and oracle that is closed. Bold: the days cannot tell it from oracle. Time: beside window's."
    )
