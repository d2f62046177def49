"""When a batch is refused instead of learned, and why; must not know how a batch is learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from models.batch import Bool, Float64
from models.schema import RefusalReason, Safeguards


class Refusal(NamedTuple):
    """Why a batch is refused: in a word of a small closed set, and in a sentence with the figures."""

    reason: RefusalReason
    says: str


class Refusals:
    """Finds the reason to refuse a batch, if there is one.

    Args:
        safeguards: the limits.

    Example:
        >>> refusals = Refusals(Safeguards(breaker_ratio=5, breaker_armed_after=50, breaker_min_rows=1))
        >>> refusals.observe_outcomes(1000, 50)
        >>> refusals.of_predictions(np.array([0.9, 0.3]), clicked=np.array([False, True])).says
        'mean pCVR of 0.3 over 1 clicked rows is more than 5 times the OUTCOME rate of 0.05: the model is running away'
    """

    def __init__(self, safeguards: Safeguards) -> None:
        self._limits = safeguards
        self._outcomes = 0
        self._positives = 0

    def observe_outcomes(self, outcomes: int, positives: int) -> None:
        """Adds final labels to the running rate that the breaker measures by."""
        self._outcomes += outcomes
        self._positives += positives

    def of_predictions(self, pcvr: Float64, *, clicked: Bool) -> Refusal | None:
        """Why not to learn from rows that the model predicts so: (B,) each, `clicked` the rows with a click."""
        if (
            self._positives < self._limits.breaker_armed_after
            or not self._positives
            or clicked.sum() < max(1, self._limits.breaker_min_rows)
        ):
            return None
        mean, rate = float(np.mean(pcvr[clicked])), self._positives / self._outcomes
        if mean <= self._limits.breaker_ratio * rate:
            return None
        return Refusal(
            "running_away",
            f"mean pCVR of {mean:.3g} over {int(clicked.sum())} clicked rows is more than {self._limits.breaker_ratio:g} times "
            f"the OUTCOME rate of {rate:.3g}: the model is running away",
        )

    def of_loss(self, loss: float, *, rows: int) -> Refusal | None:
        """Why not to learn from `rows` rows whose losses sum to this, in nats."""
        if not math.isfinite(loss):
            return Refusal("not_finite", f"the loss is {loss}: a feature or a weight is not finite")
        if loss / rows <= self._limits.loss_limit:
            return None
        return Refusal(
            "exploding",
            f"the loss of {loss / rows:.3g} nats a row exceeds loss_limit = {self._limits.loss_limit:g}: the model is exploding",
        )

    def of_gradients(self, gradients: Iterable[torch.Tensor]) -> Refusal | None:
        """Why not to move weights by these gradients."""
        # Squares, because both optimizers add them up: one that overflows would stop its weight for ever.
        if all(math.isfinite(torch.dot(gradient.flatten(), gradient.flatten()).item()) for gradient in gradients):
            return None
        return Refusal(
            "not_finite", "a gradient is not finite, or its square is not: a feature or a weight is too large"
        )

    def snapshot(self) -> dict[str, int]:
        """Its counts, as JSON takes them."""
        return {"outcomes": self._outcomes, "positives": self._positives}

    def restore(self, state: Mapping[str, int]) -> None:
        """Takes back what `snapshot` gave."""
        self._outcomes, self._positives = state["outcomes"], state["positives"]
