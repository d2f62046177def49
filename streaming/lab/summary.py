"""What a world and a run came to, in a few rows for a person; must not know how rows are shown."""

from __future__ import annotations

from pathlib import Path

import msgspec

from streaming.lab.against_truth import AgainstTruth
from streaming.lab.world import WorldSummary
from streaming.metrics import RunMetrics
from streaming.outputs import SideLine

MANY = 0.01
"""Share of malformed records from which on they are pointed out: a stray one is everyday, a hundredth is a wrong setting."""


def figure(value: float | None, digits: int = 4) -> str:
    """A number, or that there is none.

    Example:
        >>> figure(0.97312), figure(None)
        ('0.9731', 'no value')
    """
    return "no value" if value is None else f"{value:.{digits}f}"


def counts(of: dict[str, int]) -> str:
    """Counts with what they are of, those of 0 left out.

    Example:
        >>> counts({"CLICKED": 1200, "ORACLE": 0})
        '1,200 clicked'
    """
    return ", ".join(f"{count:,} {name.lower().replace('_', ' ')}" for name, count in of.items() if count) or "none"


def world_rows(summary: WorldSummary) -> list[tuple[str, str]]:
    """What happened in a simulated world, and what went wrong."""
    clicks = f"mean pCTR {summary.mean_pctr:.4f}, AUC of the truth {figure(summary.ctr_auc)}"
    conversions = f"mean pCVR {figure(summary.mean_pcvr)}, AUC of the truth {figure(summary.cvr_auc)}"
    mishaps = counts(summary.mishaps)
    return [
        ("impressions", f"{summary.impressions:,}"),
        ("clicks", f"{summary.clicks:,}   {clicks}"),
        ("conversions", f"{summary.conversions:,}   {conversions}"),
        ("went wrong", "nothing" if mishaps == "none" else mishaps),
    ]


TRUTH_HEAD = ("", "scored", "sum p / sum true p", "AUC", "AUC of the truth", "NE", "NE of the truth")
"""What the columns of `truth_rows` are."""


def truth_rows(against: AgainstTruth) -> list[tuple[str, ...]]:
    """How good predictions were beside the probabilities that the log was drawn with, a row a task."""
    return [
        (
            name,
            f"{task.n:,}",
            figure(task.bias, 3),
            figure(task.auc, 3),
            figure(task.truth_auc, 3),
            figure(task.normalized_entropy, 3),
            figure(task.truth_normalized_entropy, 3),
        )
        for name, task in (("CTR", against.ctr), ("CVR", against.cvr))
    ]


def run_rows(metrics: RunMetrics, out: Path) -> list[tuple[str, str]]:
    """What a run into the directory `out` has come to."""
    rows = [
        ("records", counts(metrics.events)),
        ("examples", counts(metrics.examples)),
        ("left by a side door", counts({door: sum(kinds.values()) for door, kinds in metrics.side_outputs.items()})),
        (
            "still open",
            counts(
                {
                    "impressions": metrics.open_impressions,
                    "of them clicked": metrics.open_clicks,
                    "records pending": metrics.pending_records,
                }
            ),
        ),
        (
            "learned",
            f"{metrics.taught:,} rows in {metrics.steps:,} steps, {metrics.embedding_rows:,} embedding rows, kappa {metrics.kappa:.3f}",
        ),
    ]
    if metrics.refused_batches:
        rows.append(("batches refused", counts(metrics.refused_batches)))
    for task, by_whose in metrics.tasks.items():
        for whose, figures in by_whose.items():
            if figures.n or whose == "model":
                shown = [
                    ("calibration", figures.calibration), ("NE", figures.normalized_entropy), ("AUC", figures.auc), ("ECE", figures.ece),
                ]  # fmt: skip
                text = ", ".join(f"{name} {figure(value)}" for name, value in shown)
                rows.append((f"{task.upper()} ({whose})", f"{text}; n {figures.n:,}"))
    upto = "learned up to " if metrics.refused_versions else ""  # `weights list` tells which of them is current
    rows.append(
        ("weights", f"{out / 'weights'}, {upto}version {metrics.weights_version} of epoch {metrics.weights_epoch}")
    )
    return rows


def run_warnings(metrics: RunMetrics, out: Path) -> list[str]:
    """What somebody who replays a log into the directory `out` should look at before trusting the run."""
    read, malformed = sum(metrics.events.values()), metrics.events.get("malformed", 0)
    found = []
    if malformed > read * MANY:
        path = out / "dead_letters.jsonl"
        with path.open("rb") as file:
            first = msgspec.json.decode(file.readline(), type=SideLine)
        found.append(
            f"{malformed:,} of {read:,} records are malformed, the first ({first.at}) because {first.reason}; they are in {path}"
        )
    if not metrics.events.get("impression") and not metrics.examples:
        found.append("no impressions were read, and nothing can be learned without them; see `afterclick check LOG`")
    refused = dict(metrics.refused_versions)
    if held := refused.pop("held", 0):
        found.append(
            f"publishing is held since a rollback ({held:,} versions): `afterclick weights release {out}` lets it go on"
        )
    if refused:
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(refused.items()))
        found.append(
            f"versions of the weights were not published ({told}): see [gate] and {out / 'weights' / 'refused'}"
        )
    return found
