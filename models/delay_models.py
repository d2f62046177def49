"""Which delay model answers: by features, one curve for all clicks, or the papers' two heads; must not know a network or a stream.

labels.delay_model   S at w_o, and F at any age, of a click         dp and rn of a click
"hazard"             its own: `CompletionModel`                     f S, (1 - f) / (1 - f + f S)
"global"             that of all clicks: `OneCurve`                 the same
"heads"              that of all clicks: `OneCurve`                 what two heads say, once they are taught: `TwoHeads`

f is the model's pCVR. The curve of all clicks is kept under each of them: early calibration rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Bool, Float64, Inputs, Int64
from models.completion import CompletionModel
from models.delay_curve import DelayPrior, GlobalCurve
from models.schema import Feature, Labels


class DelayModel(Protocol):
    """F(age | x), taught from converters at the moments their clicks reach an edge; see `CompletionModel`."""

    @property
    def edges(self) -> tuple[int, ...]:
        """Where bins end, milliseconds."""

    @property
    def curve(self) -> GlobalCurve:
        """That of all clicks together."""

    def rests_on_prior(self, ages_ms: npt.ArrayLike) -> Bool:
        """Whether F at an age rests on a bin that is not learned."""

    def learn(self, inputs: Inputs, ages: Int64, in_bin: Bool, *, at_ms: int) -> None:
        """Learns from B converters: which edge each has reached, and whether its delay falls in the bin that ends there."""

    def completed_at_edges(self, inputs: Inputs) -> Float64:
        """F at every edge: (B, edges)."""

    def completed(self, inputs: Inputs, ages_ms: Int64) -> Float64:
        """F of each row at its own age or ages: the shape of `ages_ms`, (B,) or (B, M)."""

    def survival_at(self, inputs: Inputs, age_ms: int) -> Float64:
        """1 - F at one age: (B,)."""

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies."""

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""


class OneCurve:
    """F(age), the same for every click: counts, and no feature.

    Args:
        curve: fresh.

    Example:
        >>> hour = 3_600_000
        >>> model = OneCurve(GlobalCurve((hour, 3 * hour), prior=DelayPrior(), half_life_ms=86_400_000))
        >>> none = np.zeros(0, np.int64)
        >>> two = Inputs(none.reshape(2, 0), none, np.zeros(1, np.int64), np.zeros((2, 0), np.float32))
        >>> for _ in range(1000):  # every other conversion comes after the first hour
        ...     model.learn(two, np.array([1, 1]), np.array([True, False]), at_ms=0)
        >>> model.survival_at(two, hour).round(2).tolist(), model.completed_at_edges(two).round(2).tolist()
        ([0.5, 0.5], [[0.5, 1.0], [0.5, 1.0]])
    """

    def __init__(self, curve: GlobalCurve) -> None:
        self.curve = curve

    @property
    def edges(self) -> tuple[int, ...]:
        """Where bins end, milliseconds."""
        return self.curve.ages.edges

    def rests_on_prior(self, ages_ms: npt.ArrayLike) -> Bool:
        """Whether F at an age rests on a bin that is not learned."""
        return self.curve.rests_on_prior(ages_ms)

    def learn(self, inputs: Inputs, ages: Int64, in_bin: Bool, *, at_ms: int) -> None:
        """Counts; what a row looks like does not matter."""
        self.curve.learn(ages, in_bin, at_ms=at_ms)

    def completed_at_edges(self, inputs: Inputs) -> Float64:
        """The same row B times: (B, edges)."""
        return np.tile(self.curve.completed_at_edges(), (len(inputs), 1))

    def completed(self, inputs: Inputs, ages_ms: Int64) -> Float64:
        """F at each age: the shape of `ages_ms`."""
        return self.curve.completed(ages_ms)

    def survival_at(self, inputs: Inputs, age_ms: int) -> Float64:
        """1 - F at one age: (B,), all alike."""
        return np.full(len(inputs), 1 - float(self.curve.completed(age_ms)))

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies."""
        return {f"curve.{name}": tensor for name, tensor in self.curve.snapshot().items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self.curve.restore({name.removeprefix("curve."): own for name, own in tensors.items()})


def delay_model_of(labels: Labels, features: Sequence[Feature], *, edges: tuple[int, ...]) -> DelayModel:
    """A fresh model of the settings, with bins that end at `edges`."""
    prior = DelayPrior(labels.delay_prior_ages_ms, labels.delay_prior_shares)
    if labels.delay_model == "hazard":
        return CompletionModel(features, edges=edges, prior=prior, half_life_ms=labels.delay_half_life_ms)
    return OneCurve(GlobalCurve(edges, prior=prior, half_life_ms=labels.delay_half_life_ms))
