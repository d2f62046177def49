"""One HTML page on a comparison, readable without a network; must not know a figure that the results do not hold."""

from __future__ import annotations

from pathlib import Path

from streaming.lab.compare import sections
from streaming.lab.compare.cells import NO_RANK, name_cell, share_figure, standing_cell
from streaming.lab.compare.outcome import Results
from streaming.lab.compare.theme import ThemedPage
from streaming.lab.compare.words import ROLES, notes, sentences
from streaming.lab.report import page
from streaming.lab.report.page import Html, Page, element, number


def write_page(results: Results, path: Path) -> Path:
    """Writes the page, whole or not at all; the same results give the same page.

    Args:
        results: what to show.
        path: of the page; what is there is replaced.

    Returns:
        `path`.
    """
    draft = path.with_name(path.name + ".part")
    draft.write_text(render(results), encoding="utf-8")
    draft.replace(path)
    return path


def render(results: Results) -> str:
    """The page's text."""
    shown = ThemedPage(
        "afterclick compare",
        "Delayed-feedback methods on one log, from one initial model. Event time and UTC throughout.",
    )
    summary(shown, results)
    sections.shares(shown, results)
    sections.against_oracle(shown, results)
    sections.over_time(shown, results)
    sections.calibration(shown, results)
    sections.costs(shown, results)
    if len(results.seeds) > 1:
        sections.seeds(shown, results)
    shown.section(
        "notes",
        "What the words mean",
        "Each figure of this page, in a line.",
        page.table(("", ""), list(_TERMS.items()), words=2),
    )
    return shown.render()


def summary(shown: Page, results: Results) -> None:
    """The one table that everything else explains."""
    first, last = results.hours.start_ms[0], results.hours.start_ms[-1]
    facts = {
        "clicks compared": page.count(results.clicks),
        "of them converted": page.joined(
            [page.count(results.positives), " (", page.share(results.positives, results.clicks), ")"]
        ),
        "half of those within": Html("no conversions")
        if results.median_delay_ms is None
        else page.escaped(page.duration(results.median_delay_ms)),
        "from, UTC": page.escaped(page.moment(first)),
        "to the hour of": page.escaped(page.moment(last)),
        "days, seeds": Html(f"{len(results.days.start_ms)}, {len(results.seeds)}"),
    }
    head = (
        "method",
        "log loss",
        "calibration",
        "AUC, pooled",
        "AUC by hour",
        "PR-AUC by hour",
        "gap closed from pretrained",
        "from window",
        "beside oracle",
    )
    rows = []
    for method in results.methods:
        pooled, hourly = method.overall.pooled, method.overall.mean_over_hours
        rows.append(
            (
                name_cell(results, method),
                number(pooled.log_loss, 5, ""),
                number(pooled.calibration, 3, "no conversions"),
                number(pooled.auc, 4, NO_RANK),
                number(hourly.auc, 4, NO_RANK),
                number(hourly.pr_auc, 4, NO_RANK),
                share_figure(method.share_from_pretrained.log_loss),
                share_figure(method.share_from_window.log_loss),
                standing_cell(method),
            )
        )
    shown.section(
        "summary",
        "Summary",
        " ".join(sentences(results)),
        element(
            "dl",
            *(element("div", element("dt", name), element("dd", value)) for name, value in facts.items()),
            class_="facts",
        ),
        page.table(head, rows),
        element(
            "p",
            "Every prediction is the model's as it stood when the click's hour was scored, before it learned anything due in that hour or later; every label is final. "
            "Lowest log loss first.",
            class_="note",
        ),
        *(element("p", note, class_="note") for note in notes(results)),
    )


_TERMS = {
    "pretrained, window, oracle": "; ".join(f"{name} is {role}" for name, role in ROLES.items()) + ".",
    "log loss": "-ln of the probability given to what happened, in nats a click: lower is better.",
    "calibration": "sum of predictions over conversions: at 0.8, a fifth of the conversions was not expected. Taken over all clicks at once.",
    "AUC": "of a random converted and a random other click, the chance that the converted one is scored higher; ties count half. It does not see calibration.",
    "PR-AUC": "area under precision over recall, by straight lines between all thresholds, as the papers report it; mostly a little above average precision.",
    "pooled, by hour": "over all clicks at once; or each hour by itself, and the mean of the hours weighted by their clicks, as in the papers. For log loss the two are one number, for "
    "AUC they are not: pooled also asks whether hours are ranked right among each other. Shares and differences of AUC and PR-AUC are of the hourly form.",
    "share of the gap": "(start - method) / (start - oracle), in log loss; for AUC and PR-AUC higher is better, and the sign is turned. No value where oracle is not ahead of the start by more "
    "than the days' noise: a share of nothing is any number.",
    "95 % interval": "whole days are drawn with replacement, a thousand times, the same days for every method; the interval spans 95 % of what comes out, widened for the small number of days.",
    "within, apart": "whether the interval of a method's log loss above oracle's contains 0. Within does not mean equal: it means that these days do not tell.",
    "effective share": "(sum of weights)² / sum of squared weights, over the rows that taught conversions, as a share of them: below 1, few heavy rows do the work of many.",
    "kappa": "conversion mass taught for each click seen, at the end of a run; 1 at steady traffic.",
    "no value": "a figure that cannot be computed, with the reason.",
}
