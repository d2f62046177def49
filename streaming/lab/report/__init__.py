"""One HTML page on a run, readable without a network; must not know a figure that the run's files do not hold."""

from __future__ import annotations

from pathlib import Path

from streaming.lab.report import course, early, flow, leftovers, page, scores
from streaming.lab.report.files import RunFilesError, read_metrics
from streaming.lab.report.page import Html, Page, element
from streaming.lab.report.sums import RunSums, open_run_sums
from streaming.metrics import RunMetrics
from streaming.settings import Settings, SettingsError, load

__all__ = ["RunFilesError", "write_report"]


def write_report(run: Path, *, log: Path | None = None) -> Path:
    """Writes `report.html` into a run directory: one page with every curve, its table beside it, and no other file.

    A figure without a value says so, with the reason. The same files give the same page; no clock is read.

    Args:
        run: the run directory; `metrics.json` must be there, anything else may be missing.
        log: the log it was run over; if it holds `truth.parquet`, the truth's own figures stand beside the run's.

    Returns:
        The path of the page.

    Raises:
        RunFilesError: no `metrics.json`, or a file that is not in the form of `docs/formats.md`.
    """
    metrics = read_metrics(run)
    settings = _settings(run)
    with open_run_sums(run, log, metrics) as sums:
        text = _render(run, metrics, settings, sums, log)
    path = run / "report.html"
    # Beside it first: whoever has the old page open never reads half of the new one.
    draft = run / "report.html.part"
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def _settings(run: Path) -> Settings | None:
    """The run's settings; None if they are missing or of another version, since figures need them only as marks."""
    try:
        return load(run / "settings.toml", {})
    except SettingsError:
        return None


def _render(run: Path, metrics: RunMetrics, settings: Settings | None, sums: RunSums, log: Path | None) -> str:
    name = run.resolve().name
    subtitle = "Event time and UTC throughout."
    if settings is not None:
        subtitle = f"Method {settings.labels.method}, objective {settings.network.objective}, settings {settings.hash}. {subtitle}"
    report = Page(f"afterclick report: {name}", subtitle)
    scored = scores.score(sums, metrics)
    scores.headline(report, scored, metrics, _facts(metrics), _truth_note(sums, log))
    course.over_time(report, metrics, sums)
    early.early(report, metrics)
    scores.reliability(report, scored, metrics)
    flow.label_delays(report, sums, None if settings is None else settings.windows)
    flow.volumes(report, sums, metrics)
    leftovers.side_outputs(report, run, metrics)
    flow.training(report, sums, metrics)
    leftovers.still_open(report, metrics)
    report.section("notes", "Notes", "What the figures mean.", _definitions(), _settings_text(run, settings))
    return report.render()


def _truth_note(sums: RunSums, log: Path | None) -> str:
    if sums.has_truth:
        return "The truth's own figures, over the same rows, are the best that any model could reach."
    if log is None:
        return ""
    return f"The log {log.resolve().name} holds no truth.parquet, so no truth stands beside the figures."


def _facts(metrics: RunMetrics) -> Html:
    facts = {
        "impressions read": page.count(metrics.events.get("impression", 0)),
        "clicks read": page.count(metrics.events.get("click", 0)),
        "conversions read": page.count(metrics.events.get("conversion", 0)),
        "examples": page.count(sum(metrics.examples.values())),
        "gradient steps": page.count(metrics.steps),
        "watermark, UTC": page.moment(metrics.watermark_ms),
    }
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in facts.items()),
        class_="facts",
    )


_TERMS = {
    "calibration": "sum of predictions over sum of labels; above 1 the model promises too much. Its interval counts the noise of the "
    "positives alone, as if they were independent.",
    "NE": "normalised entropy: log loss over that of always saying the mean rate of the same rows.",
    "log loss": "in nats a row.",
    "ECE": "expected calibration error: mean distance of prediction and label rate over bins of equally many rows; never 0 on finitely many.",
    "AUC": "of a random positive and a random negative, the chance that the positive is scored higher; ties count half. Exact, from the files; metrics.json, the "
    "command line and Prometheus take it from 1,000 buckets of the score, so that theirs may differ in the third digit, by `auc_error` at most.",
    "observed / expected": "of clicks whose labels are open: conversions by now over the sum of p F(age). The inverse of a calibration: below 1 too much was promised.",
    "complete": "an hour of impressions is complete when the watermark has passed its end and every window that its labels need. CTR and CTCVR "
    "count whole hours only, else clicks would be missing where their neighbours are in; CVR counts a click once its outcome is known.",
    "CTR, CVR, CTCVR": "clicks of impressions; conversions of clicks; conversions of impressions. CVR is scored when a click's attribution "
    "window has passed, for converted and other clicks alike.",
    "no value, –": "a figure that cannot be computed says why; a dash is a time without rows.",
    "model, served": "the prediction made by this run before it learned, or the one the impression was shown under, where the log says.",
}


def _definitions() -> Html:
    return page.table(("", ""), list(_TERMS.items()), words=2)


def _settings_text(run: Path, settings: Settings | None) -> Html:
    try:
        text = (run / "settings.toml").read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return element("p", "settings.toml is not in the run directory: windows are not marked.", class_="note")
    summary = (
        "The settings"
        if settings is not None
        else "The settings, which this version cannot read: windows are not marked"
    )
    # Cut by lines, not by characters: settings are the user's own, and all of them belong here.
    lines = [page.escaped(line + "\n") for line in text.splitlines()]
    return page.folded(summary, element("pre", *lines, class_="settings"))
