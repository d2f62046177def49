"""The report's sections on how good the predictions were; must not know how files are read or pages drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from streaming.lab.report import figures, page
from streaming.lab.report.figures import WIDTH_95, Dot
from streaming.lab.report.page import Html, Page, element, number
from streaming.lab.report.style import COLOURS
from streaming.lab.report.sums import RunSums
from streaming.metrics import RunMetrics, TaskMetrics

TASKS = {
    "ctr": ("CTR", "click", "an impression"),
    "cvr": ("CVR", "conversion", "a click"),
    "ctcvr": ("CTCVR", "conversion", "an impression"),
}


def title_of(task: str, whose: str) -> str:
    """How a table calls the predictions of a task."""
    return TASKS[task][0] if whose == "model" else f"{TASKS[task][0]}, {whose}"


def place(task: str, whose: str) -> tuple[int, str]:
    """Where they stand among the others."""
    return list(TASKS).index(task), whose


class Scored(msgspec.Struct, frozen=True):
    """The figures of one task and whose predictions: as the run counted them, and over its files with the truth's."""

    task: str
    whose: str
    run: TaskMetrics
    files: TaskMetrics | None
    truth: TaskMetrics | None
    truth_bins: list[tuple[float, float, int]]

    @property
    def name(self) -> str:
        """How a table calls it."""
        return title_of(self.task, self.whose)

    @property
    def colour(self) -> str:
        """Its task's."""
        return COLOURS[self.task]


def score(sums: RunSums, metrics: RunMetrics) -> list[Scored]:
    """Everything scored, in the order of the tasks; a task of which nothing was scored is there with zero rows."""
    found: list[Scored] = []
    for task in TASKS:
        by_whose = metrics.tasks.get(task) or {"model": _NOTHING}
        for whose, run in by_whose.items():
            bins = len(run.reliability) or 10
            found.append(
                Scored(
                    task=task,
                    whose=whose,
                    run=run,
                    files=sums.scores(task, whose, bins=bins),
                    truth=sums.scores(task, whose, of="truth", bins=bins) if sums.has_truth else None,
                    truth_bins=sums.truth_by_bin(task, whose, bins=bins) if sums.has_truth else [],
                )
            )
    return found


_NOTHING = TaskMetrics(
    n=0,
    sum_p=0.0,
    sum_y=0.0,
    sum_log_loss=0.0,
    calibration=None,
    log_loss=None,
    normalized_entropy=None,
    ece=None,
    auc=None,
    auc_error=None,
    reliability=[],
)


def reason(scored: Scored, metrics: RunMetrics) -> str:
    """Why a figure of it has no value."""
    _, event, of = TASKS[scored.task]
    if scored.run.n == 0:
        started = any(hour.task == scored.task and hour.whose == scored.whose for hour in metrics.hours)
        return "no hour is complete yet" if started else f"no label of {of} yet"
    if scored.run.sum_y <= 0:
        return f"no {event}s yet"
    if scored.run.sum_y >= scored.run.n:
        return f"only {event}s: nothing to tell apart"
    return "not counted by this run"


def interval(calibration: float | None, positives: float) -> tuple[float, float] | None:
    """The 95 % interval of sum p / sum y from the number of positives alone: exp(±1.96 / sqrt(sum y)) around it.

    Example:
        >>> [round(end, 3) for end in interval(1.0, 400)]
        [0.907, 1.103]
    """
    if calibration is None or positives <= 0:
        return None
    factor = math.exp(WIDTH_95 / math.sqrt(positives))
    return calibration / factor, calibration * factor


def headline(report: Page, scored: list[Scored], metrics: RunMetrics, facts: Html, truth_note: str) -> None:
    """A card a task, the table of all figures, and a picture of each."""
    cards = page.grid(*(_card(one, metrics) for one in scored if one.whose == "model" or not _has_model(scored, one)))
    head = ("", "rows", "positives", "calibration", "NE", "log loss", "ECE", "AUC")
    rows: list[tuple[Html, ...]] = []
    for one in scored:
        why = reason(one, metrics)
        chip = element("span", class_=f"chip tone-{one.task}")
        run, auc = one.run, None if one.files is None else one.files.auc
        missing = why if run.n == 0 or one.files is not None else "the files do not hold its rows"
        rows.append(
            (
                element("span", chip, one.name, class_="name"),
                page.count(run.n),
                page.count(run.sum_y),
                *_figures(run, auc, why, missing),
            )
        )
        if one.truth is not None:
            chip = element("span", class_="chip truth")
            name = element("span", chip, "the truth itself", class_="soft name")
            true = one.truth
            rows.append((name, page.count(true.n), page.count(true.sum_y), *_figures(true, true.auc, why, why)))
    pictures = page.grid(
        report.picture(
            "Calibration",
            "Predicted over observed positives; 1 is right. With its 95 % interval from the number of positives.",
            figures.dots(
                [_dot(one, "calibration") for one in scored if one.run.calibration],
                "sum p / sum y",
                reference=1,
                is_ratio=True,
            ),
            "no positives yet",
        ),
        report.picture(
            "Normalised entropy",
            "Log loss over that of always saying the mean: lower is better, at 1 and above nothing is gained.",
            figures.dots(
                [_dot(one, "normalized_entropy") for one in scored if one.run.normalized_entropy is not None],
                "NE",
                reference=1,
            ),
            "no positives yet, or nothing else",
        ),
        report.picture(
            "AUC",
            "The share of (positive, negative) pairs in the right order, exact, from the files; one half is chance.",
            figures.dots(
                [
                    Dot(
                        label=one.name,
                        colour=one.colour,
                        value=one.files.auc,
                        truth=one.truth.auc if one.truth else None,
                    )
                    for one in scored
                    if one.files is not None and one.files.auc is not None
                ],
                "AUC",
                reference=0.5,
            ),
            "no positives yet, or nothing else",
        ),
    )
    notes = [
        f"{one.name}: metrics.json counts {one.run.n:,} rows in complete hours, the files hold {one.files.n if one.files else 0:,}; "
        "AUC and truth are over the latter. The run may have been taken up again, or be running."
        for one in scored
        if one.run.n != (one.files.n if one.files else 0)
    ]
    report.section(
        "summary",
        "Summary",
        "Every prediction is scored as it stood before anything of its batch was learned, and only once "
        "every label beside it is in. " + truth_note,
        facts,
        cards,
        page.table(head, rows),
        *(element("p", note, class_="note") for note in notes),
        pictures,
    )


def _has_model(scored: Iterable[Scored], one: Scored) -> bool:
    return any(other.task == one.task and other.whose == "model" for other in scored)


def _figures(scores: TaskMetrics, auc: float | None, why: str, no_auc: str) -> tuple[Html, ...]:
    bounds = interval(scores.calibration, scores.sum_y)
    calibration = number(scores.calibration, 3, why)
    if bounds is not None:
        calibration = page.joined(
            [calibration, element("span", f"{bounds[0]:.3f} to {bounds[1]:.3f}", class_="interval")]
        )
    return (
        calibration,
        number(scores.normalized_entropy, 4, why),
        number(scores.log_loss, 4, why),
        number(scores.ece, 4, why),
        number(auc, 4, no_auc),
    )


def _card(one: Scored, metrics: RunMetrics) -> Html:
    why = reason(one, metrics)
    bounds = interval(one.run.calibration, one.run.sum_y)
    what = "calibration" if bounds is None else f"calibration, {bounds[0]:.3f} to {bounds[1]:.3f}"
    figures_ = [
        ("NE", number(one.run.normalized_entropy, 3, why)),
        ("AUC", number(None if one.files is None else one.files.auc, 3, why)),
        ("positives", page.joined([page.count(one.run.sum_y), " of ", page.count(one.run.n)])),
    ]
    if one.run.calibration is None:
        figures_ = figures_[2:]
    return element(
        "div",
        element("h3", one.name),
        element("p", number(one.run.calibration, 3, why), class_="big"),
        element("p", what, class_="what"),
        element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in figures_)),
        class_=f"card tone-{one.task}",
    )


def _dot(one: Scored, figure: str) -> Dot:
    bounds = interval(one.run.calibration, one.run.sum_y) if figure == "calibration" else None
    return Dot(
        label=one.name,
        colour=one.colour,
        value=getattr(one.run, figure),
        low=None if bounds is None else bounds[0],
        high=None if bounds is None else bounds[1],
        truth=None if one.truth is None else getattr(one.truth, figure),
    )


def reliability(report: Page, scored: list[Scored], metrics: RunMetrics) -> None:
    """A reliability curve with its bins, for each task."""
    cells = []
    for one in scored:
        picture = report.picture(
            one.name,
            f"{len(one.run.reliability)} bins of equally many rows" if one.run.reliability else "Equal-mass score bins",
            figures.reliability(one.run.reliability, one.truth_bins, one.colour),
            reason(one, metrics),
        )
        truths = one.truth_bins if len(one.truth_bins) == len(one.run.reliability) else []
        rows = [
            [number(p, 4, ""), number(y, 4, ""), page.count(n), page.count(y * n)]
            + ([number(truths[row][1], 4, "")] if truths else [])
            for row, (p, y, n) in enumerate(one.run.reliability)
        ]
        head = ("mean p", "mean y", "rows", "positives") + (("truth",) if truths else ())
        cells.append(page.joined([picture, page.table(head, rows, words=0) if rows else ""]))
    report.section(
        "reliability",
        "Reliability",
        "Of what was predicted with a given probability, that share should have come true: dots on the diagonal. Both axes are "
        "logarithmic, since clicks and conversions are rare; the bars are 95 % intervals (Wilson); a triangle at the foot is a bin "
        "without a positive.",
        page.grid(*cells),
    )
