"""Why pCVR is too high under "esmm": the same runs with the true pCTR in the product.

    ctr_study.py OUT [--impressions N] [--seeds 0] [--methods oracle,es_dfm,ddfm,survival] [--processes 1]

Each method goes once under each of: `esmm`; `detached`, the same but conversions do not teach pCTR; `given`, the true pCTR in the product;
`both`; `composed`. Everything else is alike: the world (pCTR .1, pCVR .2, 2 degrees of drift a day), the start from a model that the same
objective has pre-trained, with w_o an hour, w_a three days, seven days streamed. Figures are from the fourth of them on.

`evidence_would_be` is the mean of p ctr / pCTR over that of p, over clicks as they were scored: where a model free at every x would settle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, Line, run_cells
from delayed_feedback import world
from given_ctr import TrueCtr, walk_given
from settled_negatives import NAME as SETTLED
from settled_negatives import walk_settled
from study_line import Course, Scores, changed, log_of, settings_of

from models.batch import Float64
from models.trainer import Learner
from streaming.lab.compare.runs import Walk
from streaming.lab.compare.stream import as_compared
from streaming.settings import Settings

CASES = {"esmm": "esmm", "detached": "esmm", "given": "esmm", "both": "both", "composed": "composed"}
METHODS = ("oracle", "es_dfm", "ddfm", "survival")
FROM_DAY = 3


def told(course: Course, scores: Scores, oracle: Float64) -> Line:
    """Calibration of pCVR and pCTR from the fourth day on."""
    some = ~np.isnan(scores.p) & (course.days >= FROM_DAY)
    p, true = scores.p[some], course.pcvr[some]
    over_ctr = scores.pctr[some] / course.pctr[some]
    y = course.clicks.label[some]
    thirds = np.array_split(np.argsort(over_ctr), 3)
    return {
        "conversions": int(y.sum()),
        "over_truth": float(p.sum() / true.sum()),
        "over_oracle": float(p.sum() / oracle[some].sum()),
        "log_loss": float(-np.where(y == 1, np.log(p), np.log1p(-p)).mean()),
        "pctr_over_truth": float(over_ctr.mean()),
        "evidence_would_be": float((true / over_ctr).sum() / true.sum()),
        "by_third_of_pctr_over_truth": [
            [float(over_ctr[rows].mean()), float(p[rows].sum() / true[rows].sum())] for rows in thirds
        ],
        "by_day": [
            float(scores.p[day].sum() / course.pcvr[day].sum())
            for number in range(int(course.days.max()) + 1)
            if (day := ~np.isnan(scores.p) & (course.days == number)).any()
        ],
        "ended": scores.walk.ended,
    }


def given_ctr(out: Path, seed: int, impressions: int, methods: Sequence[str], cases: Sequence[str]) -> Iterator[Line]:
    """A world under each case, method by method."""
    log = log_of(out / f"ctr-{seed}-{impressions}", world(seed, impressions))
    plain = settings_of(log, network={"seed": seed})
    course = Course(log, out / f"{log.name}-plan", plain, pretrain_days=7.0)
    truth = TrueCtr(log)
    initials: dict[str, Any] = {}
    oracles: dict[str, Float64] = {}
    for method in ("oracle", *(name for name in methods if name != "oracle")):
        known = "survival" if method == SETTLED else method
        stream = course.stream(as_compared(plain, known, seed))
        for case in cases:
            settings = changed(plain, network={"objective": CASES[case]})
            if CASES[case] not in initials:
                initials |= course.pretrained({CASES[case]: settings})
            own = as_compared(settings, known, seed)
            scores = course.run(stream, own, initial=initials[CASES[case]], walk_of=_walk_of(case, method, truth))
            oracles.setdefault(case, scores.p)
            yield {"method": method, "case": case, **told(course, scores, oracles[case])}


def _walk_of(case: str, method: str, truth: TrueCtr) -> Callable[[Settings, Learner], Walk]:
    if method != SETTLED:
        return {"given": walk_given(truth), "detached": walk_given(None)}.get(case, Walk)
    assert case not in ("given", "detached"), "one change at a time"
    return walk_settled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--seeds", default="0", help="of worlds and networks, with commas between")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--processes", type=int, default=1, help="cells at a time; each has one thread")
    args = parser.parse_args()
    methods, cases = args.methods.split(","), args.cases.split(",")
    of = "" if args.methods == ",".join(METHODS) and args.cases == ",".join(CASES) else f"-{'-'.join(methods + cases)}"
    todo = [
        Cell(
            f"ctr-{seed}-{args.impressions}{of}",
            given_ctr,
            {"out": args.out, "seed": seed, "impressions": args.impressions, "methods": methods, "cases": cases},
        )
        for seed in map(int, args.seeds.split(","))
    ]
    if failed := run_cells(todo, args.out, processes=args.processes):
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
