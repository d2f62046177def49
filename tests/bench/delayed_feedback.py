"""What delayed-feedback methods do where traffic grows, a stream starts, the delay curve is wrong or steps are large; and what they cost.

    delayed_feedback.py growth|start|survival_curve|steps|cost OUT [--impressions N] [--seeds 0,1] [--methods a,b,c] [--processes 2]

Each study simulates its own logs and gives a JSON line a run. `over_oracle` is sum p / sum p of `oracle` on the same clicks, `over_truth` the same over
the probabilities that conversions were drawn with, `calibration` over the conversions themselves, with `se` from their number alone.

Its cells (a seed, with growth a rate and an objective, with start a kind of start) are run in processes of their own and kept under OUT/cells: stop it and
go on when you like. `soft_labels:SOFT` may be among the methods of `start`.
A million impressions, reckoned from cells of 200,000: `growth` some 10 minutes of a processor a cell with "esmm", 8 with "composed" (5 and 4 with --only-on); `start` 9 from the log's
start, 6 from an initial model; up to 2.5 GiB each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, Line, run_cells
from given_delays import walk_with_truth
from study_line import Course, Scores, changed, log_of, settings_of

from models.batch import Bool, Float64
from models.delay import METHODS, method_of
from streaming.lab.compare.stream import as_compared
from streaming.lab.world import World

SOFT, NAIVE = "soft_labels:SOFT", "soft_labels:NAIVE"
MINUTE_MS = 60_000
ALIKE = ("window", "mature", "fnw", "es_dfm", "defer", "defuse", "ddfm", "survival")


def world(seed: int, impressions: int, **dials: Any) -> World:
    """More clicks and conversions in an impression than is usual: 2,000 conversions in 100,000."""
    return World(seed=seed, impressions=impressions, **({"ctr": 0.1, "cvr": 0.2} | dials))


def told(course: Course, scores: Scores, oracle: Float64, some: Bool) -> Line:
    """Calibration over some of the clicks."""
    both = some & ~np.isnan(scores.p) & ~np.isnan(oracle)
    p, conversions = scores.p[both].sum(), course.clicks.label[both].sum()
    return {
        "conversions": int(conversions),
        "calibration": round(float(p / conversions), 4) if conversions else None,
        "se": round(float(1 / np.sqrt(conversions)), 4) if conversions else None,
        "over_truth": round(float(p / course.pcvr[both].sum()), 4),
        "over_oracle": round(float(p / oracle[both].sum()), 4),
        "ended": scores.walk.ended,
    }


def by_day(course: Course, scores: Scores, oracle: Float64, key: str) -> list[Any]:
    """One of the figures that are told, for each day of the stream."""
    return [told(course, scores, oracle, course.days == day)[key] for day in range(int(course.days[-1]) + 1)]


GROWTH_CASES = {
    "esmm": ((True, True), (True, False), (False, False)),  # kappa, rho
    "composed": ((True, True), (True, False)),
}


def growth(
    out: Path, seed: int, impressions: int, methods: Sequence[str], rate: float, objective: str, only_on: bool
) -> Iterator[Line]:
    """Traffic that grows by so much a day, with kappa and rho on and off, from the fourth day of the stream on."""
    cases = [case for case in GROWTH_CASES[objective] if case == (True, True) or not only_on]
    log = log_of(out / f"growth{rate}-{seed}-{impressions}", world(seed, impressions, growth_per_day=rate))
    settings = settings_of(log, network={"seed": seed, "objective": objective})
    course = Course(log, out / f"{log.name}-plan-{objective}", settings)
    initial = course.pretrained({"": settings})[""]
    oracle: Scores | None = None
    for method in ("oracle", *methods):
        stream = course.stream(as_compared(settings, method, seed))
        for kappa, rho in cases:
            if method == "oracle" and not (kappa and rho):
                continue
            own = changed(settings, labels={"kappa": kappa, "growth": rho})
            scores = course.run(stream, as_compared(own, method, seed), initial=initial)
            oracle = oracle or scores
            yield {
                "growth_per_day": rate,
                "method": method,
                "objective": objective,
                "kappa": kappa,
                "rho": rho,
                **told(course, scores, oracle.p, course.days >= 3),
                "by_day": by_day(course, scores, oracle.p, "over_oracle"),
            }


def start(out: Path, seed: int, impressions: int, methods: Sequence[str], kind: str, objective: str) -> Iterator[Line]:
    """A start without history: a fresh learner at the log's start, and an initial model whose join starts empty; by day."""
    log = log_of(out / f"start-{seed}-{impressions}", world(seed, impressions))
    settings = settings_of(log, network={"seed": seed, "objective": objective})
    days = 0.0 if kind == "cold" else 7.0
    course = Course(log, out / f"{log.name}-plan-{kind}-{objective}", settings, pretrain_days=days)
    initial = course.pretrained({"": settings})[""] if days else None
    oracle: Scores | None = None
    for method in ("oracle", *methods):
        own = as_compared(settings, method, seed)
        scores = course.run(course.stream(own, is_primed=False), own, initial=initial)
        oracle = oracle or scores
        keys = ("conversions", "calibration", "over_truth", "over_oracle")
        columns = {key: by_day(course, scores, oracle.p, key) for key in keys}
        yield {"start": kind, "objective": objective, "method": method, **columns, "ended": scores.walk.ended}


def survival_curve(out: Path, seed: int, impressions: int, methods: Sequence[str]) -> Iterator[Line]:
    """S learned, exact, and off by .2 either way, under "composed"."""
    log = log_of(out / f"delays-{seed}-{impressions}", world(seed, impressions))
    settings = settings_of(log, network={"seed": seed, "objective": "composed"})
    course = Course(log, out / f"{log.name}-plan", settings)
    initial, short_share = course.pretrained({"": settings})[""], course.short_share_by_impression()
    oracle: Scores | None = None
    for method in ("oracle", *methods):
        own = as_compared(settings, method, seed)
        stream = course.stream(own)
        found = []
        for name, off in (("learned", None), ("exact", 0.0), ("more", 0.2), ("less", -0.2)):
            if not method_of(method).uses_delay and off is not None:
                continue
            scores = (
                course.run(stream, own, initial=initial)
                if off is None
                else course.run(stream, own, initial=initial, walk_of=walk_with_truth(short_share, off=off))
            )
            oracle = oracle or scores
            line, late = (told(course, scores, oracle.p, course.days >= day) for day in (0, 3))
            found.append((line["over_truth"], late["over_truth"]))
            yield {"method": method, "S": name, **line, "over_truth_from_day_3": late["over_truth"]}
        if len(found) > 1:
            spans = [round(max(some) - min(some), 4) for some in zip(*found, strict=True)]
            yield {"method": method, "span": spans[0], "span_from_day_3": spans[1]}


def steps(out: Path, seed: int, impressions: int, methods: Sequence[str]) -> Iterator[Line]:
    """Learning rates once and three times the default, w_o of 15 minutes, twelve horizons, traffic that grows by 23 % a day."""
    log = log_of(out / f"growth0.23-{seed}-{impressions}", world(seed, impressions, growth_per_day=0.23))
    plain = settings_of(
        log, network={"seed": seed}, windows={"observation_window_ms": 15 * MINUTE_MS}, labels={"horizons": 12}
    )
    course = Course(log, out / f"{log.name}-plan-steps", plain)
    rates = plain.optimizer.embedding_learning_rate, plain.optimizer.dense_learning_rate
    cases = {
        (objective, times): changed(
            plain,
            network={"objective": objective},
            optimizer={"embedding_learning_rate": times * rates[0], "dense_learning_rate": times * rates[1]},
        )
        for objective in ("esmm", "composed")
        for times in (1, 3)
    }
    initial = course.pretrained({f"{case}": settings for case, settings in cases.items()})
    oracle: dict[tuple[str, int], Scores] = {}
    for method in ("oracle", *methods):
        stream = course.stream(as_compared(plain, method, seed))
        for case, settings in cases.items():
            scores = course.run(stream, as_compared(settings, method, seed), initial=initial[f"{case}"])
            oracle = {case: scores} | oracle
            line = told(course, scores, oracle[case].p, course.days >= 3)
            yield {
                "method": method,
                "objective": case[0],
                "rates_times": case[1],
                **line,
                "by_day": by_day(course, scores, oracle[case].p, "over_oracle"),
            }


def cost(out: Path, seed: int, impressions: int, methods: Sequence[str]) -> Iterator[Line]:
    """Events that teach conversions, rows of any kind and processor time of each method, beside `window`'s."""
    log = log_of(out / f"cost-{seed}-{impressions}", World(seed=seed, impressions=impressions))
    settings = settings_of(log, network={"seed": seed, "objective": "composed"})
    initial: Any = None
    window: float | None = None
    for method in ("window", *(name for name in methods if name != "window"), "oracle"):
        course = Course(
            log, out / f"{log.name}-plan", settings
        )  # anew: what is read once would be free for all but the first
        initial = initial or course.pretrained({"": settings})[""]
        own, began = as_compared(settings, method, seed), time.process_time()
        stream = course.stream(own)
        reading = time.process_time() - began
        scores = course.run(stream, own, initial=initial if METHODS[method].form == "pairs" else None)
        walk, whole = scores.walk, reading + scores.cpu_seconds
        window = window or whole
        yield {
            "method": method,
            "events_a_click": round(walk.conversion_events / walk.clicks, 3),
            "rows_a_click": round(walk.rows / walk.clicks, 3),
            "effective_share": round(walk.weight**2 / walk.weight_square / walk.conversion_events, 3),
            "cpu_seconds": round(whole, 1),
            "throughput_over_window": round(window / whole, 3),
        }


STUDIES: dict[str, tuple[Callable[..., Iterator[Line]], tuple[str, ...]]] = {
    "growth": (growth, ALIKE[1:]),
    "start": (start, ALIKE),
    "survival_curve": (survival_curve, ("es_dfm", "defer", "defuse", "ddfm", "survival")),
    "steps": (steps, ("survival", SOFT, NAIVE)),
    "cost": (cost, (*ALIKE, "fnc", "bi_defuse", "dfm")),
}


def parts_of(args: argparse.Namespace) -> dict[str, Mapping[str, Any]]:
    """What each cell of a study has beside its seed, by what its name says of it."""
    objectives = args.objectives.split(",") if args.objectives else None
    if args.study == "growth":
        rates = [float(rate) for rate in args.rates.split(",")]
        on = {"only_on": args.only_on}
        return {
            f"-{rate:g}-{objective}{'-on' * args.only_on}": {"rate": rate, "objective": objective} | on
            for rate in rates
            for objective in objectives or GROWTH_CASES
        }
    if args.study == "start":
        return {
            f"-{kind}-{objective}": {"kind": kind, "objective": objective}
            for kind in args.starts.split(",")
            for objective in objectives or ("esmm",)
        }
    return {"": {}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--impressions", type=int, default=300_000)
    parser.add_argument("--seeds", default="0", help="of worlds and networks, with commas between")
    parser.add_argument("--methods", help="with commas between; `oracle` is always there")
    parser.add_argument("--rates", default="0.05,0.23", help="of `growth`: so much a day, with commas between")
    parser.add_argument("--objectives", help="of `growth` and `start`: with commas between")
    parser.add_argument("--starts", default="cold,pretrained", help="of `start`: with commas between")
    parser.add_argument("--only-on", action="store_true", help="of `growth`: with kappa and rho both on alone")
    parser.add_argument("--processes", type=int, default=1, help="cells at a time; each has one thread")
    args = parser.parse_args()
    study, methods = STUDIES[args.study]
    some = args.methods.split(",") if args.methods else list(methods)
    of_methods = f"-{'-'.join(some)}".replace(":", ".") if args.methods else ""
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(
            f"{args.study}-{seed}-{args.impressions}{name}{of_methods}",
            study,
            {"out": args.out, "seed": seed, "impressions": args.impressions, "methods": some, **part},
        )
        for seed in map(int, args.seeds.split(","))
        for name, part in parts_of(args).items()
    ]
    if failed := run_cells(cells, args.out, processes=args.processes):
        raise SystemExit(f"failed: {', '.join(failed)}; run it again to try them once more")


if __name__ == "__main__":
    main()
