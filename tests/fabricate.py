"""A run directory made up without a pipeline: a small world with known truth, and the files a replay of it would leave."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from models.cohorts import Cohorts
from models.completion_error import KnownCurve
from models.delay_edges import edges_ms
from models.early_calibration import early_calibration
from streaming.metrics import CohortMetrics, EarlyMetrics, HourMetrics, RunMetrics, TaskMetrics
from streaming.settings import Labels, Settings, Windows, dump

Floats = NDArray[np.float64]

HOUR = 3_600_000
DAY = 24 * HOUR
START = 1_717_200_000_000  # 2024-06-01 00:00 UTC
CLICK_WINDOW = 900_000
OBSERVATION_WINDOW = HOUR
ATTRIBUTION_WINDOW = 2 * DAY


class FabricatedRun(NamedTuple):
    """Where the run and its log lie, and the metrics that were written."""

    run: Path
    log: Path
    metrics: RunMetrics


def fabricate_run(
    root: Path,
    *,
    impressions: int = 3_000,
    days: float = 7.0,
    ctr: float = 0.06,
    cvr: float = 0.12,
    bias: float = 1.0,
    served_share: float = 0.0,
    identify: str = "{}",
    seed: int = 1,
) -> FabricatedRun:
    """Writes a run of `observed` labels and OUTCOMEs over a log whose truth is known.

    Args:
        root: where `run/` and `log/` are made.
        impressions: how many, spread over `days` with a daily rhythm; the watermark stops at the end of the log.
        ctr, cvr: mean true probabilities; 0 and 1 are meant literally.
        bias: what the model's odds of a conversion are multiplied by on the first day; fades over the days.
        served_share: share of the impressions that carried the prediction they were shown under.
        identify: impression ids, `{}` is the number.
        seed: of everything random.
    """
    random = np.random.default_rng(seed)
    day = random.random(impressions) * days
    day = np.sort(day + np.sin(2 * np.pi * day) / 12)  # quiet nights, busy middays
    shown = START + (day * DAY).astype(np.int64)
    pctr, pcvr = _spread(random, impressions, ctr, 0.9), _spread(random, impressions, cvr, 0.7)
    short_share = random.beta(4, 2, impressions)
    clicked = random.random(impressions) < pctr
    click = shown + np.minimum(random.exponential(40_000, impressions), CLICK_WINDOW).astype(np.int64)
    delay = np.where(
        random.random(impressions) < short_share,
        random.exponential(0.5 * HOUR, impressions),
        random.exponential(14 * HOUR, impressions),
    ).astype(np.int64)
    converts = clicked & (random.random(impressions) < pcvr) & (delay <= ATTRIBUTION_WINDOW)
    watermark = int(shown[-1]) - 10_000 if impressions else None
    model_ctr = _shift(pctr, random.normal(0, 0.25, impressions))
    model_cvr = _shift(pcvr, random.normal(0, 0.35, impressions) + np.log(bias) * np.exp(-day / 1.5))
    whose = np.where(random.random(impressions) < served_share, "served", "model")
    ids = [identify.format(number) for number in range(impressions)]

    examples: list[tuple[int, str, int, dict[str, object]]] = []
    predictions: list[dict[str, object]] = []
    edges = edges_ms(OBSERVATION_WINDOW, ATTRIBUTION_WINDOW)
    outcome: dict[int, bool] = {}
    labelled: list[int] = []
    reach = -1 if watermark is None else watermark
    for i in range(impressions):
        if shown[i] + CLICK_WINDOW >= reach:
            continue
        labelled.append(i)
        predictions.append(
            {
                "impression_id": ids[i],
                "event_time_ms": int(shown[i]),
                "pctr": float(model_ctr[i]),
                "pcvr": float(model_cvr[i]),
                "whose": str(whose[i]),
            }
        )
        due = int(shown[i]) + CLICK_WINDOW
        kappa = float(0.9 * (1 - np.exp(-day[i] / 0.3)))
        if not clicked[i]:
            examples.append((due, ids[i], 0, _example("UNCLICKED", "click", due, ids[i], int(shown[i]), neg=kappa)))
            continue
        facts = {"click_ms": int(click[i])}
        examples.append((due, ids[i], 0, _example("CLICKED", "click", due, ids[i], int(shown[i]), **facts)))
        known = {**facts, "conversion_ms": int(click[i] + delay[i]), "converted": True, "value": 19.5}
        slots = (
            ("observed", 1, int(click[i]) + OBSERVATION_WINDOW, OBSERVATION_WINDOW),
            ("outcome", 193, int(click[i]) + ATTRIBUTION_WINDOW, ATTRIBUTION_WINDOW),
        )
        for slot, order, slot_due, window in slots:
            if slot_due >= reach:
                continue
            positive = bool(converts[i] and delay[i] <= window)
            kind = "OUTCOME" if slot == "outcome" else "IMMEDIATE_POSITIVE" if positive else "OBSERVED_NEGATIVE"
            taught = {} if slot == "outcome" else {"pos": float(positive), "neg": float(not positive)}
            labels = known if positive else facts
            example = _example(kind, slot, slot_due, ids[i], int(shown[i]), **labels, **taught)
            examples.append((slot_due, ids[i], order, example))
            if slot == "outcome":
                outcome[i] = positive
        for k, edge in enumerate(edges):
            aged_due = int(click[i]) + edge
            if k and converts[i] and delay[i] <= edge and aged_due < reach:
                examples.append(
                    (aged_due, ids[i], 128 + k, _example("AGED", f"aged_{k}", aged_due, ids[i], int(shown[i]), **known))
                )
    examples.sort(key=lambda entry: entry[:3])
    rows = [example for *_, example in examples]
    for position, example in enumerate(rows):
        example["step"] = None if example["pos"] is None else 1 + position // 256

    metrics = _measure(shown, clicked, model_ctr, model_cvr, whose, labelled, outcome, reach)
    if labelled:
        at = np.array([i for i in labelled if clicked[i]], dtype=np.int64)
        metrics.early = _early(click, delay, converts, model_cvr, short_share, whose, at, reach)
    metrics.watermark_ms = watermark
    metrics.max_event_time_ms = None if watermark is None else watermark + 10_000
    metrics.events = {"impression": impressions, "click": int(clicked.sum()), "conversion": int(converts.sum())}
    metrics.examples = _count(str(example["kind"]) for example in rows)
    metrics.open_impressions = impressions - len(labelled) + int(clicked[labelled].sum()) - len(outcome)
    metrics.open_clicks = int(clicked[labelled].sum()) - len(outcome)
    metrics.open_predictions = metrics.open_clicks
    metrics.steps = 1 + len(rows) // 256 if rows else 0
    metrics.taught = sum(example["pos"] is not None for example in rows)
    metrics.kappa = 0.9 if rows else 0.0
    metrics.last_loss = 0.231 if rows else None
    metrics.embedding_rows = 412 if rows else 0
    metrics.weights_epoch, metrics.weights_version, metrics.cuts = (1, 12, 12) if rows else (0, 0, 0)

    run, log = root / "run", root / "log"
    run.mkdir(parents=True)
    log.mkdir()
    write_frames(run / "examples.jsonl.zst", rows)
    write_frames(run / "predictions.jsonl.zst", predictions)
    windows = Windows(
        click_window_ms=CLICK_WINDOW,
        observation_window_ms=OBSERVATION_WINDOW,
        attribution_window_ms=ATTRIBUTION_WINDOW,
    )
    (run / "settings.toml").write_text(dump(Settings(windows=windows, labels=Labels(method="window"))))
    _write_side_outputs(run, metrics, ids, shown)
    (run / "metrics.json").write_bytes(msgspec.json.encode(metrics))
    truth = {"impression_id": ids, "event_time_ms": shown, "pctr": pctr, "pcvr": pcvr, "short_share": short_share}
    _write_truth(log / "truth.parquet", truth)
    return FabricatedRun(run, log, metrics)


def write_frames(path: Path, rows: Iterable[dict[str, object]], *, rows_a_frame: int = 500) -> None:
    """Lines of JSON as several zstandard frames one behind the other."""
    lines = [msgspec.json.encode(row) + b"\n" for row in rows]
    with path.open("wb") as file:
        for start in range(0, len(lines), rows_a_frame):
            file.write(zstandard.compress(b"".join(lines[start : start + rows_a_frame])))


def _spread(random: np.random.Generator, n: int, mean: float, width: float) -> Floats:
    """Probabilities around a mean; exactly 0 or 1 if that is the mean."""
    if mean in (0.0, 1.0):
        return np.full(n, mean)
    return _shift(np.full(n, mean), random.normal(0, width, n) - width**2 / 2 * (1 - 2 * mean))


def _shift(p: Floats, logits: Floats) -> Floats:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return 1 / (1 + np.exp(-np.log(p / (1 - p)) - logits))


def _example(
    kind: str, slot: str, due_ms: int, impression_id: str, impression_ms: int, **rest: object
) -> dict[str, object]:
    return {
        "kind": kind,
        "slot": slot,
        "p": 0,
        "due_ms": due_ms,
        "impression_id": impression_id,
        "impression_ms": impression_ms,
        "click_ms": None,
        "conversion_ms": None,
        "converted": False,
        "value": None,
        "pos": 1.0 if kind == "CLICKED" else 0.0 if kind == "UNCLICKED" else None,
        "neg": 0.0 if kind == "CLICKED" else None,
        **rest,
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _measure(
    shown: NDArray[np.int64],
    clicked: NDArray[np.bool_],
    model_ctr: Floats,
    model_cvr: Floats,
    whose: NDArray[np.str_],
    labelled: list[int],
    outcome: dict[int, bool],
    reach: int,
) -> RunMetrics:
    tasks: dict[str, dict[str, TaskMetrics]] = {}
    hours: list[HourMetrics] = []
    unclicked = [i for i in labelled if not clicked[i]]
    scored = {
        "ctr": (labelled, [bool(clicked[i]) for i in labelled], model_ctr, CLICK_WINDOW),
        "cvr": (list(outcome), list(outcome.values()), model_cvr, CLICK_WINDOW + ATTRIBUTION_WINDOW),
        "ctcvr": (
            unclicked + list(outcome),
            [False] * len(unclicked) + list(outcome.values()),
            model_ctr * model_cvr,
            CLICK_WINDOW + ATTRIBUTION_WINDOW,
        ),
    }
    for task, (rows, labels, model, wait) in scored.items():
        at = np.array(rows, dtype=np.int64)
        y, p, hour = np.array(labels, dtype=float), model[at], shown[at] - shown[at] % HOUR
        for who in sorted(set(whose[at])):
            mine = whose[at] == who
            complete = mine if task == "cvr" else mine & (hour + HOUR + wait < reach)
            tasks.setdefault(task, {})[str(who)] = measure(p[complete], y[complete])
            for start in np.unique(hour[mine]):
                one = mine & (hour == start)
                sums = measure(p[one], y[one])
                hours.append(
                    HourMetrics(
                        hour_ms=int(start),
                        task=task,
                        whose=str(who),
                        n=sums.n,
                        sum_p=sums.sum_p,
                        sum_y=sums.sum_y,
                        sum_log_loss=sums.sum_log_loss,
                        is_complete=bool(start + HOUR + wait < reach),
                    )
                )
    return RunMetrics(tasks=tasks, hours=sorted(hours, key=lambda hour: (hour.hour_ms, hour.task, hour.whose)))


def _early(
    click: NDArray[np.int64],
    delay: NDArray[np.int64],
    converts: NDArray[np.bool_],
    model_cvr: Floats,
    short_share: Floats,
    whose: NDArray[np.str_],
    at: NDArray[np.int64],
    reach: int,
) -> dict[str, EarlyMetrics]:
    """Early calibration by the law that delays were drawn from, of the clicks `at`; their labels are out up to `reach`."""
    edges = edges_ms(OBSERVATION_WINDOW, ATTRIBUTION_WINDOW)
    ages = np.array(edges) / HOUR
    quick, slow = 1 - np.exp(-ages / 0.5), 1 - np.exp(-ages / 14)
    curve = (2 * quick + slow) / (2 * quick[-1] + slow[-1])  # short_share is 2/3 in the mean
    known = KnownCurve.exactly(curve)
    found: dict[str, EarlyMetrics] = {}
    for who in sorted(set(whose[at])):
        mine = at[whose[at] == who]
        completed = short_share[mine, None] * quick + (1 - short_share[mine, None]) * slow
        cohorts = Cohorts(edges, settles_after_ms=CLICK_WINDOW)
        cohorts.add_clicks(click[mine], model_cvr[mine], completed / completed[:, -1:], curve=curve)
        came = mine[converts[mine] & (click[mine] + delay[mine] < reach)]
        cohorts.add_conversions(click[came], delay[came])
        cohorts.fold(reach)
        early = early_calibration(cohorts, reach, known)
        if early.total is not None:
            found[str(who)] = EarlyMetrics(
                total=CohortMetrics(start_ms=None, age_ms=None, **early.total._asdict()),
                ages=[
                    CohortMetrics(start_ms=None, age_ms=one.age_ms, **one.calibration._asdict()) for one in early.ages
                ],
                cohorts=[
                    CohortMetrics(start_ms=one.start_ms, age_ms=one.age_ms, **one.calibration._asdict())
                    for one in early.cohorts
                ],
            )
    return found


def measure(p: Floats, y: Floats, *, bins: int = 10) -> TaskMetrics:
    """The figures of a task, written in plain numpy. AUC counts every pair: for thousands of rows, not more."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    reliability = [(float(p[part].mean()), float(y[part].mean()), len(part)) for part in parts]
    n, sum_p, sum_y = len(p), float(p.sum()), float(y.sum())
    log_loss = float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).sum())
    rate = sum_y / n if n else 0.0
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else None
    ranks = np.searchsorted(np.sort(p), p, side="left") + np.searchsorted(np.sort(p), p, side="right")
    positives = int(sum_y)
    pairs = positives * (n - positives)
    above = ranks[y == 1].sum() / 2 - positives * positives / 2
    return TaskMetrics(
        n=n,
        sum_p=sum_p,
        sum_y=sum_y,
        sum_log_loss=log_loss,
        calibration=sum_p / sum_y if sum_y else None,
        log_loss=log_loss / n if n else None,
        normalized_entropy=None if entropy is None else float(log_loss / n / entropy),
        ece=sum(count * abs(mean_p - mean_y) for mean_p, mean_y, count in reliability) / n if n else None,
        auc=float(above / pairs) if pairs else None,
        auc_error=0.001 if pairs else None,
        reliability=reliability,
    )


def _write_side_outputs(run: Path, metrics: RunMetrics, ids: list[str], shown: NDArray[np.int64]) -> None:
    hostile = '{"impression_id": "<script>alert(1)</script>", "features": {"ua": "\\"><img src=x onerror=alert(2)>"}}'
    doors = {
        "dead_letters": [("impression", "event_time_ms is no int", 3), ("malformed", "no JSON: unexpected end", 2)],
        "future": [("click", "more than 600000 ms ahead of the next 16 records", 1)],
        "duplicates": [("click", "an earlier click makes the label", 14), ("conversion", "redelivery", 4)],
        "late": [("click", "behind the watermark", 7), ("conversion", "behind the watermark", 11)],
        "out_of_window": [("click", "later than click_window_ms", 9)],
        "orphans": [("conversion", "no click: view-through", 23)],
    }
    for door, entries in doors.items():
        if not ids:
            (run / f"{door}.jsonl").write_bytes(b"")
            continue
        metrics.side_outputs[door] = {kind: count for kind, _, count in entries}
        lines = [
            {
                "door": door,
                "kind": kind,
                "reason": reason,
                "at": f"{kind}s.jsonl:{10 * line + 1}",
                "impression_id": None if door == "dead_letters" else ids[line % len(ids)],
                "event_time_ms": None if door == "dead_letters" else int(shown[line % len(ids)]),
                "watermark_ms": int(shown[line % len(ids)]) + 20_000,
                "record": hostile
                if line == 0
                else json.dumps({"impression_id": ids[line % len(ids)], "event_time_ms": 1}),
            }
            for kind, reason, count in entries
            for line in range(count)
        ]
        (run / f"{door}.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    if ids:
        metrics.events["malformed"] = 2
        metrics.feature_faults = {"price": 3}
        metrics.refused_batches = {"loss_limit": 1}


def _write_truth(path: Path, columns: dict[str, object]) -> None:
    database = duckdb.connect()
    names = list(columns)
    types = {"impression_id": "varchar", "event_time_ms": "bigint"}
    database.execute(
        "create table truth as select "
        + ", ".join(f"unnest(${name}::{types.get(name, 'double')}[]) as {name}" for name in names),
        {name: values if isinstance(values, list) else np.asarray(values).tolist() for name, values in columns.items()},
    )
    database.execute(f"copy truth to '{path}' (format parquet)")
    database.close()
