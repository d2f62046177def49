"""The sections of a comparison's page, each a picture with its table; must not know where results come from."""

from __future__ import annotations

from collections.abc import Sequence

from streaming.lab.compare import pictures
from streaming.lab.compare.bootstrap import Estimate
from streaming.lab.compare.cells import NO_RANK, difference_cell, name_cell, ratio_cell, share_cell
from streaming.lab.compare.outcome import ORACLE, PRETRAINED, WINDOW, MethodResult, Results, Shares
from streaming.lab.compare.pictures import learners
from streaming.lab.compare.words import percent, signed
from streaming.lab.report import page
from streaming.lab.report.page import Html, Page, element, number

_NO_LEARNER = "pretrained, window and oracle alone were compared"


def shares(shown: Page, results: Results) -> None:
    """How much of what could be gained each method gains."""
    blocks = [_share_block(shown, results, start) for start in (PRETRAINED, WINDOW)]
    so_far = [
        shown.picture(
            f"From {start}, so far",
            "The same share over all hours from the stream's start up to each; from its second day on. What "
            "lies far off, as first hours may, is outside the frame.",
            pictures.shares_so_far(results, start),
            f"oracle is never ahead of {start}" if learners(results) else _NO_LEARNER,
        )
        for start in (PRETRAINED, WINDOW)
    ]
    shown.section(
        "gap",
        "Share of the gap closed",
        "How much of what knowing every label at once would gain over a start, a method gains without knowing. 0 % is no better than the start, "
        "100 % is oracle. The papers disagree on the start, so both are here: pretrained asks what the stream is worth, window asks what correcting for delay is worth.",
        *blocks,
        page.grid(*so_far),
    )


def _share_block(shown: Page, results: Results, start: str) -> Html:
    def of(method: MethodResult) -> Shares:
        return method.share_from_window if start == WINDOW else method.share_from_pretrained

    methods = [method for method in results.methods if method.method not in (start, ORACLE)]
    picture = shown.picture(
        f"From {start} to oracle",
        "Share of the gap in log loss that is closed, with its 95 % interval over days; 100 % is oracle. The other start is in the table.",
        pictures.gap_shares(results, lambda method: of(method).log_loss),
        next((of(method).log_loss.reason or _NO_LEARNER for method in learners(results)), _NO_LEARNER),
    )
    rows = [
        (name_cell(results, method), *(share_cell(getattr(of(method), name)) for name in Shares.__struct_fields__))
        for method in methods
    ]
    return page.pair(picture, page.table(("method", "log loss", "AUC", "PR-AUC"), rows))


def against_oracle(shown: Page, results: Results) -> None:
    """What is left to oracle, and whether it is more than noise."""
    cells = [
        shown.picture(
            "Log loss above oracle",
            "With its 95 % interval over days: one that crosses the line cannot be told from oracle. The starts are in the table.",
            pictures.estimates(
                results,
                learners(results),
                lambda method: method.against_oracle.log_loss,
                "nats a click above oracle",
                reference=0,
            ),
            _NO_LEARNER,
        ),
        shown.picture(
            "Calibration over oracle's",
            "What a method adds to the lag that oracle has too; 1 is none. Labels enter both sides alike, so intervals are narrow.",
            pictures.estimates(
                results,
                learners(results),
                lambda method: method.against_oracle.calibration_ratio,
                "sum p / oracle's sum p",
                reference=1,
            ),
            "no conversions among the compared clicks" if learners(results) else _NO_LEARNER,
        ),
    ]
    head = ("method", "log loss", "AUC", "PR-AUC", "calibration over oracle's")
    rows = [
        (
            name_cell(results, method),
            *(difference_cell(getattr(method.against_oracle, figure)) for figure in ("log_loss", "auc", "pr_auc")),
            ratio_cell(method.against_oracle.calibration_ratio),
        )
        for method in results.methods
        if method.method != ORACLE
    ]
    shown.section(
        "oracle",
        "What is left to oracle",
        "The same clicks, the same resampled days on both sides, so that a hard day does not count against anybody.",
        page.grid(*cells),
        page.table(head, rows),
    )


def over_time(shown: Page, results: Results) -> None:
    """Log loss relative to oracle, hour by hour."""
    cells = [
        shown.picture(
            "All methods",
            "Each point the mean of the 24 hours around it.",
            pictures.above_oracle(results, [method for method in results.methods if method.method != ORACLE]),
            "oracle alone was compared",
        ),
        shown.picture(
            "Close up, without window and pretrained",
            "The same; 0 is oracle.",
            pictures.above_oracle(results, learners(results)),
            _NO_LEARNER,
        ),
    ]
    others = [method for method in results.methods if method.method != ORACLE]
    # Every day of a comparison holds a click, and so has a log loss.
    oracle = results.method(ORACLE).by_day.log_loss
    rows = [
        (
            page.moment(start_ms)[:10],
            page.count(results.days.clicks[at]),
            *(signed((method.by_day.log_loss[at] or 0.0) - (oracle[at] or 0.0)) for method in others),
        )
        for at, start_ms in enumerate(results.days.start_ms)
    ]
    shown.section(
        "time",
        "Log loss over time, above oracle",
        "A model that does not learn falls behind when the world moves; one that learns from labels which are wrong on average is off from its first days on. "
        "What lies on 0 predicts as well as oracle.",
        page.grid(*cells),
        page.table(("day, UTC", "clicks", *(method.method for method in others)), rows, tall=True),
    )


def calibration(shown: Page, results: Results) -> None:
    """Predicted over observed conversions, day by day."""
    cells = [
        shown.picture(
            "All methods",
            "Predicted over observed conversions of each day's clicks; 1 is right.",
            pictures.calibration_by_day(results, results.methods),
            "no conversions",
        )
    ]
    close = pictures.near_one(results)
    if 1 < len(close) < len(results.methods):
        cells.append(
            shown.picture(
                "Close up",
                "The methods that are close to 1 overall.",
                pictures.calibration_by_day(results, close),
                "no conversions",
            )
        )
    overall = [method.overall.pooled.calibration for method in results.methods]
    by_day = zip(*(method.by_day.calibration for method in results.methods), strict=True)
    days = [page.moment(start_ms)[:10] for start_ms in results.days.start_ms]
    rows = [
        (day, page.count(positives), *(number(value, 3, "no conversions") for value in values))
        for day, positives, values in zip(
            ["all days", *days], [results.positives, *results.days.positives], [overall, *by_day], strict=True
        )
    ]
    shown.section(
        "calibration",
        "Calibration by day",
        "A learner is always a little behind a world that moves, oracle too, and labels are noisy: lines swing together. What a method "
        "adds is its distance from oracle's line, not from 1. One that takes a conversion not yet there for none at all stays below.",
        page.grid(*cells),
        page.table(("day, UTC", "converted", *(method.method for method in results.methods)), rows, tall=True),
    )


def costs(shown: Page, results: Results) -> None:
    """What each method asks of a trainer."""
    taught = [method for method in results.methods if method.cost.events_per_click is not None]
    cells = [
        shown.picture(
            "Training rows a click",
            "Rows that teach conversions, for each click.",
            pictures.estimates(
                results, taught, lambda method: Estimate(method.cost.events_per_click), "rows a click", reference=1
            ),
            "nothing was taught",
        ),
        shown.picture(
            "Time beside window",
            "Seconds of a run over those of window under the same seed.",
            pictures.estimates(
                results, taught, lambda method: Estimate(method.cost.seconds_over_window), "times window", reference=1
            ),
            "no times were kept",
        ),
    ]
    head = (
        "method",
        "rows taught",
        "of them conversions'",
        "a click",
        "seconds",
        "beside window",
        "effective share",
        "kappa",
    )
    rows = [
        (
            name_cell(results, method),
            page.count(method.cost.rows),
            page.count(method.cost.conversion_events),
            number(method.cost.events_per_click, 2, "nothing taught"),
            number(method.cost.seconds, 1, ""),
            number(method.cost.seconds_over_window, 2, "window took no time"),
            number(method.cost.effective_share, 2, "no weights"),
            number(method.cost.kappa or None, 3, "weighed nothing"),
        )
        for method in results.methods
    ]
    shown.section(
        "cost",
        "What it costs",
        "A click is taught several times by most methods: first as it looks, then as it turns out. Times were measured beside other runs on one machine: rough.",
        page.grid(*cells),
        page.table(head, rows),
    )


def seeds(shown: Page, results: Results) -> None:
    """Each run by itself."""
    head = ("method", "seed", "log loss", "calibration", "AUC by hour", "from pretrained", "from window")
    rows: list[Sequence[str]] = []
    for method in results.methods:
        rows += [
            (
                name_cell(results, method) if at == 0 else "",
                str(run.seed),
                number(run.overall.pooled.log_loss, 5, ""),
                number(run.overall.pooled.calibration, 3, "no conversions"),
                number(run.overall.mean_over_hours.auc, 4, NO_RANK),
                percent(run.share_from_pretrained),
                percent(run.share_from_window),
            )
            for at, run in enumerate(method.by_seed)
        ]
        spread = method.spread
        if len(method.by_seed) > 1:
            deviations = ((spread.pooled.log_loss, 5), (spread.pooled.calibration, 3), (spread.mean_over_hours.auc, 4))
            cells = (number(value, digits, "no value in a seed") for value, digits in deviations)
            rows.append(tuple(element("span", cell, class_="soft") for cell in ("", "deviation", *cells, "", "")))
    shown.section(
        "seeds",
        "Seed by seed",
        "The same log, another draw of the initial weights. Intervals elsewhere on this page tell how days differ; how runs differ is told here.",
        page.table(head, rows, words=2, tall=True),
    )
