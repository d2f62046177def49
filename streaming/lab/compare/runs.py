"""The runs of a comparison: pre-trained once a seed, then each method led through the same hours. Must not know a figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from models.batch import Float64, Inputs, Int64, rows_of
from models.delay import method_of
from models.trainer import Learner, Snapshot, StepReport
from streaming.batching import collate, collate_aged, collate_matured
from streaming.features import FeatureReader
from streaming.lab.compare.files import RUNS, RunRecord, read_clicks, refusing
from streaming.lab.compare.protocol import Plan, read_inputs, read_outcomes
from streaming.lab.compare.stream import HOUR_MS, Group, Stream, as_compared
from streaming.open_clicks import OpenClicks
from streaming.pipeline import learner_of
from streaming.settings import Settings

PRETRAINED, WINDOW, ORACLE = "pretrained", "window", "oracle"
INITIAL = "initial"

Tell = Callable[[float], object]
"""Called with how far a run has come, 0 to 1."""


class Task(NamedTuple):
    """One run: a method, or `pretrained`, with a seed."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.method}-seed{self.seed}"


def initial_of(method: str) -> str:
    """The method that pre-trains for another one: `mature`, whose labels are final, or itself where its heads are of its own kind.

    Example:
        >>> initial_of("survival"), initial_of("dfm")
        ('mature', 'dfm')
    """
    if method == PRETRAINED:
        return "mature"
    return method if method_of(method).form in ("bi_defuse", "dfm") else "mature"


def pretrain(log: Path, out: Path, plan: Plan, settings: Settings, task: Task, tell: Tell) -> None:
    """Leads a fresh learner through what is due before the stream begins, and keeps it under `initial/`."""
    path = out / INITIAL / task.name
    if path.with_suffix(".json").exists() and path.with_suffix(".safetensors").exists():
        return
    own = as_compared(settings, task.method, task.seed)
    stream, walk = Stream(log, own), Walk(own, learner_of(own))
    first_ms: int | None = None
    for group in stream.groups():
        if group.at_ms >= plan.starts_ms:
            break
        walk.learn(group, stream.edges_ms)
        first_ms = group.at_ms if first_ms is None else first_ms
        tell((group.at_ms - first_ms) / (plan.starts_ms - first_ms))
    snapshot = walk.learner.snapshot()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(snapshot.tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_bytes(msgspec.json.encode(snapshot.state))


def run(log: Path, out: Path, plan: Plan, settings: Settings, task: Task, tell: Tell) -> None:
    """Leads a method from the initial model through the stream, scoring each hour before it learns of it; writes its two files."""
    stem = out / RUNS / task.name
    if stem.with_suffix(".json").exists() and stem.with_suffix(".safetensors").exists():
        return
    started = time.perf_counter()
    method = "mature" if task.method == PRETRAINED else task.method
    own = as_compared(settings, method, task.seed)
    learner = learner_of(own)
    learner.begin_from(_initial(out, Task(initial_of(task.method), task.seed)))
    hours = Hours(plan, read_clicks(out).click_ms, read_inputs(out))
    walk = Walk(own, learner)
    if task.method == PRETRAINED:
        hours.score_until(plan.ends_ms, learner)
    else:
        outcomes = read_outcomes(out) if method == ORACLE else None
        stream = Stream(log, own, places=plan.primed_places, outcomes=outcomes)
        lead(stream, walk, hours, plan, tell)
    record = RunRecord(
        method=task.method,
        seed=task.seed,
        seconds=time.perf_counter() - started,
        rows=walk.rows,
        clicks=walk.clicks,
        conversion_events=walk.conversion_events,
        effective_sample_size=walk.weight**2 / walk.weight_square if walk.weight_square else None,
        kappa=learner.kappa,
        ended=walk.ended,
    )
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file({"p": hours.p}, stem.with_suffix(".safetensors"))
    partial = stem.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(record))
    partial.replace(stem.with_suffix(".json"))  # last: where it stands, the run is whole


def lead(stream: Stream, walk: Walk, hours: Hours, plan: Plan, tell: Tell) -> None:
    """Leads a walk through a stream: primed with what is due before the plan's start, if there is such, then learning, each hour scored first."""
    has_history, is_primed = False, False
    for group in stream.groups():
        if group.at_ms < plan.starts_ms:
            walk.prime(group)
            has_history = True
            continue
        if has_history and not is_primed:
            walk.learner.primed(at_ms=plan.starts_ms)
            is_primed = True
        # An hour is scored before the batch whose last row is due in it or later: else a method, `oracle` above all, would be
        # scored on what it has just been taught.
        hours.score_until(group.at_ms // HOUR_MS * HOUR_MS + HOUR_MS, walk.learner)
        if group.at_ms >= plan.ends_ms or walk.ended is not None:
            break
        walk.learn(group, stream.edges_ms)
        tell((group.at_ms - plan.starts_ms) / (plan.ends_ms - plan.starts_ms))
    if walk.ended is None:
        hours.score_until(plan.ends_ms, walk.learner)


class Walk:
    """A learner on its way through batches, and what was taught."""

    def __init__(self, settings: Settings, learner: Learner) -> None:
        self.learner = learner
        self.rows = self.clicks = self.conversion_events = 0
        self.weight = self.weight_square = 0.0
        self.ended: str | None = None
        self._limit = settings.safeguards.breaker_limit
        self._refused = 0
        self._reader = FeatureReader(settings.features)
        method = method_of(settings.labels.method)
        self._on_click = list(method.sees)
        self._has_pairs = method.form == "pairs"
        self._memory = OpenClicks() if method.adjusts else None

    def prime(self, group: Group) -> None:
        """Looks at a batch from before the start, with learning off; the delay model has learned of it while pre-training."""
        batch = collate(group.rows, self._reader, self._memory)
        self._remember(group, self.learner.prime_many(batch, at_ms=group.at_ms))

    def learn(self, group: Group, edges_ms: tuple[int, ...]) -> None:
        """Learns a batch."""
        batch = collate(group.rows, self._reader, self._memory)
        report = self.learner.learn_many(batch, at_ms=group.at_ms)
        self.learner.observe_outcomes(len(group.outcomes), sum(example.converted for example in group.outcomes))
        if report.refusal is not None:
            if self._memory is not None:
                self._memory.settle(group.rows)  # what it was to settle, nothing settles later
            self._refused += 1
            if self._refused >= self._limit:
                self.ended = f"{self._refused} batches were refused; the last one because {report.refusal.says}"
            return
        self._remember(group, report)
        self.learner.learn_delays(collate_aged(group.aged, self._reader, edges_ms), at_ms=group.at_ms)
        if (window_ms := self.learner.heads_window_ms) is not None:
            self.learner.learn_matured(collate_matured(group.outcomes, self._reader, window_ms), at_ms=group.at_ms)
        told = np.isin(batch.events, self._on_click)
        weights = np.abs(report.positive[told]) + np.abs(report.negative[told])
        if not self._has_pairs:
            weights = np.ones(int(told.sum()))
        self.rows += len(batch)
        self.clicks += int((batch.events == 1).sum())
        self.conversion_events += int(np.count_nonzero(weights))
        self.weight += float(weights.sum())
        self.weight_square += float((weights**2).sum())

    def _remember(self, group: Group, report: StepReport) -> None:
        if self._memory is not None and report.memory is not None:
            self._memory.remember(group.rows, report.memory)


class Hours:
    """The compared clicks by hour, each hour predicted once."""

    def __init__(self, plan: Plan, click_ms: Int64, inputs: Inputs) -> None:
        self._click_ms, self._inputs = click_ms, inputs
        self.p: Float64 = np.full(len(click_ms), np.nan)
        self._scored_ms = plan.starts_ms
        self._ends_ms = plan.ends_ms

    def score_until(self, until_ms: int, learner: Learner) -> None:
        """Predicts the clicks of all hours before a time that have not been predicted yet, with the model as it stands."""
        until_ms = min(until_ms, self._ends_ms)
        if until_ms <= self._scored_ms:
            return
        first, last = np.searchsorted(self._click_ms, [self._scored_ms, until_ms])
        self._scored_ms = until_ms
        for rows in _chunks(int(first), int(last)):
            self.p[rows] = learner.predict_many(rows_of(self._inputs, rows)).pcvr


def _chunks(first: int, last: int, size: int = 4096) -> Iterator[Int64]:
    for start in range(first, last, size):
        yield np.arange(start, min(start + size, last))


def _initial(out: Path, task: Task) -> Snapshot:
    path = out / INITIAL / task.name
    with refusing(path.with_suffix(".safetensors")):
        tensors: dict[str, torch.Tensor] = load_tensors(path.with_suffix(".safetensors"))
    with refusing(path.with_suffix(".json")):
        state: dict[str, Any] = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=dict[str, Any])
    return Snapshot(tensors, state)
