"""What each kind of event on a click teaches under each method, as pure functions; must not know a network or a stream.

Every event on a click gets a pair (a+, a-): its loss is a+ * l1 + a- * l0. Letters: f = pCVR of the model being trained, S = P(h > w_o | v = 1),
dp = f S, rn = P(v = 0 | nothing yet at w_o), z = 1 - rn, M = 2 - f + dp. None of them carries a gradient: they are numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from models.batch import Float64

LEAST_F, MOST_F = 1e-6, 1 - 1e-6


class Seen(NamedTuple):
    """What is known of n events on clicks when they are weighed; (n,) each.

    Args:
        f: pCVR now, held away from 0 and 1. s: share of the conversions that come after w_o.
        v: the label, 1.0 or 0.0.
        completed: F at the age of a look at the click, of all conversions the share that comes by it; 1 once it is settled.
        first_f: the f of this click's first event; NaN if there was none.

    Methods without `uses_delay` have NaN for s and completed, those without `adjusts` for first_f.

    told_dp, told_rn: dp (at most f) and rn where two heads tell them; None: they follow from f and s.
    """

    f: Float64
    s: Float64
    v: Float64
    completed: Float64
    first_f: Float64
    told_dp: Float64 | None = None
    told_rn: Float64 | None = None

    @property
    def dp(self) -> Float64:
        """P(v = 1, later than w_o)."""
        return self.f * self.s if self.told_dp is None else self.told_dp

    @property
    def rn(self) -> Float64:
        """P(v = 0 | nothing yet at w_o)."""
        return (1 - self.f) / (1 - self.f + self.dp) if self.told_rn is None else self.told_rn

    @property
    def mass(self) -> Float64:
        """M, what the weights of `ddfm` add up to over a click."""
        return 2 - self.f + self.dp


Pairs: TypeAlias = tuple[Float64, Float64]
Pair: TypeAlias = Callable[[Seen], Pairs]
"""(n) events -> a+ (n,), a- (n,)."""


def by_label(seen: Seen) -> Pairs:
    """The label as it stands."""
    return seen.v, 1 - seen.v


def positive(seen: Seen) -> Pairs:
    """One positive, whatever the model says."""
    return np.ones_like(seen.f), np.zeros_like(seen.f)


def negative(seen: Seen) -> Pairs:
    """One negative, whatever the model says."""
    return np.zeros_like(seen.f), np.ones_like(seen.f)


def fnw_negative(seen: Seen) -> Pairs:
    """Every click is a negative first; of those, 1 - f stay one.

    Source:
        Ktena et al., "Addressing Delayed Feedback for Continuous Training", RecSys 2019, arXiv:1907.06558.
    """
    return np.zeros_like(seen.f), 1 - seen.f


def es_dfm_negative(seen: Seen) -> Pairs:
    """An observed negative counts as far as it is likely to be a real one.

    Source:
        Yang et al., "Capturing Delayed Feedback in Conversion Rate Prediction via Elapsed-Time Sampling", AAAI 2021, arXiv:2012.03245.
    """
    return np.zeros_like(seen.f), seen.rn


def defer_immediate(seen: Seen) -> Pairs:
    """A positive that would come twice in the paper, here once with both weights.

    Source:
        Gu et al., "Real Negatives Matter", KDD 2021, arXiv:2104.14121.
    """
    return 2 / (2 - seen.s), np.zeros_like(seen.f)


def defer_delayed(seen: Seen) -> Pairs:
    """The second copy of a click that converted late."""
    return 1 / (2 - seen.s), np.zeros_like(seen.f)


def defer_negative(seen: Seen) -> Pairs:
    """Either copy of a click without conversion: the observed and the real negative."""
    return np.zeros_like(seen.f), (1 - seen.f) / (2 * (1 - seen.f) + seen.dp)


def defuse_negative(seen: Seen) -> Pairs:
    """An observed negative is a late positive with z, a real one with rn, and teaches both.

    Source:
        Chen et al., "Asymptotically Unbiased Estimation for Delayed Feedback Modeling via Label Correction", WWW 2022, arXiv:2202.06472.
    """
    return (1 - seen.rn) * seen.dp / (1 + seen.dp), seen.rn


def defuse_delayed(seen: Seen) -> Pairs:
    """What its observed negative has not taught yet."""
    return 1 / (1 + seen.dp), np.zeros_like(seen.f)


def ddfm_positive(seen: Seen) -> Pairs:
    """A positive, immediate or delayed.

    Source:
        Dai et al., "Dually Enhanced Delayed Feedback Modeling for Streaming Conversion Rate Prediction", CIKM 2023.
    """
    return 1 / seen.mass, np.zeros_like(seen.f)


def ddfm_observed(seen: Seen) -> Pairs:
    """An observed negative as a soft label."""
    return (1 - seen.rn) / seen.mass, seen.rn / seen.mass


def ddfm_real(seen: Seen) -> Pairs:
    """A real negative pays back what the copies of converters have too much."""
    return (seen.f - seen.dp) / seen.mass, (1 - seen.f + seen.dp) / seen.mass


def survival_open(seen: Seen) -> Pairs:
    """P(v = 0 | nothing yet at this age): how far a click that is still open is a negative, from the f of its first event.

    Not a soft label: a positive that is lent and taken back when nothing came leans on f with nearly all its weight, and swings.
    From today's f each look would reinforce the step before it: what the looks at a click add to and take from its negative sums to nothing.
    """
    late = seen.first_f * (1 - seen.completed)
    return np.zeros_like(seen.f), (1 - seen.first_f) / (1 - seen.first_f + late)


def paper(unit: Pair, factor: Callable[[Seen], Float64]) -> Pair:
    """A weight as published: that of unit mass times what its paper's own sample space is larger by."""

    def scaled(seen: Seen) -> Pairs:
        plus, minus = unit(seen)
        return plus * factor(seen), minus * factor(seen)

    return scaled


def one_and_f(seen: Seen) -> Float64:
    """1 + f: copies a click of `fnw`."""
    return 1 + seen.f


def one_and_dp(seen: Seen) -> Float64:
    """1 + dp: copies a click of `es_dfm` and `defuse`."""
    return 1 + seen.dp


def two(seen: Seen) -> Float64:
    """Copies a click of `defer`."""
    return np.full_like(seen.f, 2.0)


def mass_of_ddfm(seen: Seen) -> Float64:
    """M: copies a click of `ddfm`."""
    return seen.mass
