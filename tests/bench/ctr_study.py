"""Why pCVR is too high under "esmm": the same runs with the true pCTR in the product.

    ctr_study.py OUT [--impressions N] [--seeds 0] [--methods oracle,es_dfm,ddfm,survival] [--rates high|own] [--drift 8] [--processes 1]

Each method goes once under each of: `esmm`; `detached`, the same but conversions do not teach pCTR; `given`, the true pCTR in the product;
`both`; `composed`. Everything else is alike: the world (rates "high" are pCTR .1 and pCVR .2, "own" .04 and .1), the start from a model that the
same objective has pre-trained, with w_o an hour, w_a three days, seven days streamed. Figures are from the fourth of them on.

`evidence_would_be` is the mean of p ctr / pCTR over that of p, over clicks as they were scored: where a model free at every x would settle.
`weighted` is calibration with the weight 1 - pCVR that a product loss gives a residual, `weighted_by_pctr` the same of pCVR pCTR / ctr: what it brings to 1.
`spread_would_be` is where that leaves plain calibration: 1 + cov(pCVR - p, pCVR) / ((1 - mean pCVR) mean p).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, Line, run_cells
from drift_study import RATES
from given_ctr import TrueCtr, walk_given
from past_clicks import clicks_over_expected
from study_line import Course, Scores, changed, log_of, settings_of

from models.batch import Float64
from streaming.lab.compare.runs import Walk
from streaming.lab.compare.stream import as_compared
from streaming.lab.world import World

CASES = {"esmm": "esmm", "detached": "esmm", "given": "esmm", "both": "both", "composed": "composed"}
METHODS = ("oracle", "es_dfm", "ddfm", "survival")
FROM_DAY = 3


def told(course: Course, scores: Scores, oracle: Float64, had: Float64) -> Line:
    """Calibration of pCVR and pCTR from the fourth day on; `had` is the clicks of each one's item beside what was to be expected."""
    some = ~np.isnan(scores.p) & (course.days >= FROM_DAY)
    p, true = scores.p[some], course.pcvr[some]
    over_ctr = scores.pctr[some] / course.pctr[some]
    y = course.clicks.label[some]
    thirds, fourths = np.array_split(np.argsort(over_ctr), 3), np.array_split(np.argsort(had[some], kind="stable"), 4)
    weight = 1 - p  # of a residual in a product loss
    return {
        "conversions": int(y.sum()),
        "over_truth": float(p.sum() / true.sum()),
        "over_oracle": float(p.sum() / oracle[some].sum()),
        "log_loss": float(-np.where(y == 1, np.log(p), np.log1p(-p)).mean()),
        "pctr_over_truth": float(over_ctr.mean()),
        "evidence_would_be": float((true / over_ctr).sum() / true.sum()),
        "weighted": float((weight * p).sum() / (weight * true).sum()),
        "weighted_by_pctr": float((weight * p * over_ctr).sum() / (weight * true).sum()),
        "spread_would_be": float(1 + np.cov(p - true, p)[0, 1] / ((1 - p.mean()) * true.mean())),
        "by_third_of_pctr_over_truth": [
            [float(over_ctr[rows].mean()), float(p[rows].sum() / true[rows].sum())] for rows in thirds
        ],
        "by_fourth_of_past_clicks_over_expected": [
            [float(had[some][rows].mean()), float(p[rows].sum() / true[rows].sum())] for rows in fourths
        ],
        "by_day": [
            float(scores.p[day].sum() / course.pcvr[day].sum())
            for number in range(int(course.days.max()) + 1)
            if (day := ~np.isnan(scores.p) & (course.days == number)).any()
        ],
        "ended": scores.walk.ended,
    }


def given_ctr(
    out: Path, seed: int, impressions: int, rates: str, drift: float, methods: Sequence[str], cases: Sequence[str]
) -> Iterator[Line]:
    """A world under each case, method by method."""
    world = World(seed=seed, impressions=impressions, drift_degrees_per_day=drift, **RATES[rates])  # type: ignore[arg-type]
    log = log_of(out / f"ctr-{rates}-{drift:g}-{seed}-{impressions}", world)
    plain = settings_of(log, network={"seed": seed})
    course = Course(log, out / f"{log.name}-plan", plain, pretrain_days=7.0)
    truth, had = TrueCtr(log), clicks_over_expected(log, course.names)
    initials: dict[str, Any] = {}
    oracles: dict[str, Float64] = {}
    for method in ("oracle", *(name for name in methods if name != "oracle")):
        stream = course.stream(as_compared(plain, method, seed))
        for case in cases:
            settings = changed(plain, network={"objective": CASES[case]})
            if CASES[case] not in initials:
                initials |= course.pretrained({CASES[case]: settings})
            own = as_compared(settings, method, seed)
            walk_of = {"given": walk_given(truth), "detached": walk_given(None)}.get(case, Walk)
            scores = course.run(stream, own, initial=initials[CASES[case]], walk_of=walk_of)
            oracles.setdefault(case, scores.p)
            yield {"method": method, "case": case, **told(course, scores, oracles[case], had)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--seeds", default="0", help="of worlds and networks, with commas between")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rates", default="high", choices=RATES)
    parser.add_argument("--drift", type=float, default=8.0, help="degrees a day")
    parser.add_argument("--processes", type=int, default=1, help="cells at a time; each has one thread")
    args = parser.parse_args()
    methods, cases = args.methods.split(","), args.cases.split(",")
    of = "" if args.methods == ",".join(METHODS) and args.cases == ",".join(CASES) else f"-{'-'.join(methods + cases)}"
    todo = [
        Cell(
            f"ctr-{args.rates}-{args.drift:g}-{seed}-{args.impressions}{of}",
            given_ctr,
            {
                "out": args.out,
                "seed": seed,
                "impressions": args.impressions,
                "rates": args.rates,
                "drift": args.drift,
                "methods": methods,
                "cases": cases,
            },
        )
        for seed in map(int, args.seeds.split(","))
    ]
    if failed := run_cells(todo, args.out, processes=args.processes):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
