"""Yes or no by features and place, learned in one pass: one score a row, and how much it matters at each place; must not know delays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from models.batch import Bool, Float64, Inputs, Int64
from models.beliefs import Beliefs
from models.feature_weights import Fields
from models.schema import Feature

_CHUNK = 64  # examples learned at a time: several see the same id, and what one says of it the next must know soon
_SWEEPS = 2  # steps of a chunk towards its posterior mode
_PROFILE_PRECISION = 4.0  # of a place's multiplier before it is known: 1 +- .5
_NOT_ZERO = 1e-300  # tanh(x) / x is 1 at 0; no other number moves by so little
_LEAST_PRECISION = 0.25  # of a place's intercept: it may be off by 2, whatever its prior rate


class ScoreLogit:
    """logit P(yes | x, place k) = intercept_k + profile_k * score(x), score(x) = sum of the weights of x's features.

    One number an id says what x does, one profile over the places says where it does it. All are Gaussian beliefs. A chunk of
    examples moves their means towards the mode of its posterior by majorised Newton steps: however many features a row has and
    rows an id, a step cannot overshoot; for one row it is the gain of a Kalman filter. The profile is
    taught with scores from before the row is learned, so where these do not hold up it shrinks them.

    Args:
        features: of the model, in settings order.
        rates: (places,) prior P(yes) of each place, above 0 and below 1.
        prior_examples: how many examples a rate weighs.
        half_life_ms: event time in which what was learned loses half its weight.
        max_rows: most weights kept; None is no limit.

    Raises:
        ValueError: a rate is not above 0 and below 1, or the half-life or `prior_examples` is not above 0.

    Source:
        Graepel et al., "Web-Scale Bayesian Click-Through Rate Prediction", ICML 2010, for a Gaussian a weight;
        Jaakkola and Jordan, "Bayesian Parameter Estimation via Variational Methods", 2000, for the majoriser.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        rates: Float64,
        prior_examples: float,
        half_life_ms: int,
        max_rows: int | None = None,
    ) -> None:
        if not ((rates > 0) & (rates < 1)).all():
            raise ValueError(
                f"rates must lie above 0 and below 1 (got {rates}): their logits are where learning starts"
            )
        if half_life_ms <= 0:
            raise ValueError(
                f"half_life_ms must be above 0 (got {half_life_ms}): it is the time in which old examples lose half their weight"
            )
        if not 0 < prior_examples < np.inf:
            raise ValueError(
                f"prior_examples must be above 0 and finite (got {prior_examples}): a place nobody has seen needs a rate"
            )
        self._fields = Fields(features)
        self._beliefs = Beliefs(self._fields.count, half_life_ms=half_life_ms, max_rows=max_rows)
        self._half_life_ms = half_life_ms
        # Of each place, its intercept and its profile: where they start and how fast, then what examples have said, in the
        # natural form of `Beliefs`.
        self._start = np.stack([np.log(rates) - np.log1p(-rates), np.ones(len(rates))])
        self._start_precision = np.stack(
            [
                np.maximum(prior_examples * rates * (1 - rates), _LEAST_PRECISION),
                np.full(len(rates), _PROFILE_PRECISION),
            ]
        )
        self._evidence = np.zeros_like(self._start)
        self._natural = np.zeros_like(self._start)
        self._at_ms: int | None = None

    @property
    def places(self) -> tuple[Float64, Float64]:
        """Intercept and profile of each place, (places,) each."""
        intercept, profile = self._start + self._natural / (self._start_precision + self._evidence)
        return intercept, profile

    @property
    def weights(self) -> int:
        """How many ids (and numbers) have a weight."""
        return len(self._beliefs)

    def scores(self, inputs: Inputs) -> Float64:
        """What x does: (B,), 0 for a row of ids never learned."""
        terms = self._fields.terms(inputs)
        return np.asarray(np.bincount(terms.row, terms.value * self._beliefs.means(terms), len(inputs)), np.float64)

    def logits(self, inputs: Inputs, *, since: int = 0) -> Float64:
        """The logit at each place from number `since` on: (B, places - since)."""
        intercept, profile = self.places
        return np.asarray(intercept[since:] + self.scores(inputs)[:, None] * profile[since:])

    def learn(self, inputs: Inputs, places: Int64, yes: Bool, *, at_ms: int) -> None:
        """Learns from B rows.

        Args:
            inputs: their features.
            places: (B,) where each was asked.
            yes: (B,) and what came out.
            at_ms: event time of the batch; one before the latest is taken at the latest.
        """
        if not len(inputs):
            return
        self._forget(at_ms)
        self._fields.observe(inputs)
        terms = self._fields.terms(inputs)
        assert self._at_ms is not None
        weights = self._beliefs.admit(terms, at_ms=self._at_ms)
        starts = [*range(0, len(inputs), _CHUNK), len(inputs)]
        ends = np.searchsorted(terms.row, starts)
        for (start, stop), (first, end) in zip(pairwise(starts), pairwise(ends), strict=True):
            some = slice(first, end)
            self._learn(terms.row[some] - start, terms.value[some], weights[some], places[start:stop], yes[start:stop])
            self._beliefs.count(stop - start)

    def _forget(self, at_ms: int) -> None:
        latest = at_ms if self._at_ms is None else max(at_ms, self._at_ms)
        kept = 1.0 if self._at_ms is None else 0.5 ** ((latest - self._at_ms) / self._half_life_ms)
        self._at_ms = latest
        self._evidence *= kept
        self._natural *= kept

    def _learn(self, row: Int64, value: Float64, weights: Int64, at: Int64, yes: Bool) -> None:
        """Learns from one chunk: of each of its terms the row, the value and the weight, of each row the place and what came out."""
        rows, places = len(yes), self._start.shape[1]
        weight, of = self._beliefs.distinct(weights)  # (U,) different ones, and which each term has
        mean, variance = self._beliefs.read(weight)
        precision = self._start_precision + self._evidence  # (2, places)
        offset, tilt = self._natural / precision  # (places,) how far intercept and profile are from where they start
        intercept, profile = self._start[0, at], (self._start[1] + tilt)[at]  # (rows,)
        score = np.bincount(row, value * mean[of], rows)

        # An intercept is one more weight, and of each row one more term, whose slope is 1. slope: d logit / d weight.
        slope = np.concatenate([value * profile[row], np.ones(rows)])
        row, of = np.concatenate([row, np.arange(rows)]), np.concatenate([of, len(weight) + at])
        mean, variance = np.concatenate([mean, offset]), np.concatenate([variance, 1 / precision[0]])
        first_mean, size = mean, len(mean)
        # blame: variance of the logit that is due to a term. doubt: all of a row's.
        square = slope * slope
        blame = square * variance[of]
        doubt = np.bincount(row, blame, rows)

        def outcome() -> tuple[Float64, Float64]:
            return _logistic(intercept + np.bincount(row, slope * mean[of], rows))

        probability, curvature = outcome()
        pull = np.bincount(at, score * (yes - probability), places)
        bend = np.bincount(at, score**2 * curvature, places)
        tilt = tilt + pull / (precision[1] + bend)
        self._evidence[1] += bend
        for _ in range(_SWEEPS):
            # A row's quadratic is split among its weights by the share of its doubt that each has: a sum of parabolas above it.
            bend = np.bincount(of, (doubt * curvature)[row], size)
            pull = np.bincount(of, slope * (yes - probability)[row], size)
            mean = mean + (variance * pull - (mean - first_mean)) / (1 + bend)
            probability, curvature = outcome()

        # What a row says of one weight is blurred by the doubt about all others: exact for one row (Sherman and Morrison).
        information = probability * (1 - probability)
        told = information[row] * square / ((1 + information * doubt)[row] - information[row] * blame)
        evidence = np.asarray(np.bincount(of, told, size), np.float64)
        self._beliefs.update(weight, means=mean[:-places], evidence=evidence[:-places])
        self._evidence[0] += evidence[-places:]
        self._natural = (self._start_precision + self._evidence) * np.stack([mean[-places:], tilt])

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies: what `restore` continues from bit for bit."""
        return {
            "evidence": torch.from_numpy(self._evidence.copy()),
            "natural": torch.from_numpy(self._natural.copy()),
            "at_ms": torch.tensor([] if self._at_ms is None else [self._at_ms], dtype=torch.int64),
            **{f"fields.{name}": tensor for name, tensor in self._fields.snapshot().items()},
            **{f"beliefs.{name}": tensor for name, tensor in self._beliefs.snapshot().items()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self._evidence, self._natural = tensors["evidence"].numpy().copy(), tensors["natural"].numpy().copy()
        self._at_ms = int(tensors["at_ms"][0]) if len(tensors["at_ms"]) else None
        for name, part in (("fields.", self._fields), ("beliefs.", self._beliefs)):
            part.restore({key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)})


def _logistic(logit: Float64) -> tuple[Float64, Float64]:
    """1 / (1 + e^-x) without overflow, and the curvature of the parabola that touches the logistic loss there and lies above it elsewhere."""
    half = 0.5 * logit + _NOT_ZERO
    slope = np.tanh(half)
    return 0.5 + 0.5 * slope, 0.25 * slope / half
