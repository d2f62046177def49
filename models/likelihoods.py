"""Conversion heads that are trained by a likelihood of their own instead of pairs; must not know a network or a stream.

Each knows its heads, what it serves as pCVR, and its loss on clicks with the slopes by every head's logit, written out as in `loss.py`.
They have no pair of unit mass, so they teach on clicks alone ("composed").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from models.batch import Event, Float64, Int8

Form = Literal["pairs", "fnc", "bi_defuse", "dfm"]
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Told:
    """What B rows tell a likelihood.

    Args:
        events: (B,) `Event` codes; rows of others than the method sees have no part.
        weight: (B,) what each row counts (rho).
        age_ms: (B,) at a look at an open click: how old it was. delay_ms: (B,) at a conversion: how late it came.
        before_ms: (B,) how old the click was when it was last looked at; 0 if it never was.
    """

    events: Int8
    weight: Float64
    age_ms: Float64
    delay_ms: Float64
    before_ms: Float64


class Likelihood(Protocol):
    """How a method with heads of its own is trained and served."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of its heads, in the order of their logits."""

    def starts(self, prior_cvr: float) -> tuple[float, ...]:
        """The logit that each head starts from."""

    def pcvr(self, logits: Float64) -> Float64:
        """P(conversion | click): (heads, B) -> (B,)."""

    def cost(self, logits: Float64, told: Told) -> tuple[float, Float64]:
        """Nats summed over the rows, and the slopes by the logits, (heads, B)."""


class Fnc:
    """The fake negatives calibrated away: b is trained as if every click were a negative first, which gives b / (1 + b) of the truth.

    The logit is replaced by the log of its sigmoid while training, so that what is served needs no division and stays below 1.

    Source:
        Ktena et al., "Addressing Delayed Feedback for Continuous Training", RecSys 2019, arXiv:1907.06558; the form is Monolith's,
        arXiv:2209.07663.
    """

    heads = ("cvr",)

    def starts(self, prior_cvr: float) -> tuple[float, ...]:
        """The prior's logit."""
        return (logit(prior_cvr),)

    def pcvr(self, logits: Float64) -> Float64:
        """sigmoid(b)."""
        return sigmoid(logits[0])

    def cost(self, logits: Float64, told: Told) -> tuple[float, Float64]:
        """Cross entropy at log sigmoid(b): every click once as a negative or at once as a positive, late conversions once more."""
        s = -softplus(-logits[0])
        positive = np.isin(told.events, (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE)) * told.weight
        negative = (told.events == Event.OBSERVED_NEGATIVE) * told.weight
        nats = positive @ softplus(-s) + negative @ softplus(s)
        slope = (negative * sigmoid(s) - positive * sigmoid(-s)) * sigmoid(-logits[0])
        return float(nats), slope[None]


class BiDefuse:
    """One head for conversions within w_o, known at once, and one for those after it, which weighs its own fake negatives.

    Source:
        Chen et al., "Asymptotically Unbiased Estimation for Delayed Feedback Modeling via Label Correction", WWW 2022, arXiv:2202.06472.
    """

    heads = ("cvr_in", "cvr_out")

    def starts(self, prior_cvr: float) -> tuple[float, ...]:
        """Half of the prior each; the outer head must start small: it is stationary at 1 as well."""
        return logit(prior_cvr / 2), logit(prior_cvr / 2)

    def pcvr(self, logits: Float64) -> Float64:
        """The sum of both, at most 1."""
        return np.minimum(sigmoid(logits[0]) + sigmoid(logits[1]), 1.0)

    def cost(self, logits: Float64, told: Told) -> tuple[float, Float64]:
        """Plain cross entropy inside; outside (g^2, 1 - g^2) on every first event and (1, 0) on a late conversion."""
        is_in = (told.events == Event.IMMEDIATE_POSITIVE) * told.weight
        is_open = (told.events == Event.OBSERVED_NEGATIVE) * told.weight
        is_late = (told.events == Event.DELAYED_POSITIVE) * told.weight
        g = sigmoid(logits[1])
        positive = np.stack([is_in, is_late + (is_in + is_open) * g**2])
        negative = np.stack([is_open, (is_in + is_open) * (1 - g**2)])
        nats = (positive * softplus(-logits) + negative * softplus(logits)).sum()
        return float(nats), negative * sigmoid(logits) - positive * sigmoid(-logits)


class Dfm:
    """Whether and when, jointly: a click converts with p, then after an exponential delay with hazard l(x) a day.

    With S(e) = 1 - p + p exp(-l e) for "nothing yet at age e", every look at an open click teaches what it adds to the last one,
    -log S(e) + log S(e0), and a conversion -log(p l exp(-l h)) + log S(e0): over the life of a click that is its likelihood, once.
    A conversion may become known after a look at an age e0 > h that it had come before: that look was wrong, and is undone with the others.

    Args:
        attribution_window_ms: w_a; what is served is the share that converts within it.

    Source:
        Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014; looked at again at horizons, since a stream cannot wait.
    """

    heads = ("cvr", "delay")

    def __init__(self, *, attribution_window_ms: int) -> None:
        self._window = attribution_window_ms / DAY_MS

    def starts(self, prior_cvr: float) -> tuple[float, ...]:
        """The prior's logit, and a hazard by which nineteen of twenty come within the window."""
        return logit(prior_cvr), float(np.log(np.expm1(min(3.0 / self._window, 500.0))))

    def pcvr(self, logits: Float64) -> Float64:
        """What converts within the window: p (1 - exp(-l w_a))."""
        return sigmoid(logits[0]) * -np.expm1(-softplus(logits[1]) * self._window)

    def cost(self, logits: Float64, told: Told) -> tuple[float, Float64]:
        """The likelihood above, in days."""
        s, w = logits
        hazard = softplus(w)
        is_look = np.isin(told.events, (Event.OBSERVED_NEGATIVE, Event.REVISIT, Event.REAL_NEGATIVE)) * told.weight
        is_conversion = np.isin(told.events, (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE)) * told.weight
        age, before = (np.where(is_look + is_conversion > 0, ms, 0.0) / DAY_MS for ms in (told.age_ms, told.before_ms))
        delay = np.where(is_conversion > 0, told.delay_ms, 0.0) / DAY_MS
        log_now, by_s_now, by_hazard_now = self._open(s, hazard, np.where(is_look > 0, age, 0.0))
        log_before, by_s_before, by_hazard_before = self._open(s, hazard, before)
        nats = is_look @ (log_before - log_now)
        nats += is_conversion @ (softplus(-s) - np.log(hazard) + hazard * delay + log_before)
        by_s = is_look * (by_s_before - by_s_now) + is_conversion * (by_s_before - sigmoid(-s))
        by_hazard = is_look * (by_hazard_before - by_hazard_now)
        by_hazard += is_conversion * (by_hazard_before + delay - 1 / hazard)
        return float(nats), np.stack([by_s, by_hazard * sigmoid(w)])

    @staticmethod
    def _open(s: Float64, hazard: Float64, age: Float64) -> tuple[Float64, Float64, Float64]:
        """The log of S(age), and its slopes by s and by the hazard."""
        log_still = -softplus(-s) - hazard * age  # converts, later
        log_open = np.logaddexp(-softplus(s), log_still)
        still = np.exp(log_still - log_open)
        return log_open, sigmoid(-s) * still - np.exp(-softplus(s) - log_open) * sigmoid(s), -age * still


def softplus(x: Float64) -> Float64:
    """log(1 + exp(x)), for any x."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: Float64) -> Float64:
    """1 / (1 + exp(-x)), for any x."""
    return np.exp(-softplus(-x))


def logit(p: float) -> float:
    """log(p / (1 - p))."""
    return float(np.log(p) - np.log1p(-p))


def likelihood_of(form: str, *, attribution_window_ms: int) -> Likelihood | None:
    """The likelihood of a method's form; None for "pairs"."""
    likelihoods: dict[str, Likelihood] = {
        "fnc": Fnc(),
        "bi_defuse": BiDefuse(),
        "dfm": Dfm(attribution_window_ms=attribution_window_ms),
    }
    return likelihoods.get(form)
