"""One gradient step at a time: state in, state out; must not know where batches come from or who reads the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.batch import Batch, Bool, Event, Float64, Inputs
from models.delay import Kappa, pairs_of, taught
from models.esmm import Esmm
from models.layers.embedded_input import EmbeddedInput, Located
from models.loss import OBJECTIVES, Objective, ctr_loss
from models.optimizers import DenseAdam, schedule
from models.safeguards import Refusal, Refusals
from models.schema import Feature, Network, Optimizer, Safeguards


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
    """

    predictions: Predictions
    positive: Float64
    negative: Float64
    loss: float
    kappa: float
    step: int | None
    refusal: Refusal | None

    @property
    def pctr(self) -> Float64:
        """(B,) P(click), before the step."""
        return self.predictions.pctr

    @property
    def pcvr(self) -> Float64:
        """(B,) P(conversion | click), before the step."""
        return self.predictions.pcvr


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
        network, optimizer, safeguards: their settings.
        method: row of `delay.METHODS` that says what each event teaches.
        batch_size: what losses are divided by, however many rows are present.
        kappa_half_life_ms: how fast the mass a click forgets, in event time.

    Raises:
        ValueError: there is no such method, or a size is not above 0.

    Example:
        >>> learner = Learner([Feature(name="user", kind="categorical")], network=Network(prior_cvr=0.1), optimizer=Optimizer(),
        ...                   safeguards=Safeguards(), method="mature", batch_size=8, kappa_half_life_ms=1000)
        >>> user = Inputs(np.array([[5]]), np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((1, 0), np.float32))
        >>> learner.predict_many(user).pcvr.round(2)
        array([0.1])
        >>> batch = Batch(user, np.array([Event.MATURED], np.int8), np.ones(1, np.float32))
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
        method: str,
        batch_size: int,
        kappa_half_life_ms: int,
    ) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size must be above 0 (got {batch_size}): losses are divided by it")
        torch.set_num_threads(network.threads)
        self._input = EmbeddedInput(features, network=network, initial_sum=optimizer.embedding_initial_accumulator)
        self._network = Esmm(self._input.widths, network=network)
        self._adam = DenseAdam(self._network.parameters, weight_decay=optimizer.dense_weight_decay)
        self._optimizer = optimizer
        self._objective = OBJECTIVES[network.objective]
        self._pairs = pairs_of(method)
        self._refusals = Refusals(safeguards)
        self._kappa = Kappa(half_life_ms=kappa_half_life_ms)
        self._batch_size = batch_size
        self._steps = 0

    @property
    def step(self) -> int:
        """Steps made so far."""
        return self._steps

    @property
    def kappa(self) -> float:
        """Mass taught for each click seen, as the next batch will be taught with it."""
        return self._kappa.value

    @property
    def embedding_rows(self) -> int:
        """Rows in all tables."""
        return sum(len(table) for table in self._input.tables.values())

    def predict_many(self, inputs: Inputs) -> Predictions:
        """Predictions for B impressions; changes nothing, and an id not seen before has the vector it would start from."""
        return _predictions(*self._forward(inputs)[2])

    def learn_many(self, batch: Batch, *, at_ms: int) -> StepReport:
        """One step on a batch; none if it is refused or has no rows.

        Args:
            batch: rows of any events.
            at_ms: event time of the batch (the largest due time), by which kappa forgets.
        """
        located, vectors, logits = self._forward(batch.inputs)
        predictions = _predictions(*logits)
        unclicked, clicked = batch.events == Event.UNCLICKED, batch.events == Event.CLICKED
        positive, negative = taught(
            self._pairs,
            batch.events,
            f=predictions.pcvr,
            s=np.full(len(batch), np.nan),  # no delay model is taught: NaN, so that no method can rest on it unnoticed
            v=batch.converted.astype(np.float64),
        )
        kappa, objective = self._kappa.value, self._objective
        if not unclicked.any():
            # Under a product loss a click's negatives are carried by the unclicked impressions beside it. Where there are none (traffic
            # has ended, its late labels have not) the product would run away; clicks alone are what `composed` is right for.
            objective = OBJECTIVES["composed"]
        mass = float(positive.sum() + negative.sum()) if objective.counts_unclicked else 0.0
        if objective.counts_unclicked:
            negative[unclicked] = kappa
        loss, slopes = self._loss(objective, logits, unclicked, clicked, positive, negative)
        report = StepReport(predictions, positive, negative, loss, kappa, step=None, refusal=None)
        if not len(batch):
            return report

        gradients = self._input.backward(self._network.backward(*slopes), located, vectors)
        refusal = (
            self._refusals.of_loss(loss * self._batch_size, rows=len(batch))
            or self._refusals.of_predictions(predictions.pcvr, clicked=~unclicked)
            or self._refusals.of_gradients([*gradients.values(), *self._network.parameters.gradients])
        )
        if refusal is not None:
            nothing = np.zeros(len(batch))
            return replace(report, positive=nothing, negative=nothing, refusal=refusal)

        # Up to here nothing has changed; from here on nothing can fail.
        self._steps += 1
        pace = schedule(self._optimizer, self._steps)
        for width, table in self._input.tables.items():
            rate = pace * self._optimizer.embedding_learning_rate
            table.learn(located.places[width], vectors[width], gradients[width], rate=rate, step=self._steps)
        self._adam.step(rate=pace * self._optimizer.dense_learning_rate)
        self._kappa.update(mass=mass, clicks=int(clicked.sum()), at_ms=at_ms)
        return replace(report, step=self._steps)

    def _forward(self, inputs: Inputs) -> tuple[Located, dict[int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        located = self._input.locate(inputs)
        vectors = self._input.read(located)
        return located, vectors, self._network.forward(self._input.forward(inputs, located, vectors))

    def _loss(
        self,
        objective: Objective,
        logits: tuple[torch.Tensor, torch.Tensor],
        unclicked: Bool,
        clicked: Bool,
        positive: Float64,
        negative: Float64,
    ) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        """The loss, and its gradients by ctr_logit and cvr_logit: (B,) float32 each."""
        ctr_logit, cvr_logit = (logit.to("cpu", torch.float64).numpy() for logit in logits)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused, not warned of
            clicks = ctr_loss(ctr_logit, unclicked.astype(np.float64), clicked.astype(np.float64))
            conversions = objective.loss(ctr_logit, cvr_logit, positive, negative)
        by_ctr, by_cvr = (
            torch.from_numpy((one + other) / self._batch_size).to(logits[0])
            for one, other in zip(clicks[1:], conversions[1:], strict=True)
        )
        return (clicks.nats + conversions.nats) / self._batch_size, (by_ctr, by_cvr)

    def observe_outcomes(self, outcomes: int, positives: int) -> None:
        """Adds OUTCOME labels, `positives` of them conversions, to the rate that the breaker measures by."""
        self._refusals.observe_outcomes(outcomes, positives)

    def snapshot(self) -> Snapshot:
        """All state, as copies: what `restore` continues from bit for bit."""
        tensors = {f"dense.{name}": value for name, value in self._network.parameters.snapshot().items()}
        tensors |= self._adam.snapshot()
        for width, table in self._input.tables.items():
            tensors |= {f"table_{width}.{name}": value for name, value in table.snapshot().items()}
        state = {"steps": self._steps, "kappa": self._kappa.snapshot(), "refusals": self._refusals.snapshot()}
        return Snapshot(tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        tensors, state = snapshot.tensors, snapshot.state
        self._network.parameters.restore(_under("dense", tensors))
        self._adam.restore(tensors)
        for width, table in self._input.tables.items():
            table.restore(_under(f"table_{width}", tensors))
        self._steps = state["steps"]
        self._kappa.restore(state["kappa"])
        self._refusals.restore(state["refusals"])

    def published(self) -> dict[str, torch.Tensor]:
        """What a scorer needs, as CPU copies.

        Returns:
            `dense.NAME` for every dense weight, and for each width D `table_D.ids` (rows,) int64 with `table_D.vectors`
            (rows, D), in row order. An id that is not among them has `embedding.start_vectors`.
        """
        return self.published_since(-1)

    def published_since(self, step: int) -> dict[str, torch.Tensor]:
        """The same with only those rows that a later step has learned; dense weights are always all there."""
        tensors = {f"dense.{name}": value for name, value in self._network.parameters.snapshot().items()}
        for width, table in self._input.tables.items():
            rows = table.touched_since(step)
            tensors[f"table_{width}.ids"] = torch.from_numpy(table.ids[rows])
            tensors[f"table_{width}.vectors"] = table.vectors[torch.from_numpy(rows)].to("cpu")
        return tensors

    def take_evicted(self) -> dict[str, torch.Tensor]:
        """`table_D.ids` of the ids that have left since this was last asked: what a delta must delete."""
        return {
            f"table_{width}.ids": torch.from_numpy(table.take_evicted()) for width, table in self._input.tables.items()
        }


def _predictions(ctr_logit: torch.Tensor, cvr_logit: torch.Tensor) -> Predictions:
    pctr, pcvr = (torch.sigmoid(logit.to("cpu", torch.float64)).numpy() for logit in (ctr_logit, cvr_logit))
    return Predictions(pctr, pcvr)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
