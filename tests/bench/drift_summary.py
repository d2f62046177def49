"""The cells of the drift study in tables: means over seeds, shares of the log loss closed, paired intervals. Must not know how a run was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from cells import Line, lines_of

from models.batch import Float64
from streaming.lab.compare.bootstrap import LEAST_DAYS, Days

FROM_DAY = 3
# The .975 quantile of Student's t by degrees of freedom, Abramowitz and Stegun table 26.10.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def print_summary(title: str, out: Path, cells: Mapping[int, str]) -> None:
    """The tables of one w_o and objective, over the seeds whose cells are there.

    Args:
        cells: seed -> name.
    """
    found = {seed: lines for seed, name in cells.items() if (lines := lines_of(out, name)) is not None}
    print(f"\n## {title}: seeds {', '.join(map(str, found)) or 'none yet'} of {', '.join(map(str, cells))}")
    if not found:
        return
    runs = {seed: {line["method"]: line for line in lines} for seed, lines in found.items()}
    for seed, of in runs.items():
        for method, line in of.items():
            if line.get("ended"):
                print(f"seed {seed}: {method} ended early: {line['ended']}")
    methods = [method for method in next(iter(runs.values())) if all(_is_whole(of.get(method)) for of in runs.values())]
    methods.sort(key=lambda method: float(np.mean([of[method]["log_loss"] for of in runs.values()])))

    def column(method: str, key: str) -> Float64:
        return np.array([of[method][key] for of in runs.values()], np.float64)

    oracle, window, pretrained = (column(name, "log_loss") for name in ("oracle", "window", "pretrained"))
    clicks, conversions = (int(column("oracle", key).sum()) for key in ("clicks", "conversions"))
    print(
        f"{clicks} clicks and {conversions} conversions in all from the fourth day on: chance alone moves a calibration by "
        f"{1 / math.sqrt(conversions / len(runs)):.3f} in a seed"
    )
    print(
        "\n| method | sum p / sum y | sum p / sum true p | over oracle's | AUC | log loss | above oracle, paired by seed | by day | worse than oracle in |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for method in methods:
        above = column(method, "log_loss") - oracle
        cells_ = [_mean_se(column(method, key)) for key in ("calibration", "over_truth", "over_oracle", "auc")]
        cells_ += [_mean_se(column(method, "log_loss"), 5), _by_seed(above), _by_day(list(runs.values()), method)]
        print(f"| `{method}` | {' | '.join(cells_)} | {int((above > 0).sum())} of {len(above)} |")
    print("\n| method | share from window: mean | by seed | from pre-trained: mean | by seed |")
    print("|---|---|---|---|---|")
    for method in methods:
        shares = [(start - column(method, "log_loss")) / (start - oracle) for start in (window, pretrained)]
        told = [f"{_mean_se(share)} | {', '.join(f'{each:.2f}' for each in share)}" for share in shares]
        print(f"| `{method}` | {' | '.join(told)} |")
    s = np.array([of["oracle"]["S"] for of in runs.values()])
    print(f"\n`window`'s sum p / sum true p is {_mean_se(column('window', 'over_truth'))}, 1 - S is {_mean_se(1 - s)}.")
    print(
        f"pCTR of `oracle`'s run over the truth, mean over clicks: {_mean_se(column('oracle', 'pctr_over_truth'))}; by p ctr / pCTR "
        f"evidence would be taught to {_mean_se(column('oracle', 'evidence_would_be'))} of the truth."
    )
    ordered = {
        seed: _loss(of, "pretrained")
        > _loss(of, "window")
        > max(_loss(of, name) for name in methods if name not in ("pretrained", "window"))
        for seed, of in runs.items()
    }
    print(f"pre-trained above window above every other in log loss: {ordered}")
    print("\nsum p / sum true p by day of the stream, mean over seeds:")
    for method in methods:
        days = min(len(of[method]["by_day"]["sum_p"]) for of in runs.values())
        ratio = [
            np.mean(
                [of[method]["by_day"]["sum_p"][day] / of[method]["by_day"]["sum_true"][day] for of in runs.values()]
            )
            for day in range(days)
        ]
        print(f"    {method:10s} {' '.join(f'{each:.2f}' for each in ratio)}")


def _is_whole(line: Line | None) -> bool:
    return line is not None and not line.get("ended")


def _loss(of: Mapping[str, Line], method: str) -> float:
    return float(of[method]["log_loss"])


def _mean_se(values: Float64, digits: int = 3) -> str:
    """Mean and standard error over seeds."""
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / math.sqrt(len(values)):.{digits}f}"


def _by_seed(values: Float64) -> str:
    """Mean with its 95 % interval by Student's t over seeds."""
    if len(values) < 2:
        return f"{values.mean():.5f}"
    arm = _STUDENT[min(len(values) - 1, 9)] * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.5f} ({values.mean() - arm:.5f} to {values.mean() + arm:.5f})"


def _by_day(runs: Sequence[Mapping[str, Line]], method: str) -> str:
    """The 95 % interval of the log loss above oracle's, days of all seeds drawn whole and paired, as `compare` draws days."""
    own, oracle, clicks = (
        np.concatenate([np.array(of[name]["by_day"][key][FROM_DAY:]) for of in runs])
        for name, key in ((method, "sum_log_loss"), ("oracle", "sum_log_loss"), ("oracle", "clicks"))
    )
    told = clicks > 0
    if int(told.sum()) < LEAST_DAYS:
        return "too few days"
    estimate = Days(int(told.sum())).ratio((own - oracle)[told], clicks[told]).estimate("")
    return f"{estimate.low:.5f} to {estimate.high:.5f}"
