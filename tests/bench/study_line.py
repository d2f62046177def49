"""Several runs led through one simulated log, on the line that `compare` uses; must not know what a study asks.

The log is read once for all methods that are shown the same events or fewer of them; examples stay in memory, each impression's features are
parsed once, and every run goes through its own batches of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from kept_examples import KeptStream, Read, ReadOnce

from models.batch import Float64, Inputs, Int64, rows_of
from models.delay import METHODS, method_of
from models.trainer import Learner, Snapshot
from streaming.examples import Examples
from streaming.lab.compare.files import read_clicks
from streaming.lab.compare.protocol import Plan, plan_of, read_inputs, read_outcomes
from streaming.lab.compare.runs import Hours, Walk, _chunks, lead
from streaming.lab.compare.stream import Stream, as_compared
from streaming.lab.world import World, generate, truth_of
from streaming.pipeline import learner_of
from streaming.settings import Settings, load

DAY_MS = 86_400_000
FULLEST = "survival"  # the method that is shown every event on a click; others are shown some of them


def changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """Settings with some keys of some sections changed: `changed(settings, labels={"growth": False})`."""
    replace = msgspec.structs.replace
    own: dict[str, Any] = {name: replace(getattr(settings, name), **keys) for name, keys in sections.items()}
    return replace(settings, **own)


def log_of(path: Path, world: World) -> Path:
    """The log of a world; made if it is not there. Two processes may ask at once: who is second keeps the first one's."""
    if not (path / "truth.parquet").exists():
        own = path.with_name(f".{path.name}-{os.getpid()}")
        shutil.rmtree(own, ignore_errors=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        generate(own, world)
        try:
            own.replace(path)
        except OSError:  # there is one by now
            shutil.rmtree(own)
    return path


@dataclass(frozen=True, slots=True)
class Scores:
    """What a run predicted, and what it cost.

    Args:
        p: (clicks,) pCVR of each click of the plan, NaN where it was not scored.
        pctr: (clicks,) pCTR likewise.
        walk: as it ended.
        cpu_seconds: of learning and scoring, reading apart.
    """

    p: Float64
    pctr: Float64
    walk: Walk
    cpu_seconds: float


class HoursOfBoth(Hours):
    """Keeps the pCTR of each click beside its pCVR."""

    def __init__(self, plan: Plan, click_ms: Int64, inputs: Inputs) -> None:
        super().__init__(plan, click_ms, inputs)
        self.pctr: Float64 = np.full(len(click_ms), np.nan)

    def score_until(self, until_ms: int, learner: Learner) -> None:
        """Predicts the clicks of all hours before a time that have not been predicted yet."""
        until_ms = min(until_ms, self._ends_ms)
        if until_ms <= self._scored_ms:
            return
        first, last = np.searchsorted(self._click_ms, [self._scored_ms, until_ms])
        self._scored_ms = until_ms
        for rows in _chunks(int(first), int(last)):
            predictions = learner.predict_many(rows_of(self._inputs, rows))
            self.p[rows], self.pctr[rows] = predictions.pcvr, predictions.pctr


class Course:
    """A log with what all runs on it share: its plan, the final labels, the truth of each click.

    Args:
        log: directory of the log. out: where the plan is kept.
        settings: of all runs; method, objective and learning do not matter here.
        pretrain_days: where the stream begins; 0 is with the log.
    """

    def __init__(self, log: Path, out: Path, settings: Settings, *, pretrain_days: float | None = None) -> None:
        self.log, self._settings = log, settings
        plan = plan_of(log, settings, out, pretrain_days=pretrain_days or None, close_at_end=True)
        self.clicks = read_clicks(out)
        if pretrain_days == 0:
            first_ms = int(self.clicks.click_ms[0]) // DAY_MS * DAY_MS
            plan = msgspec.structs.replace(plan, starts_ms=first_ms, primed_places={})
        self.plan = plan
        self.inputs, self.outcomes = read_inputs(out), read_outcomes(out)
        truth = truth_of(log)
        order = np.argsort(truth.impression_id)
        shown = np.array([name for name, _ in self.outcomes])
        self.names: list[str] = shown.tolist()
        places = order[np.searchsorted(truth.impression_id, shown, sorter=order)]
        self.pcvr: Float64 = truth.pcvr[places]
        self.pctr: Float64 = truth.pctr[places]
        self.short_share: Float64 = truth.short_share[places]
        self.days: Int64 = (self.clicks.click_ms - plan.starts_ms) // DAY_MS
        self.reader = ReadOnce(settings.features)
        self._fullest: tuple[Examples, tuple[int, ...]] | None = None

    def short_share_by_impression(self) -> dict[str, float]:
        """What decides each clicked impression's delay law."""
        return dict(zip(self.names, self.short_share.tolist(), strict=True))

    def pretrained(self, variants: Mapping[str, Settings]) -> dict[str, Snapshot]:
        """Initial models by `mature`, one for each settings, from what is due before the stream begins."""
        some = as_compared(next(iter(variants.values())), "mature", 0)
        stream = Stream(self.log, some)
        walks = {}
        for name, settings in variants.items():
            own = as_compared(settings, "mature", settings.network.seed)
            walks[name] = Walk(own, learner_of(own))
        for group in stream.groups():
            if group.at_ms >= self.plan.starts_ms:
                break
            for walk in walks.values():
                walk.learn(group, stream.edges_ms)
        return {name: walk.learner.snapshot() for name, walk in walks.items()}

    def stream(self, settings: Settings, *, is_primed: bool = True) -> KeptStream:
        """The batches of the method of these settings; not primed: as if nothing had been shown before the stream begins."""
        method, fullest = method_of(settings.labels.method), METHODS[FULLEST]
        if not method.observes_at_click and set(method.sees) <= set(fullest.sees):
            self._fullest = self._fullest or self._read(FULLEST)
            examples, edges_ms = self._fullest
        else:
            examples, edges_ms = self._read(settings.labels.method)
        since_ms = None if is_primed else self.plan.starts_ms
        return KeptStream(examples, settings, edges_ms=edges_ms, since_ms=since_ms)

    def _read(self, method: str) -> tuple[Examples, tuple[int, ...]]:
        """The examples of a method, and its edges."""
        outcomes = self.outcomes if method == "oracle" else None
        stream = Read(
            self.log, as_compared(self._settings, method, 0), places=self.plan.primed_places, outcomes=outcomes
        )
        examples = stream.examples()
        self.reader.keep(examples)
        return examples, stream.edges_ms

    def run(
        self,
        stream: KeptStream,
        settings: Settings,
        *,
        initial: Snapshot | None,
        walk_of: Callable[[Settings, Learner], Walk] = Walk,
    ) -> Scores:
        """Leads a learner through a stream, from an initial model or from nothing."""
        learner = learner_of(settings)
        if initial is not None:
            learner.begin_from(initial)
        hours, walk = HoursOfBoth(self.plan, self.clicks.click_ms, self.inputs), walk_of(settings, learner)
        walk._reader = self.reader
        began = time.process_time()
        lead(stream, walk, hours, self.plan, lambda share: None)  # type: ignore[arg-type]
        return Scores(hours.p, hours.pctr, walk, time.process_time() - began)

    def initial_scores(self, settings: Settings, initial: Snapshot) -> tuple[Float64, Float64]:
        """pCVR and pCTR of each click by an initial model that learns nothing from the stream: what `compare` calls `pretrained`."""
        learner = learner_of(settings)
        learner.begin_from(initial)
        hours = HoursOfBoth(self.plan, self.clicks.click_ms, self.inputs)
        hours.score_until(self.plan.ends_ms, learner)
        return hours.p, hours.pctr


def settings_of(log: Path, **sections: Mapping[str, Any]) -> Settings:
    """The settings that came with a log, some of them changed."""
    return changed(load(log / "settings.toml", {}), **sections)
