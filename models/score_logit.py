"""Yes or no by features and place, learned in one pass: one score a row, and how much it matters at each place; must not know delays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from models.batch import Bool, Float64, Inputs, Int64
from models.beliefs import Beliefs
from models.feature_weights import Fields, Terms
from models.schema import Feature

_CHUNK = 64  # examples learned at a time: several see the same id, and what one says of it the next must know soon
_SWEEPS = 2  # steps of a chunk towards its posterior mode
_PROFILE_PRECISION = 4.0  # of a place's multiplier before it is known: 1 +- .5
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
        return np.bincount(terms.row, terms.value * self._beliefs.means(terms), len(inputs)).astype(np.float64)

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
        cuts = np.searchsorted(terms.row, starts)
        for number, (start, stop) in enumerate(pairwise(starts)):
            some = slice(cuts[number], cuts[number + 1])
            chunk = Terms(terms.row[some] - start, terms.field[some], terms.id[some], terms.value[some])
            self._learn(chunk, weights[some], places[start:stop], yes[start:stop].astype(np.float64))
            self._beliefs.count(stop - start)

    def _forget(self, at_ms: int) -> None:
        latest = at_ms if self._at_ms is None else max(at_ms, self._at_ms)
        kept = 1.0 if self._at_ms is None else 0.5 ** ((latest - self._at_ms) / self._half_life_ms)
        self._at_ms = latest
        self._evidence *= kept
        self._natural *= kept

    def _learn(self, terms: Terms, weights: Int64, places: Int64, yes: Float64) -> None:
        rows, row, value = len(yes), terms.row, terms.value
        weight, of = np.unique(weights, return_inverse=True)  # (U,) different ones, and which each term has
        place, at = np.unique(places, return_inverse=True)
        mean, variance = self._beliefs.read(weight)
        precision = self._start_precision[:, place] + self._evidence[:, place]  # (2, places)
        intercepts, profiles = self._start[:, place] + self._natural[:, place] / precision
        profile = profiles[at]  # (rows,)
        first_mean, first_intercepts = mean.copy(), intercepts.copy()

        # slope: d logit / d weight, of each term. blame: variance of the logit that is due to it. doubt: all of a row's.
        slope = value * profile[row]
        blame = slope**2 * variance[of]
        doubt = 1 / precision[0, at] + np.bincount(row, blame, rows)
        score = np.bincount(row, value * mean[of], rows)
        logit = intercepts[at] + profile * score
        surprise = yes - _sigmoid(logit)

        profile_pull = np.bincount(at, score * surprise, len(place))
        profile_bend = np.bincount(at, score**2 * _curvature(logit), len(place))
        for _ in range(_SWEEPS):
            # A row's quadratic is split among its weights by the share of its doubt that each has: a sum of parabolas above it.
            bend = doubt * _curvature(logit)
            pull = np.bincount(of, slope * surprise[row], len(weight))
            mean += (variance * pull - (mean - first_mean)) / (1 + np.bincount(of, bend[row], len(weight)))
            pull = np.bincount(at, surprise, len(place)) / precision[0]
            intercepts += (pull - (intercepts - first_intercepts)) / (1 + np.bincount(at, bend, len(place)))
            logit = intercepts[at] + profile * np.bincount(row, value * mean[of], rows)
            surprise = yes - _sigmoid(logit)

        # What a row says of one weight is blurred by the doubt about all others: exact for one row (Sherman and Morrison).
        information = _sigmoid(logit) * _sigmoid(-logit)
        told = information[row] * slope**2 / (1 + information[row] * (doubt[row] - blame))
        self._beliefs.update(weight, means=mean, evidence=np.bincount(of, told, len(weight)).astype(np.float64))
        others = doubt - 1 / precision[0, at]
        self._evidence[0, place] += np.bincount(at, information / (1 + information * others), len(place))
        self._evidence[1, place] += profile_bend
        profiles += profile_pull / (precision[1] + profile_bend)
        known = self._start_precision[:, place] + self._evidence[:, place]
        self._natural[:, place] = known * (np.stack([intercepts, profiles]) - self._start[:, place])

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


def _sigmoid(logit: Float64) -> Float64:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logit)))


def _curvature(logit: Float64) -> Float64:
    """Of the parabola that touches the logistic loss at a logit and lies above it everywhere else."""
    half = np.maximum(np.abs(logit) / 2, 1e-6)
    return np.asarray(np.tanh(half) / (4 * half))
