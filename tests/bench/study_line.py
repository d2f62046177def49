"""Several runs led through one simulated log, on the line that `compare` uses; must not know what a study asks.

The log is read once for each set of events that a method must be shown; its batches stay in memory, and every run goes through them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models.batch import Float64, Inputs, Int64
from models.schema import Feature
from models.trainer import Learner, Snapshot
from streaming.features import FeatureReader
from streaming.lab.compare.files import read_clicks
from streaming.lab.compare.protocol import plan_of, read_inputs, read_outcomes
from streaming.lab.compare.runs import Hours, Walk, lead
from streaming.lab.compare.stream import Group, Stream, as_compared
from streaming.lab.world import World, generate, truth_of
from streaming.pipeline import learner_of
from streaming.settings import Settings, load

DAY_MS = 86_400_000


def changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """Settings with some keys of some sections changed: `changed(settings, labels={"growth": False})`."""
    replace = msgspec.structs.replace
    own: dict[str, Any] = {name: replace(getattr(settings, name), **keys) for name, keys in sections.items()}
    return replace(settings, **own)


def log_of(path: Path, world: World) -> Path:
    """The log of a world; made if it is not there."""
    if not (path / "truth.parquet").exists():
        shutil.rmtree(path, ignore_errors=True)
        generate(path, world)
    return path


class KeptReader(FeatureReader):
    """Reads the features of the same objects once."""

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__(features)
        self._read: dict[tuple[int, ...], Inputs] = {}

    def read(self, raws: Sequence[msgspec.Raw | bytes]) -> Inputs:
        """As `FeatureReader.read`; the objects must live as long as this reader does, or others could take their place."""
        key = tuple(map(id, raws))
        if key not in self._read:
            self._read[key] = super().read(raws)
        return self._read[key]


class KeptStream(Stream):
    """A stream that keeps its batches, so that several runs can go through the same ones.

    Args:
        log, settings, places, outcomes: as in `Stream`.
        since_ms: impressions before it are not there: a join that starts empty.
    """

    def __init__(self, log: Path, settings: Settings, *, since_ms: int | None = None, **how: Any) -> None:
        super().__init__(log, settings, **how)
        own = super().groups()
        self._kept = list(own if since_ms is None else _since(own, since_ms))
        self.reader = KeptReader(settings.features)

    def groups(self, *, close_at_end: bool = False) -> Iterator[Group]:
        """The batches; what is due after the log's end is not among them."""
        assert not close_at_end
        return iter(self._kept)


def _since(groups: Iterator[Group], since_ms: int) -> Iterator[Group]:
    for group in groups:
        rows, aged, outcomes = (
            [example for example in some if example.impression.event_time_ms >= since_ms]
            for some in (group.rows, group.aged, group.outcomes)
        )
        if rows or aged or outcomes:
            yield Group(rows, aged, outcomes, group.at_ms)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a run predicted, and what it cost.

    Args:
        p: (clicks,) pCVR of each click of the plan, NaN where it was not scored.
        walk: as it ended.
        cpu_seconds: of learning and scoring, reading apart.
    """

    p: Float64
    walk: Walk
    cpu_seconds: float


class Course:
    """A log with what all runs on it share: its plan, the final labels, the truth of each click.

    Args:
        log: directory of the log. out: where the plan is kept.
        settings: of all runs; method, objective and learning do not matter here.
        pretrain_days: where the stream begins; 0 is with the log.
    """

    def __init__(self, log: Path, out: Path, settings: Settings, *, pretrain_days: float | None = None) -> None:
        self.log = log
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
        self._names = shown
        places = order[np.searchsorted(truth.impression_id, shown, sorter=order)]
        self.pcvr: Float64 = truth.pcvr[places]
        self.short_share: Float64 = truth.short_share[places]
        self.days: Int64 = (self.clicks.click_ms - plan.starts_ms) // DAY_MS

    def short_share_by_impression(self) -> dict[str, float]:
        """What decides each clicked impression's delay law."""
        return dict(zip(self._names.tolist(), self.short_share.tolist(), strict=True))

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
        outcomes = self.outcomes if settings.labels.method == "oracle" else None
        since_ms = None if is_primed else self.plan.starts_ms
        return KeptStream(self.log, settings, places=self.plan.primed_places, outcomes=outcomes, since_ms=since_ms)

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
        hours, walk = Hours(self.plan, self.clicks.click_ms, self.inputs), walk_of(settings, learner)
        walk._reader = stream.reader
        began = time.process_time()
        lead(stream, walk, hours, self.plan, lambda share: None)
        return Scores(hours.p, walk, time.process_time() - began)


def settings_of(log: Path, **sections: Mapping[str, Any]) -> Settings:
    """The settings that came with a log, some of them changed."""
    return changed(load(log / "settings.toml", {}), **sections)
