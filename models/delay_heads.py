"""The papers' delay model: two probabilities, taught by clicks whose labels are final; must not know a stream or how labels came.

    dp = P(converts, later than w_o | x)              asked of every click
    rn = P(never converts | nothing by w_o, x)        asked of clicks that had not converted by w_o

It answers one observation window, knows nothing of other ages, and is as old as its clicks: at least w_a. `CompletionModel` is
younger and needs one law for all ages; this one is here so that a method can be run as its paper has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Bool, Float64, Inputs, rows_of
from models.schema import Feature
from models.score_logit import ScoreLogit

_NEVER_MS = 1  # half-life of what is learned at one time: nothing is forgotten
_PRIOR_EXAMPLES = 20.0  # that the rates before any data weigh
_TAUGHT_BY = 20  # late conversions: of fewer, what the two heads say of them is mostly their start
_PRIOR_SURVIVAL = 0.5  # share of conversions later than w_o, before any data


@dataclass(frozen=True, slots=True)
class HeadPredictions:
    """What the two heads say of B clicks: `dp` and `rn`, (B,) each."""

    dp: Float64
    rn: Float64


class TwoHeads:
    """dp and rn by features, each a logistic regression of its own in one pass over clicks as they mature.

    Args:
        features: of the model, in settings order; those for CTR alone are left out.
        prior_cvr: P(conversion | click) before any data.
        half_life_ms: event time in which what was learned loses half its weight; of no effect if all is learned at one time.

    Raises:
        ValueError: `prior_cvr` is not above 0 and below 1.

    Example:
        >>> none = np.zeros(0, np.int64)
        >>> clicks = Inputs(np.zeros((1000, 0), np.int64), none, np.zeros(1, np.int64), np.zeros((1000, 0), np.float32))
        >>> order = np.arange(1000) % 10
        >>> heads = TwoHeads([])
        >>> heads.fit(clicks, observed=order < 1, converted=order < 2)  # one in ten converts by w_o, one later, eight never
        >>> predicted = heads.predict(clicks)
        >>> predicted.dp[0].round(2), predicted.rn[0].round(2), heads.is_taught
        (np.float64(0.1), np.float64(0.89), True)

    Source:
        Yang et al., "Capturing Delayed Feedback in Conversion Rate Prediction via Elapsed-Time Sampling", AAAI 2021.
    """

    def __init__(self, features: Sequence[Feature], *, prior_cvr: float = 0.1, half_life_ms: int = _NEVER_MS) -> None:
        if not 0 < prior_cvr < 1:
            raise ValueError(
                f"prior_cvr must lie above 0 and below 1 (got {prior_cvr}): it is the mean P(conversion | click)"
            )
        dp = prior_cvr * _PRIOR_SURVIVAL
        self._dp, self._rn = (
            ScoreLogit(features, rates=np.array([rate]), prior_examples=_PRIOR_EXAMPLES, half_life_ms=half_life_ms)
            for rate in (dp, (1 - prior_cvr) / (1 - prior_cvr + dp))
        )
        self._late = 0

    @property
    def is_taught(self) -> bool:
        """Whether enough conversions later than w_o were among the clicks; before that, better not ask it."""
        return self._late >= _TAUGHT_BY

    def fit(self, inputs: Inputs, *, observed: Bool, converted: Bool, at_ms: int = 0) -> None:
        """Learns from B clicks that are at least w_a old. A history too large for one call may come in several.

        Args:
            inputs: their features.
            observed: (B,) whether they converted within w_o.
            converted: (B,) whether they converted within w_a.
            at_ms: event time of the batch; one before the latest is taken at the latest.

        Raises:
            ValueError: rows differ in number, or one converted by w_o and never.
        """
        observed, converted = np.asarray(observed, np.bool_), np.asarray(converted, np.bool_)
        if not len(inputs) == len(observed) == len(converted):
            raise ValueError(
                f"inputs, observed and converted must have as many rows (got {len(inputs)}, {len(observed)}, {len(converted)})"
            )
        if (observed & ~converted).any():
            row = int(np.flatnonzero(observed & ~converted)[0])
            raise ValueError(
                f"converted must hold wherever observed does (row {row} does not): w_o lies within the attribution window"
            )
        place = np.zeros(len(inputs), np.int64)
        late = converted & ~observed
        self._late += int(late.sum())
        self._dp.learn(inputs, place, late, at_ms=at_ms)
        negative = np.flatnonzero(~observed)
        self._rn.learn(rows_of(inputs, negative), place[negative], ~converted[negative], at_ms=at_ms)

    def predict(self, inputs: Inputs) -> HeadPredictions:
        """What they say of B clicks."""
        dp, rn = (0.5 * (1 + np.tanh(0.5 * head.logits(inputs)[:, 0])) for head in (self._dp, self._rn))
        return HeadPredictions(dp, rn)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies."""
        heads = {"dp": self._dp, "rn": self._rn}
        tensors = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.snapshot().items()}
        return tensors | {"late": torch.tensor(self._late)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self._late = int(tensors["late"])
        for name, head in (("dp.", self._dp), ("rn.", self._rn)):
            head.restore({key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)})
