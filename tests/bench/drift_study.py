"""Methods in a world that drifts by 8 degrees a day, beside the truth: 14 days, the first week pre-trains, the second is streamed.

    drift_study.py OUT [--impressions N] [--seeds 1,2,3,4,5] [--windows 15,60] [--objectives composed] [--rates high|own] [--processes 2]
    drift_study.py OUT --summary                                   what the cells that are there say

A cell is a world (seed, w_o, objective), kept under OUT/cells when it is whole; every figure is from the fourth day of the stream on. Rates "high" are
pCTR .1 and pCVR .2, as in the other studies: five times the conversions of "own" (.04 and .1, what `afterclick generate` has).

A cell of a million impressions takes about 6 minutes of a processor and 3 GiB ("high", ten methods; two thirds of it with "own"). Where that is too long leave out
`defuse` and `mature` with --methods; `oracle`, `window` and `pretrained` are always there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from cells import Cell, Line, run_cells
from drift_summary import print_summary
from study_line import Course, changed, log_of, settings_of

from models.batch import Float64
from streaming.lab.compare.figures import Grouped, summed
from streaming.lab.compare.stream import as_compared
from streaming.lab.delays import conversion_delay_cdf
from streaming.lab.world import World

MINUTE_MS = 60_000
METHODS = ("fnw", "es_dfm", "defer", "defuse", "ddfm", "survival", "mature")
ALWAYS = ("oracle", "window", "pretrained")
RATES: dict[str, dict[str, float]] = {"high": {"ctr": 0.1, "cvr": 0.2}, "own": {}}
FROM_DAY = 3
DRIFT_DEGREES = 8.0


def figures(course: Course, p: Float64, pctr: Float64, oracle: Float64) -> Line:
    """What predictions come to from the fourth day on, and day by day as sums, which add up."""
    scored = ~np.isnan(p) & ~np.isnan(oracle) & (course.days >= 0)
    y, days, own = course.clicks.label[scored].astype(np.float64), course.days[scored], p[scored]
    true, count = course.pcvr[scored], int(days.max()) + 1
    late = days >= FROM_DAY
    whole = Grouped.of(own[late], y[late], np.zeros(int(late.sum()), np.int64), 1)
    daily = Grouped.of(own, y, days, count)
    of_ctr = pctr[scored][late] / course.pctr[scored][late]
    return {
        "clicks": int(whole.clicks[0]),
        "conversions": int(whole.positives[0]),
        "log_loss": float(whole.sum_log_loss[0] / whole.clicks[0]),
        "auc": float(whole.auc[0]),
        "calibration": float(whole.sum_p[0] / whole.positives[0]),
        "over_truth": float(own[late].sum() / true[late].sum()),
        "over_oracle": float(own[late].sum() / oracle[scored][late].sum()),
        "pctr_over_truth": float(of_ctr.mean()),
        "evidence_would_be": float((true[late] / of_ctr).sum() / true[late].sum()),
        "by_day": {
            "clicks": daily.clicks.tolist(),
            "conversions": daily.positives.tolist(),
            "sum_log_loss": daily.sum_log_loss.tolist(),
            "sum_p": daily.sum_p.tolist(),
            "sum_true": summed(true, days, count).tolist(),
        },
    }


def late_share(course: Course, observation_window_ms: int, attribution_window_ms: int) -> float:
    """S, the share of conversions later than w_o, of the clicks that are scored, by the law they were drawn with."""
    some = course.days >= FROM_DAY
    came = conversion_delay_cdf(observation_window_ms, course.short_share[some], attribution_window_ms)
    return float(1 - np.average(came, weights=course.pcvr[some]))


def drift(
    out: Path, seed: int, impressions: int, minutes: int, objective: str, rates: str, methods: Sequence[str]
) -> Iterator[Line]:
    """One world under one w_o and objective, method by method."""
    world = World(seed=seed, impressions=impressions, drift_degrees_per_day=DRIFT_DEGREES, **RATES[rates])  # type: ignore[arg-type]
    log = log_of(out / f"drift-{rates}-{seed}-{impressions}", world)
    settings = settings_of(
        log,
        network={"seed": seed, "objective": objective},
        windows={"observation_window_ms": minutes * MINUTE_MS},
    )
    course = Course(log, out / f"{log.name}-plan-{minutes}-{objective}", settings, pretrain_days=7.0)
    initial = course.pretrained({"": settings})[""]
    s = late_share(course, minutes * MINUTE_MS, settings.windows.attribution_window_ms)
    oracle: Float64 | None = None
    for method in ("oracle", "window", *methods):
        own = as_compared(settings, method, seed)
        scores = course.run(course.stream(own), own, initial=initial)
        oracle = scores.p if oracle is None else oracle
        cost = {"cpu_seconds": round(scores.cpu_seconds, 1), "rows": scores.walk.rows, "ended": scores.walk.ended}
        yield {"method": method, "S": s, **figures(course, scores.p, scores.pctr, oracle), **cost}
    assert oracle is not None
    mature = changed(settings, labels={"method": "mature"})
    yield {"method": "pretrained", "S": s, **figures(course, *course.initial_scores(mature, initial), oracle)}


def name_of(seed: int, minutes: int, objective: str, rates: str, impressions: int) -> str:
    """What a cell is called."""
    return f"drift-{rates}-{impressions}-{objective}-wo{minutes}-seed{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--seeds", default="1,2,3,4,5", help="of worlds and networks")
    parser.add_argument("--windows", default="15,60", help="w_o in minutes")
    parser.add_argument("--objectives", default="composed", help="esmm, composed, both")
    parser.add_argument("--rates", default="high", choices=RATES)
    parser.add_argument("--methods", default=",".join(METHODS), help=f"beside {', '.join(ALWAYS)}")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time; each has one thread")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    args = parser.parse_args()
    seeds, windows = ([int(each) for each in text.split(",")] for text in (args.seeds, args.windows))
    methods = [method for method in args.methods.split(",") if method not in ALWAYS]
    cells, named = [], {}
    for objective in args.objectives.split(","):
        for minutes in windows:
            names = [name_of(seed, minutes, objective, args.rates, args.impressions) for seed in seeds]
            named[f"{objective}, w_o {minutes} min"] = dict(zip(seeds, names, strict=True))
            cells += [
                Cell(
                    name,
                    drift,
                    {
                        "out": args.out,
                        "seed": seed,
                        "impressions": args.impressions,
                        "minutes": minutes,
                        "objective": objective,
                        "rates": args.rates,
                        "methods": methods,
                    },
                )
                for seed, name in zip(seeds, names, strict=True)
            ]
    cells.sort(key=lambda cell: cell.args["seed"])  # whole seeds first: each is a comparison by itself
    failed = [] if args.summary else run_cells(cells, args.out, processes=args.processes)
    for title, group in named.items():
        print_summary(title, args.out, group)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; run it again to try them once more")


if __name__ == "__main__":
    main()
