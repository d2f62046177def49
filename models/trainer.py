"""One gradient step at a time: state in, state out; must not know where batches come from or who reads the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from models.batch import Aged, Batch, Bool, ClickMemory, Event, Float64, Inputs, Matured
from models.delay_models import DelayModel
from models.esmm import Esmm
from models.layers.embedded_input import EmbeddedInput, Located
from models.likelihoods import likelihood_of, logit
from models.loss import OBJECTIVES, Chance, Objective, ctr_loss, objective_of
from models.optimizers import DenseAdam, schedule
from models.safeguards import Refusal, Refusals
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.teaching import Lesson, Teaching
from models.weighted import Weighted


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model expects of B impressions.

    Args:
        pctr: (B,) P(click). pcvr: (B,) P(conversion | click).
    """

    pctr: Float64
    pcvr: Float64


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a batch was told and what it taught.

    Args:
        predictions: of every row, with the weights as they were before the step.
        positive, negative: (B,) the weights a+ and a- each row was taught with, kappa as the negative of an unclicked one
            under "esmm"; 0 where a row taught no conversion, and everywhere if the batch was refused.
        loss: nats, summed over the rows, divided by the batch size of the settings; NaN or infinity is why it was refused.
        kappa: the one this batch was taught with.
        step: number of this step, from 1; None if nothing was learned.
        refusal: why the batch was refused; None if it was not.
        memory: what the batch's clicks were told, this step included; None if nothing was learned or the method keeps none.
    """

    predictions: Predictions
    positive: Float64
    negative: Float64
    loss: float
    kappa: float
    step: int | None
    refusal: Refusal | None
    memory: ClickMemory | None = None

    @property
    def pctr(self) -> Float64:
        """(B,) P(click), before the step."""
        return self.predictions.pctr

    @property
    def pcvr(self) -> Float64:
        """(B,) P(conversion | click), before the step."""
        return self.predictions.pcvr


class _Outlook(NamedTuple):
    """What the network says of B impressions, and what it needs to learn from them.

    Args:
        logits: (heads, B). click, conversion: the chances that the first two give.
    """

    located: Located
    vectors: dict[int, torch.Tensor]
    logits: Float64
    click: Chance
    conversion: Chance
    predictions: Predictions


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All state of a learner.

    Args:
        tensors: name -> CPU tensor, copies. state: what JSON holds.
    """

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


class Learner:
    """A network with its tables and optimizers, taught batch by batch.

    A learner made with the same arguments and taught the same batches has the same weights, bit for bit, on the same device
    with the same torch and threads; cut anywhere by `snapshot` and `restore`, too. A refused batch leaves no trace.

    Args:
        features: of the model, in settings order.
        network, optimizer, safeguards, labels: their settings.
        observation_window_ms, attribution_window_ms: after a click, when its first label is drawn, and its last.
        batch_size: what losses are divided by, however many rows are present.
        kappa_half_life_ms: how fast the mass a click forgets, in event time.

    Raises:
        ValueError: there is no such method, it cannot be had with this objective, or a size is not above 0.

    Example:
        >>> learner = Learner([Feature(name="user", kind="categorical")], network=Network(prior_cvr=0.1), optimizer=Optimizer(),
        ...                   safeguards=Safeguards(), labels=Labels(), observation_window_ms=1000,
        ...                   attribution_window_ms=5000, batch_size=8, kappa_half_life_ms=1000)
        >>> user = Inputs(np.array([[5]]), np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((1, 0), np.float32))
        >>> learner.predict_many(user).pcvr.round(2)
        array([0.1])
        >>> batch = Batch.of(user, np.array([Event.MATURED], np.int8), np.ones(1, np.float32))
        >>> learner.learn_many(batch, at_ms=0).positive
        array([1.])
        >>> learner.embedding_rows, learner.step
        (1, 1)
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        network: Network,
        optimizer: Optimizer,
        safeguards: Safeguards,
        labels: Labels,
        observation_window_ms: int,
        attribution_window_ms: int,
        batch_size: int,
        kappa_half_life_ms: int,
    ) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size must be above 0 (got {batch_size}): losses are divided by it")
        torch.set_num_threads(network.threads)
        self._input = EmbeddedInput(features, network=network, initial_sum=optimizer.embedding_initial_accumulator)
        self._teaching = Teaching(
            features,
            labels=labels,
            objective=network.objective,
            observation_window_ms=observation_window_ms,
            attribution_window_ms=attribution_window_ms,
            kappa_half_life_ms=kappa_half_life_ms,
            prior_cvr=network.prior_cvr,
        )
        form = self._teaching.method.form
        self._likelihood = likelihood_of(form, attribution_window_ms=attribution_window_ms)
        heads = {"cvr": logit(network.prior_cvr)}
        if self._likelihood is not None:
            heads = dict(zip(self._likelihood.heads, self._likelihood.starts(network.prior_cvr), strict=True))
        self._network = Esmm(self._input.widths, network=network, heads={"ctr": logit(network.prior_ctr)} | heads)
        self._adam = DenseAdam(self._network.parameters, weight_decay=optimizer.dense_weight_decay)
        self._optimizer = optimizer
        self._objective = objective_of(network.objective, composed_weight=network.composed_weight)
        self._refusals = Refusals(safeguards)
        self._batch_size = batch_size
        self._device = network.device
        self._steps = 0

    @property
    def step(self) -> int:
        """Steps made so far."""
        return self._steps

    @property
    def kappa(self) -> float:
        """Mass taught for each click seen, as the next batch will be taught with it."""
        return self._teaching.kappa

    @property
    def embedding_rows(self) -> int:
        """Rows in all tables."""
        return sum(len(table) for table in self._input.tables.values())

    def predict_many(self, inputs: Inputs) -> Predictions:
        """Predictions for B impressions; changes nothing, and an id not seen before has the vector it would start from."""
        return self._forward(inputs).predictions

    def learn_many(self, batch: Batch, *, at_ms: int) -> StepReport:
        """One step on a batch; none if it is refused or has no rows to learn.

        Args:
            batch: rows of any events.
            at_ms: event time of the batch (the largest due time), by which kappa forgets.
        """
        outlook = self._forward(batch.inputs)
        predictions = outlook.predictions
        unclicked, clicked = batch.events == Event.UNCLICKED, batch.events == Event.CLICKED
        lesson, objective = self._teaching.weigh(batch, predictions.pcvr, at_ms=at_ms), self._objective
        if not unclicked.any():
            # Under a product loss a click's negatives are carried by the unclicked impressions beside it. Where there are none (traffic
            # has ended, its late labels have not) the product would run away; clicks alone are what `composed` is right for.
            objective = OBJECTIVES["composed"]
        by_unclicked = lesson.kappa * unclicked if objective.counts_unclicked else np.zeros(len(batch))
        loss, slopes = self._loss(objective, outlook, unclicked, clicked, lesson, by_unclicked)
        told = lesson.positive, lesson.negative + by_unclicked
        report = StepReport(predictions, *told, loss, lesson.kappa, step=None, refusal=None)
        held_out = batch.events == Event.HELD_OUT
        if held_out.all():
            return report

        refusal = self._refusals.of_loss(loss * self._batch_size, rows=len(batch)) or self._descend(
            slopes, outlook, clicked=~(unclicked | held_out)
        )
        if refusal is not None:
            nothing = np.zeros(len(batch))
            return replace(report, positive=nothing, negative=nothing, refusal=refusal)
        mass = lesson.mass if objective.counts_unclicked else 0.0
        self._teaching.learned(mass=mass, clicks=int(clicked.sum()), at_ms=at_ms)
        return replace(report, step=self._steps, memory=lesson.memory)

    def _descend(self, slopes: Float64, outlook: _Outlook, *, clicked: Bool) -> Refusal | None:
        """One step down these slopes by the logits, (heads, B); if it is refused, nothing has changed."""
        slope = torch.from_numpy(slopes / self._batch_size).to(self._device, torch.float32)
        located, vectors, pcvr = outlook.located, outlook.vectors, outlook.predictions.pcvr
        gradients = self._input.backward(self._network.backward(slope), located, vectors)
        refusal = self._refusals.of_predictions(pcvr, clicked=clicked) or self._refusals.of_gradients(
            [*gradients.values(), *self._network.parameters.gradients]
        )
        if refusal is not None:
            return refusal
        # Up to here nothing has changed; from here on nothing can fail.
        self._steps += 1
        pace = schedule(self._optimizer, self._steps)
        for width, table in self._input.tables.items():
            rate = pace * self._optimizer.embedding_learning_rate
            table.learn(located.places[width], vectors[width], gradients[width], rate=rate, step=self._steps)
        self._adam.step(rate=pace * self._optimizer.dense_learning_rate)
        return None

    def teach_many(self, inputs: Inputs, weighted: Weighted) -> Refusal | None:
        """One step on rows (one or more) that are weighed already; kappa, traffic and delays take no notice. Why not, if it is refused.

        Raises:
            ValueError: the method has no pairs that could be weighed.
        """
        if self._likelihood is not None:
            raise ValueError("labels.method must be one of pairs: heads with a likelihood of their own take no weights")
        outlook = self._forward(inputs)
        ctr_logit, cvr_logit = outlook.logits
        with np.errstate(invalid="ignore", over="ignore"):
            cost = weighted.cost(ctr_logit, cvr_logit)
            most = abs(weighted).cost(ctr_logit, cvr_logit).nats  # losses of either sign must not hide each other
        slopes = np.stack([cost.by_ctr, cost.by_cvr])
        on_clicks = (weighted.clicked > 0) | (weighted.composed != 0).any(axis=0)
        return self._refusals.of_loss(most, rows=len(inputs)) or self._descend(slopes, outlook, clicked=on_clicks)

    def weigh(self, batch: Batch, *, at_ms: int) -> Lesson:
        """What a batch would teach about conversions; changes nothing."""
        return self._teaching.weigh(batch, self.predict_many(batch.inputs).pcvr, at_ms=at_ms)

    def prime_many(self, batch: Batch, *, at_ms: int) -> StepReport:
        """Looks at a batch from before the start: counts its traffic and what clicks would have been taught, and teaches nothing."""
        predictions = self.predict_many(batch.inputs)
        lesson = self._teaching.weigh(batch, predictions.pcvr, at_ms=at_ms)
        mass = lesson.mass if self._objective.counts_unclicked else 0.0
        self._teaching.learned(mass=mass, clicks=int((batch.events == Event.CLICKED).sum()), at_ms=at_ms)
        nothing = np.zeros(len(batch))
        return StepReport(
            predictions, nothing, nothing, 0.0, lesson.kappa, step=None, refusal=None, memory=lesson.memory
        )

    def primed(self, *, at_ms: int) -> None:
        """Ends priming: all that a method may wait for has had the time to come."""
        self._teaching.primed(at_ms=at_ms)

    def learn_delays(self, aged: Aged, *, at_ms: int) -> None:
        """Teaches the delay model with converters whose clicks have come of an age; no gradient step."""
        self._teaching.learn_delays(aged, at_ms=at_ms)

    @property
    def heads_window_ms(self) -> int | None:
        """The observation window that two heads are asked about, so that somebody should teach them; None under other delay models."""
        return self._teaching.heads_window_ms

    def learn_matured(self, matured: Matured, *, at_ms: int) -> None:
        """Teaches the delay model with clicks whose labels are final; no gradient step."""
        self._teaching.learn_matured(matured, at_ms=at_ms)

    def _forward(self, inputs: Inputs) -> _Outlook:
        located = self._input.locate(inputs)
        vectors = self._input.read(located)
        said = self._network.forward(self._input.forward(inputs, located, vectors))
        logits = said.to("cpu", torch.float64).numpy()
        click, conversion = Chance.of(logits[0]), Chance.of(logits[1])
        pcvr = conversion.yes if self._likelihood is None else self._likelihood.pcvr(logits[1:])
        return _Outlook(located, vectors, logits, click, conversion, Predictions(click.yes, pcvr))

    def _loss(
        self,
        objective: Objective,
        outlook: _Outlook,
        unclicked: Bool,
        clicked: Bool,
        lesson: Lesson,
        by_unclicked: Float64,
    ) -> tuple[float, Float64]:
        """The loss, divided by the batch size, and its gradients by the logits, not divided: (heads, B)."""
        click, conversion = outlook.click, outlook.conversion
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused, not warned of
            clicks = ctr_loss(click, unclicked.astype(np.float64), clicked.astype(np.float64))
            if self._likelihood is None:
                cost = objective.cost(click, conversion, lesson.positive, lesson.negative, unclicked=by_unclicked)
                nats, slopes = cost.nats, np.stack([clicks.by_ctr + cost.by_ctr, cost.by_cvr])
            else:
                nats, by_others = self._likelihood.cost(outlook.logits[1:], lesson.told)
                slopes = np.concatenate([clicks.by_ctr[None], by_others])
        return (clicks.nats + nats) / self._batch_size, slopes

    @property
    def delays(self) -> DelayModel:
        """What tells how late conversions come, at any age."""
        return self._teaching.delays

    def observe_outcomes(self, outcomes: int, positives: int) -> None:
        """Adds OUTCOME labels, `positives` of them conversions, to the rate that the breaker measures by."""
        self._refusals.observe_outcomes(outcomes, positives)

    def snapshot(self) -> Snapshot:
        """All state, as copies: what `restore` continues from bit for bit."""
        tensors = {f"dense.{name}": value for name, value in self._network.parameters.snapshot().items()}
        tensors |= self._adam.snapshot()
        for width, table in self._input.tables.items():
            tensors |= {f"table_{width}.{name}": value for name, value in table.snapshot().items()}
        of_teaching, teaching = self._teaching.snapshot()
        tensors |= {f"delays.{name}": value for name, value in of_teaching.items()}
        state = {"steps": self._steps, "teaching": teaching, "refusals": self._refusals.snapshot()}
        return Snapshot(tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self._restore_weights(snapshot)
        self._teaching.restore(_under("delays", snapshot.tensors), snapshot.state["teaching"])
        self._refusals.restore(snapshot.state["refusals"])

    def _restore_weights(self, snapshot: Snapshot) -> None:
        tensors = snapshot.tensors
        self._network.parameters.restore(_under("dense", tensors))
        self._adam.restore(tensors)
        for width, table in self._input.tables.items():
            table.restore(_under(f"table_{width}", tensors))
        self._steps = snapshot.state["steps"]

    def fall_back(self, snapshot: Snapshot) -> None:
        """Takes back the weights and optimizers of a snapshot of this learner; what belongs to the stream stays as it is now."""
        self._restore_weights(snapshot)

    def follow(self, snapshot: Snapshot) -> None:
        """Takes what belongs to the stream and not to the weights: delay model, kappa, traffic and when the stream began."""
        self._teaching.restore(_under("delays", snapshot.tensors), snapshot.state["teaching"])

    def begin_from(self, snapshot: Snapshot) -> None:
        """Starts from what a learner of another method had come to: its weights, optimizers and delay model.

        Counts of traffic and of the mass a click are of its method, and begin anew; the networks must be alike.
        """
        self._restore_weights(snapshot)
        self._teaching.begin_from(_under("delays", snapshot.tensors), snapshot.state["teaching"])

    def published(self) -> dict[str, torch.Tensor]:
        """What a scorer needs, as CPU copies.

        Returns:
            `dense.NAME` for every dense weight, and for each width D `table_D.ids` (rows,) int64 with `table_D.vectors`
            (rows, D), in row order. An id that is not among them has `embedding.start_vectors`.
        """
        return {name: tensor for name, tensor in self.published_since(-1).items() if not name.endswith(".rows")}

    def published_since(self, step: int) -> dict[str, torch.Tensor]:
        """The same with only those rows that a later step has learned, and `table_D.rows` int32: which ones; dense weights are always all there."""
        tensors = {f"dense.{name}": value for name, value in self._network.parameters.snapshot().items()}
        for width, table in self._input.tables.items():
            rows = table.touched_since(step)
            tensors[f"table_{width}.rows"] = torch.from_numpy(rows.astype(np.int32))
            tensors[f"table_{width}.ids"] = torch.from_numpy(table.ids[rows])
            tensors[f"table_{width}.vectors"] = table.vectors[torch.from_numpy(rows)].to("cpu")
        return tensors

    def take_evicted(self) -> dict[str, torch.Tensor]:
        """`table_D.ids` of the ids that have left since this was last asked: what a delta must delete."""
        return {
            f"table_{width}.ids": torch.from_numpy(table.take_evicted()) for width, table in self._input.tables.items()
        }


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
