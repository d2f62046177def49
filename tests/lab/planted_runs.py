"""Comparisons with planted predictions: the directory that runs would leave, with biases and losses that are known by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from streaming.lab.compare.files import RunRecord

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START_MS = 1_717_200_000_000  # 2024-06-01T00:00Z

Columns = npt.NDArray[np.float64]


class Planted(NamedTuple):
    """A comparison's directory, and what it was made from: (C,) columns, and (C,) predictions by (method, seed)."""

    directory: Path
    click_ms: npt.NDArray[np.int64]
    label: Columns
    true_p: Columns
    predictions: dict[tuple[str, int], Columns]


class Method(NamedTuple):
    """How a planted method errs: `bias` is its calibration (a shift of odds would hide it), `noise` the deviation of its logit."""

    bias: float = 1.0
    noise: float = 0.0
    lag: float = 0.0  # amplitude of a daily swing of the bias
    events_per_click: float = 1.2
    ended: str | None = None
    scored_until: float = 1.0  # share of the stream's clicks


ORDINARY: dict[str, Method] = {
    "oracle": Method(noise=0.05, events_per_click=1.0),
    "pretrained": Method(bias=0.75, noise=0.6, events_per_click=0.0),
    "window": Method(bias=0.45, noise=0.06, events_per_click=1.0),
    "es_dfm": Method(noise=0.14, events_per_click=1.14),
    "survival": Method(noise=0.09, events_per_click=6.8),
}


def plant(
    directory: Path,
    methods: Mapping[str, Method] = ORDINARY,
    *,
    clicks: int = 12_000,
    days: int = 8,
    warm_days: int = 1,
    rate: float = 0.15,
    seeds: Sequence[int] = (0,),
    seed: int = 5,
) -> Planted:
    """Writes `clicks.safetensors` and `runs/`; the clicks of the first `warm_days` are scored by nobody."""
    random = np.random.default_rng(seed)
    click_ms = START_MS + np.sort(random.integers(0, days * DAY_MS, clicks))
    logit = np.log(rate / (1 - rate)) + random.normal(0, 1, clicks)
    true_p = 1 / (1 + np.exp(-logit))
    label = (random.random(clicks) < true_p).astype(np.float64)
    delay_ms = np.where(label == 1, random.exponential(6 * HOUR_MS, clicks), -1).astype(np.int64)
    (directory / "runs").mkdir(parents=True, exist_ok=True)
    columns = {"click_ms": click_ms, "label": label.astype(np.float32), "delay_ms": delay_ms}
    save_file(columns, directory / "clicks.safetensors")
    is_stream = click_ms >= START_MS + warm_days * DAY_MS
    place = np.where(is_stream, (click_ms - click_ms[is_stream][0]) / max(np.ptp(click_ms[is_stream]), 1), 0.0)
    day = (click_ms - START_MS) / DAY_MS
    predictions = {}
    for at, (name, method) in enumerate(methods.items()):
        for run_seed in seeds:
            own = np.random.default_rng((seed, at, run_seed))
            swing = 1 + method.lag * np.sin(day)
            p = 1 / (1 + np.exp(-(logit + own.normal(0, 1, clicks) * method.noise))) * method.bias * swing
            p = np.where(is_stream & (place <= method.scored_until), np.clip(p, 1e-6, 1 - 1e-6), np.nan)
            predictions[name, run_seed] = p
            stem = directory / "runs" / f"{name}-seed{run_seed}"
            save_file({"p": p}, stem.with_suffix(".safetensors"))
            events = int(clicks * method.events_per_click)
            record = RunRecord(
                method=name,
                seed=run_seed,
                seconds=40.0 + 6 * events / clicks + run_seed,
                rows=clicks * 20 + events if events else 0,
                clicks=clicks if events else 0,
                conversion_events=events,
                effective_sample_size=0.8 * events if events else None,
                kappa=0.97 if events else 0.0,
                ended=method.ended,
            )
            stem.with_suffix(".json").write_bytes(msgspec.json.encode(record))
    return Planted(directory, click_ms, label, true_p, predictions)
