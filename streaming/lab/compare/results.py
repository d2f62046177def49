"""From the files of runs to what they came to: who is compared, on which clicks, and every figure; must not know a page or a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.batch import Bool
from streaming.lab.compare.bootstrap import RESAMPLES, Days
from streaming.lab.compare.files import Clicks, ResultsError, RunRecord, read_clicks, read_predictions, read_records
from streaming.lab.compare.outcome import ANCHORS, LeftOut, Results
from streaming.lab.compare.scored import Grid, Scored
from streaming.lab.compare.verdicts import verdict


def results(directory: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> Results:
    """What the runs in a directory came to, on the clicks that every compared run has scored.

    A seed is compared if `pretrained`, `window` and `oracle` ran to the end under it; a run that ended early is left out and
    told of, since its clicks would otherwise be all that is left of everybody's.

    Args:
        directory: with `clicks.safetensors` and `runs/`.
        resamples: of days, behind each interval.
        seed: of the resamples.

    Raises:
        ResultsError: a file is missing, damaged or of another log; or no click was scored by all.
    """
    clicks = read_clicks(directory)
    compared, left_out = choose(*read_records(directory), directory)
    is_common, counts = _scored_by_all(directory, compared, clicks)
    grid = Grid.of(clicks, is_common)
    scored = {
        (run.method, run.seed): Scored.of(read_predictions(directory, run, len(is_common))[is_common], grid)
        for run in compared
    }
    records = {(run.method, run.seed): run for run in compared}
    methods: dict[str, list[int]] = {}
    for method, of in scored:
        methods.setdefault(method, []).append(of)
    days = Days(len(grid.days.start_ms), resamples=resamples, seed=seed)
    judged = [verdict(method, seeds, scored, records, counts, days, grid) for method, seeds in methods.items()]
    converted = clicks.delay_ms[is_common & (clicks.label == 1.0) & (clicks.delay_ms >= 0)]
    return Results(
        clicks_in_log=len(is_common),
        clicks=int(is_common.sum()),
        positives=int(grid.label.sum()),
        median_delay_ms=int(np.median(converted)) if converted.size else None,
        hours=grid.hours,
        days=grid.days,
        hours_without_auc=int((~next(iter(scored.values())).hours.has_both).sum()),
        seeds=sorted({run.seed for run in compared}),
        resamples=days.resamples,
        methods=sorted(judged, key=lambda one: (one.overall.pooled.log_loss or 0.0, one.method)),
        left_out=left_out,
    )


def write_results(found: Results, path: Path) -> Path:
    """Writes `compare.json`, whole or not at all; returns its path."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(msgspec.json.encode(found) + b"\n")
    draft.replace(path)
    return path


def choose(
    records: Sequence[RunRecord], unfinished: Sequence[tuple[str, str]], directory: Path
) -> tuple[list[RunRecord], list[LeftOut]]:
    """The runs that can be compared, and those that cannot.

    Raises:
        ResultsError: no seed has all of `pretrained`, `window` and `oracle`.
    """
    ran = {(run.method, run.seed) for run in records if run.ended is None}
    seeds = {run.seed for run in records if all((anchor, run.seed) in ran for anchor in ANCHORS)}
    if not seeds:
        lacking = [anchor for anchor in ANCHORS if not any(method == anchor for method, _ in ran)]
        why = [f"no whole run of {', '.join(lacking)}" if lacking else "there is no seed under which all three ran"]
        why += [f"{run.name} ended early ({run.ended})" for run in records if run.ended and run.method in ANCHORS]
        why += [f"{name}: {reason}" for name, reason in unfinished]
        raise ResultsError(
            f"{directory} cannot be compared: it needs runs of {', '.join(ANCHORS)} under one seed, since shares are told "
            f"between them, and {'; '.join(why)}; run `afterclick compare` again with window among --methods and the same --out, it takes up what is missing"
        )
    compared, left_out = [], [LeftOut(name, why) for name, why in unfinished]
    for run in records:
        if run.ended is not None:
            left_out.append(LeftOut(run.name, f"it ended early: {run.ended}"))
        elif run.seed not in seeds:
            lacks = [anchor for anchor in ANCHORS if (anchor, run.seed) not in ran]
            reason = f"under seed {run.seed} there is no whole run of {', '.join(lacks)} to compare it with"
            left_out.append(LeftOut(run.name, reason))
        else:
            compared.append(run)
    return compared, left_out


def _scored_by_all(
    directory: Path, compared: Sequence[RunRecord], clicks: Clicks
) -> tuple[Bool, dict[tuple[str, int], int]]:
    """Which clicks every run has scored, (C,), and how many each has.

    Raises:
        ResultsError: there is none that all have.
    """
    is_common = np.ones(len(clicks.click_ms), bool)
    counts: dict[tuple[str, int], int] = {}
    for run in compared:
        # Read again afterwards: one column after the other stays small, where all of a large log at once would not.
        is_scored = ~np.isnan(read_predictions(directory, run, len(is_common)))
        counts[run.method, run.seed] = int(is_scored.sum())
        is_common &= is_scored
    if not is_common.any():
        fewest = min(compared, key=lambda run: counts[run.method, run.seed])
        raise ResultsError(
            f"no click of {directory} was scored by all {len(compared)} runs ({fewest.name} scored "
            f"{counts[fewest.method, fewest.seed]:,}, the fewest): the log must go on for longer than pre-training and "
            "the attribution window together, or no label is final"
        )
    return is_common, counts
