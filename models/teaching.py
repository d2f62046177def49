"""What a batch teaches about conversions, by the method, the delay model and the state of traffic; must not know a network.

events, f, S, F --pairs of the method--> (a+, a-) --less what the click was taught--> --times rho--> what the loss takes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.batch import Aged, Batch, Bool, ClickMemory, Event, Float64, Inputs, Int8, Int64, Matured, rows_of
from models.delay import Method, check_combination, method_of, weigh
from models.delay_edges import edges_ms, horizons_ms
from models.delay_heads import TwoHeads
from models.delay_models import DelayModel, delay_model_of
from models.likelihoods import Told
from models.schema import Feature, Labels
from models.traffic import Growth, Kappa
from models.weighing import LEAST_F, MOST_F, Pair, Seen

_LOOKS = (Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE, Event.REVISIT)  # at a click of that age; others settle it
_FIRST = (Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the rows of a batch teach about conversions.

    Args:
        positive, negative: (B,) a+ and a-, times rho; 0 on rows that teach none, unclicked ones among them.
        kappa: negative weight of an unclicked row in a product loss.
        told: the same for methods with a likelihood of their own.
        memory: what the batch's clicks were told, this batch included; None if the method keeps none.
    """

    positive: Float64
    negative: Float64
    kappa: float
    told: Told
    memory: ClickMemory | None

    @property
    def mass(self) -> float:
        """Sum of a+ and a- over the rows."""
        return float(self.positive.sum() + self.negative.sum())


class Teaching:
    """Weighs batch after batch, and keeps what that needs: kappa, traffic, the delay model and how old the stream is.

    Args:
        features: of the model, in settings order.
        labels: their settings.
        objective: of the network.
        observation_window_ms, attribution_window_ms: w_o and w_a.
        kappa_half_life_ms: how fast the mass a click forgets, in event time.
        prior_cvr: P(conversion | click) before any data.

    Raises:
        ValueError: there is no such method, or it cannot be had with this objective, normalization or delay model.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        labels: Labels,
        objective: str,
        observation_window_ms: int,
        attribution_window_ms: int,
        kappa_half_life_ms: int,
        prior_cvr: float = 0.1,
    ) -> None:
        check_combination(
            labels.method, objective=objective, normalization=labels.normalization, delay_model=labels.delay_model
        )
        self.method: Method = method_of(labels.method)
        self._labels = labels
        self._sees: Bool = np.isin(np.arange(len(Event)), self.method.sees)  # by code
        as_published = self.method.as_published if labels.normalization == "paper" else None
        self._pairs = self.method.pairs if as_published is None else as_published
        first_look_ms = 0 if self.method.observes_at_click else observation_window_ms
        self._window_ms = attribution_window_ms
        self._looks_ms = np.array(horizons_ms(first_look_ms, attribution_window_ms, labels.horizons), np.int64)
        edges = edges_ms(first_look_ms, attribution_window_ms, labels.horizons)
        self._edge_of_look = np.searchsorted(edges, self._looks_ms)
        self.delays: DelayModel = delay_model_of(labels, features, edges=edges)
        self.heads: TwoHeads | None = None
        if labels.delay_model == "heads":
            self.heads = TwoHeads(features, prior_cvr=prior_cvr, half_life_ms=labels.delay_half_life_ms)
        self._kappa = Kappa(half_life_ms=kappa_half_life_ms)
        self._growth = Growth(reach_ms=attribution_window_ms)
        self._starts_ms: int | None = None  # the due time of the first batch, or w_a before it if the stream was primed

    @property
    def kappa(self) -> float:
        """Mass taught for each click seen, as the next batch will be taught with it."""
        return self._kappa.value if self._labels.kappa else 1.0

    @property
    def heads_window_ms(self) -> int | None:
        """w_o, which the two heads are asked about; None if there are none."""
        return None if self.heads is None else int(self._looks_ms[0])

    def weigh(self, batch: Batch, f: Float64, *, at_ms: int) -> Lesson:
        """What a batch teaches; changes nothing.

        Args:
            batch: rows of any events.
            f: (B,) pCVR of each.
            at_ms: event time of the batch (the largest due time).

        Raises:
            ValueError: the method adjusts what clicks were taught, and the batch does not tell.
        """
        events = batch.events
        on_click = np.flatnonzero(self._sees[events])
        s, completed = np.full(len(batch), np.nan), np.full(len(batch), np.nan)
        if self.method.adjusts and batch.memory is None and len(on_click):
            raise ValueError(
                f"batch.memory must be given with rows on clicks for labels.method {self._labels.method!r} (got None): "
                "it teaches what a click has not been taught before"
            )
        if self.method.uses_delay and len(on_click):
            at_edges = self.delays.completed_at_edges(rows_of(batch.inputs, on_click))  # (n, edges)
            s[on_click] = 1 - at_edges[:, self._edge_of_look[0]]
            at_look = at_edges[np.arange(len(on_click)), self._edge_of_look[batch.looks[on_click]]]
            completed[on_click] = np.where(np.isin(events[on_click], _LOOKS), at_look, 1.0)
        memory, first_f = batch.memory, np.full(len(batch), np.nan)
        if self.method.adjusts and memory is not None:
            memory = _with_first_f(memory, events, f)
            known = memory.click >= 0
            first_f[known] = memory.first_f[memory.click[known]]
        seen = Seen(f, s, batch.converted.astype(np.float64), completed, first_f)
        if self.method.uses_delay and self.heads is not None and self.heads.is_taught and len(on_click):
            seen = _told_by(self.heads, rows_of(batch.inputs, on_click), on_click, seen)
        positive, negative = weigh(self._pairs, events, seen)
        before_history = self.method.before_history
        if self.method.adjusts and memory is not None:
            unknown = None if before_history is None else weigh(before_history, events, seen)
            memory = _adjust(memory, events, self._pairs, positive, negative, unknown)
        elif before_history is not None and self._is_young(at_ms):
            positive, negative = weigh(before_history, events, seen)
        rho = np.ones(len(batch))
        if self._labels.growth:
            rho[on_click] = self._growth.ratio(batch.click_ms[on_click], at_ms=at_ms)
        return Lesson(positive * rho, negative * rho, self.kappa, self._told(batch, rho), memory)

    def learned(self, *, mass: float, clicks: int, at_ms: int) -> None:
        """Counts a batch that was learned.

        Args:
            mass: of what `weigh` gave for it, the part that entered a product loss.
            clicks: its CLICKED rows.
            at_ms: as in `weigh`.
        """
        if self._starts_ms is None:
            self._starts_ms = at_ms
        self._kappa.update(mass=mass, clicks=clicks, at_ms=at_ms)
        self._growth.update(clicks=clicks, at_ms=at_ms)

    def primed(self, *, at_ms: int) -> None:
        """Says that what came up to now was history: the methods' own weights hold from the next batch on."""
        self._starts_ms = at_ms - self._window_ms

    def learn_delays(self, aged: Aged, *, at_ms: int) -> None:
        """Teaches the delay model."""
        if len(aged):
            self.delays.learn(aged.inputs, aged.edges, aged.in_bin, at_ms=at_ms)

    def learn_matured(self, matured: Matured, *, at_ms: int) -> None:
        """Teaches the two heads; for nothing under another delay model."""
        if self.heads is not None and len(matured):
            self.heads.fit(matured.inputs, observed=matured.observed, converted=matured.converted, at_ms=at_ms)

    def _is_young(self, at_ms: int) -> bool:
        return self._starts_ms is None or at_ms < self._starts_ms + self._window_ms

    def _told(self, batch: Batch, rho: Float64) -> Told:
        looks = self._looks_ms.astype(np.float64)
        age, before = np.full(len(batch), looks[0]), np.zeros(len(batch))
        again = np.flatnonzero(batch.looks)
        age[again], before[again] = looks[batch.looks[again]], looks[batch.looks[again] - 1]
        real = np.flatnonzero(batch.events == Event.REAL_NEGATIVE)
        age[real], before[real] = looks[-1], looks[max(len(looks) - 2, 0)]  # one look alone: it has told all
        # By when it became known, not by when it came: looks in between said "nothing yet", and what they taught is undone.
        late = batch.events == Event.DELAYED_POSITIVE
        known_ms = np.maximum(batch.delay_ms[late], batch.age_ms[late])
        before[late] = looks[np.maximum(np.searchsorted(self._looks_ms, known_ms) - 1, 0)]
        return Told(batch.events, rho, age, batch.delay_ms.astype(np.float64), before)

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All state: tensors, and what JSON holds."""
        state = {
            "edges_ms": list(self.delays.edges),
            "kappa": self._kappa.snapshot(),
            "growth": self._growth.snapshot(),
            "starts_ms": self._starts_ms,
        }
        heads = {} if self.heads is None else self.heads.snapshot()
        return self.delays.snapshot() | {f"heads.{name}": value for name, value in heads.items()}, state

    def begin_from(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Takes the delay model alone, of another method's `snapshot`; not if its bins are others (a method without w_o)."""
        if state["edges_ms"] == list(self.delays.edges):
            self._restore_delays(tensors)

    def restore(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Takes back what `snapshot` gave."""
        self._restore_delays(tensors)
        self._kappa.restore(state["kappa"])
        self._growth.restore(state["growth"])
        self._starts_ms = state["starts_ms"]

    def _restore_delays(self, tensors: Mapping[str, torch.Tensor]) -> None:
        curves, heads = _parted("heads.", tensors)
        self.delays.restore(curves)
        if self.heads is not None:
            self.heads.restore(heads)


def _told_by(heads: TwoHeads, inputs: Inputs, on_click: Int64, seen: Seen) -> Seen:
    """With dp and rn as the heads tell them on some rows; of a click that converts with f, no more than f can come late."""
    predicted = heads.predict(inputs)
    held, nothing = np.clip(seen.f[on_click], LEAST_F, MOST_F), np.full(len(seen.f), np.nan)
    s, dp, rn = seen.s.copy(), nothing, nothing.copy()
    dp[on_click], rn[on_click] = np.minimum(predicted.dp, held), predicted.rn
    s[on_click] = dp[on_click] / held
    return seen._replace(s=s, told_dp=dp, told_rn=rn)


def _parted(
    prefix: str, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those without a prefix, and those with it, which they lose."""
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    return others, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _with_first_f(memory: ClickMemory, events: Int8, f: Float64) -> ClickMemory:
    """With the f of clicks that have their first event in this batch."""
    rows = np.flatnonzero((events == Event.OBSERVED_NEGATIVE) & (memory.click >= 0))
    first_f = memory.first_f.copy()
    first_f[memory.click[rows]] = np.clip(f[rows], LEAST_F, MOST_F)
    return ClickMemory(memory.click, first_f, memory.positive.copy(), memory.negative.copy())


def _adjust(
    memory: ClickMemory,
    events: Int8,
    pairs: Mapping[Event, Pair],
    positive: Float64,
    negative: Float64,
    unknown: tuple[Float64, Float64] | None,
) -> ClickMemory:
    """Takes from each row's target, in place, what its click has been taught before, in the order of the rows.

    Args:
        unknown: what later events teach instead of a click whose first event was not taught; None: their target.
    """
    told: Bool = np.isin(events, list(pairs)) & (memory.click >= 0)
    for row in np.flatnonzero(told):
        click = memory.click[row]
        if unknown is not None and events[row] not in _FIRST and np.isnan(memory.negative[click]):
            positive[row], negative[row] = unknown[0][row], unknown[1][row]
            continue
        if np.isnan(
            positive[row] + negative[row]
        ):  # a look at a click whose first event was never taught: there is no f to look with
            positive[row] = negative[row] = 0.0
            continue
        for taught, target in ((memory.positive, positive), (memory.negative, negative)):
            before, taught[click] = taught[click], target[row]
            if not np.isnan(before):
                target[row] -= before
    return memory
