"""What one method came to over its seeds, beside the anchors under the same seeds; must not know a file, a page or a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from models.batch import Float64
from streaming.lab.compare.bootstrap import Days, Draws, Estimate, share_closed
from streaming.lab.compare.figures import FIGURES, Figures, Grouped, Series, told
from streaming.lab.compare.files import RunRecord
from streaming.lab.compare.outcome import (
    ANCHORS,
    ORACLE,
    PRETRAINED,
    WINDOW,
    AgainstOracle,
    Cost,
    MethodResult,
    Overall,
    SeedResult,
    Shares,
)
from streaming.lab.compare.scored import Grid, Scored, drawn

Run = tuple[str, int]  # method, seed


def verdict(
    method: str,
    seeds: Sequence[int],
    scored: dict[Run, Scored],
    records: dict[Run, RunRecord],
    counts: dict[Run, int],
    days: Days,
    grid: Grid,
) -> MethodResult:
    """One method over its seeds, beside the anchors under the same seeds.

    Args:
        method: whose.
        seeds: under which it is compared.
        scored: of every compared run.
        records: of every compared run.
        counts: clicks that each run scored, compared or not.
        days: to draw from.
        grid: of the compared clicks.
    """
    own = [scored[method, seed] for seed in seeds]
    draws = {name: drawn([scored[name, seed] for seed in seeds], grid, days) for name in {method, *ANCHORS}}
    costs = [_cost(records[method, seed], records[WINDOW, seed]) for seed in seeds]
    overall = [run.overall for run in own]
    by_seed = [
        SeedResult(
            seed=seed,
            clicks_scored=counts[method, seed],
            overall=overall[at],
            share_from_window=_share_of_seed(method, WINDOW, seed, scored),
            share_from_pretrained=_share_of_seed(method, PRETRAINED, seed, scored),
            cost=costs[at],
        )
        for at, seed in enumerate(seeds)
    ]
    return MethodResult(
        method=method,
        overall=_folded(overall, _mean),
        spread=_folded(overall, _deviation),
        against_oracle=_against(draws[method], draws[ORACLE]),
        share_from_window=_shares(WINDOW, method, draws),
        share_from_pretrained=_shares(PRETRAINED, method, draws),
        cost=_mean_cost(costs),
        by_seed=by_seed,
        by_hour=_series([run.hours for run in own]),
        by_day=_series([run.days for run in own]),
    )


_NO_CONVERSIONS = "no conversions among the compared clicks"
_NOTHING_TO_RANK = "no hour has both conversions and clicks without"


def _against(own: dict[str, Draws], oracle: dict[str, Draws]) -> AgainstOracle:
    log_loss = (own["log_loss"] - oracle["log_loss"]).estimate("no clicks")
    return AgainstOracle(
        log_loss=log_loss,
        auc=(own["auc"] - oracle["auc"]).estimate(_NOTHING_TO_RANK),
        pr_auc=(own["pr_auc"] - oracle["pr_auc"]).estimate(_NOTHING_TO_RANK),
        calibration_ratio=own["calibration"].over(oracle["calibration"]).estimate(_NO_CONVERSIONS),
        is_within=log_loss.contains_zero,
    )


def _shares(start: str, method: str, draws: dict[str, dict[str, Draws]]) -> Shares:
    def share(figure: str) -> Estimate:
        columns = [draws[name][figure] for name in (start, method, ORACLE)]
        turned = columns if figure == "log_loss" else [-column for column in columns]  # a higher area is better
        return share_closed(*turned, names=(start, ORACLE))

    return Shares(share("log_loss"), share("auc"), share("pr_auc"))


def _share_of_seed(method: str, start: str, seed: int, scored: dict[Run, Scored]) -> float | None:
    before, own, best = (float(scored[name, seed].pooled.sum_log_loss[0]) for name in (start, method, ORACLE))
    return (before - own) / (before - best) if before > best else None


def _folded(runs: Sequence[Overall], fold: Callable[[Sequence[float]], float]) -> Overall:
    return Overall(
        pooled=_over_seeds([run.pooled for run in runs], fold),
        mean_over_hours=_over_seeds([run.mean_over_hours for run in runs], fold),
    )


def _over_seeds(runs: Sequence[Figures], fold: Callable[[Sequence[float]], float]) -> Figures:
    """One number a figure from those of several runs; None where a run has no value (labels are the same: then none has)."""
    values = {name: [getattr(run, name) for run in runs] for name in FIGURES}
    return Figures(**{name: None if None in column else told(fold(column)) for name, column in values.items()})


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _series(runs: Sequence[Grouped]) -> Series:
    columns: dict[str, list[Float64]] = {name: [run.columns()[name] for run in runs] for name in FIGURES}
    return Series(**{name: [told(value) for value in np.mean(column, axis=0)] for name, column in columns.items()})


def _cost(record: RunRecord, window: RunRecord) -> Cost:
    effective, events = record.effective_sample_size, record.conversion_events
    return Cost(
        seconds=record.seconds,
        seconds_over_window=record.seconds / window.seconds if window.seconds > 0 else None,
        rows=record.rows,
        clicks=record.clicks,
        conversion_events=events,
        events_per_click=events / record.clicks if record.clicks else None,
        effective_share=None if effective is None or not events else effective / events,
        kappa=record.kappa,
    )


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    columns = {name: [getattr(cost, name) for cost in costs] for name in Cost.__struct_fields__}
    return msgspec.convert({name: None if None in column else _mean(column) for name, column in columns.items()}, Cost)
