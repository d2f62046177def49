"""What a wrong prediction costs, in nats, and its slope; must not know networks, weights of methods or how a label was found.

Slopes are written out, in float64 numpy: a few numbers a row, for which autograd costs three times as much. Whoever adds a loss adds
its slope; the tests hold every one against finite differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.batch import Float64


class Cost(NamedTuple):
    """A loss and its gradient.

    Args:
        nats: summed over the rows.
        by_ctr: (B,) gradient by ctr_logit.
        by_cvr: (B,) gradient by cvr_logit.
    """

    nats: float
    by_ctr: Float64
    by_cvr: Float64


class Chance(NamedTuple):
    """A probability of B rows by its logit, with the logs that losses are made of.

    Args:
        logit: (B,) any real number. log_yes: (B,) log s(logit).

    Example:
        >>> Chance.of(np.array([0.0])).yes
        array([0.5])
    """

    logit: Float64
    log_yes: Float64

    @classmethod
    def of(cls, logit: Float64 | Chance) -> Chance:
        """From a logit; a chance stays as it is."""
        if isinstance(logit, Chance):
            return logit
        return cls(logit, np.minimum(logit, 0.0) - np.log1p(np.exp(-np.abs(logit))))

    @property
    def log_no(self) -> Float64:
        """(B,) log s(-logit)."""
        return self.log_yes - self.logit

    @property
    def yes(self) -> Float64:
        """(B,) the probability."""
        return np.exp(self.log_yes)


def ctr_loss(ctr_logit: Float64 | Chance, unclicked: Float64, clicked: Float64) -> Cost:
    """The cross entropy of pCTR, over the rows that show whether there was a click.

    Args:
        ctr_logit: (B,) any real number, or the chance that it gives.
        unclicked: (B,) 1.0 on rows that teach that there was none, else 0.0.
        clicked: (B,) 1.0 on rows that teach that there was one, else 0.0.
    """
    click, shown = Chance.of(ctr_logit), unclicked + clicked
    nats = unclicked @ click.logit - shown @ click.log_yes  # log s(-x) = log s(x) - x
    return Cost(float(nats), shown * click.yes - clicked, np.zeros_like(click.logit))


def product_loss(
    ctr_logit: Float64 | Chance, cvr_logit: Float64 | Chance, positive: Float64, negative: Float64
) -> Cost:
    """The sum over the rows of positive * -log(pCTR pCVR) + negative * -log(1 - pCTR pCVR).

    With a and b the logits and s the sigmoid, the product p = s(a) s(b) is taken in log space: log p = log s(a) + log s(b), and
    log(1 - p) = log(s(-a) + s(a) s(-b)). Multiplied as float32 sigmoids, logits of 20 give log(1 - p) = -inf (true value -19.3).
    Slopes: of -log p, -s(-a) and -s(-b); of -log(1 - p), p s(-a) / (1 - p) and p s(-b) / (1 - p).

    Args:
        ctr_logit: (B,) any real number, or the chance that it gives.
        cvr_logit: (B,) likewise.
        positive: (B,) weight a+ of each row, a constant: no gradient flows through it.
        negative: (B,) weight a- of each row, likewise.

    Example:
        >>> zero, one = np.zeros(1), np.ones(1)
        >>> round(product_loss(zero, zero, one, zero).nats, 3), round(product_loss(zero, zero, zero, one).nats, 3)
        (1.386, 0.288)

    Source:
        Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, arXiv:1804.07931.
    """
    click, conversion = Chance.of(ctr_logit), Chance.of(cvr_logit)
    log_no_click, log_no_conversion = click.log_no, conversion.log_no
    log_product = click.log_yes + conversion.log_yes
    log_rest = np.logaddexp(log_no_click, click.log_yes + log_no_conversion)
    log_odds = log_product - log_rest
    by_ctr, by_cvr = (
        negative * np.exp(log_odds + log_not) - positive * np.exp(log_not)
        for log_not in (log_no_click, log_no_conversion)
    )
    return Cost(float(-(positive @ log_product) - negative @ log_rest), by_ctr, by_cvr)


def composed_loss(
    ctr_logit: Float64 | Chance, cvr_logit: Float64 | Chance, positive: Float64, negative: Float64
) -> Cost:
    """The sum over the rows of positive * -log pCVR + negative * -log(1 - pCVR); pCTR has no part in it.

    Args:
        ctr_logit: not used: it keeps the objectives of one form.
        cvr_logit: (B,) any real number, or the chance that it gives.
        positive: (B,) weight a+ of each row, a constant: no gradient flows through it.
        negative: (B,) weight a- of each row, likewise.
    """
    conversion, mass = Chance.of(cvr_logit), positive + negative
    nats = negative @ conversion.logit - mass @ conversion.log_yes
    return Cost(float(nats), np.zeros_like(conversion.logit), mass * conversion.yes - positive)


@dataclass(frozen=True, slots=True)
class Objective:
    """How conversions are taught: a product over all impressions, on clicks alone, or a sum of both.

    Args:
        product: weight of `product_loss`. composed: weight of `composed_loss`.

    Example:
        >>> zero, half = np.zeros(1), np.full(1, 0.5)
        >>> round(OBJECTIVES["esmm"].cost(zero, zero, half, half, unclicked=zero).nats, 3)
        0.837
    """

    product: float
    composed: float

    @property
    def counts_unclicked(self) -> bool:
        """Whether rows without a click teach conversions too."""
        return self.product > 0

    def cost(
        self,
        ctr_logit: Float64 | Chance,
        cvr_logit: Float64 | Chance,
        positive: Float64,
        negative: Float64,
        *,
        unclicked: Float64,
    ) -> Cost:
        """The loss of (B,) rows; `unclicked` (B,) is the negative weight of those without a click, 0 elsewhere."""
        click, conversion = Chance.of(ctr_logit), Chance.of(cvr_logit)
        parts: list[tuple[float, Cost]] = []
        if self.product:
            parts.append((self.product, product_loss(click, conversion, positive, negative + unclicked)))
        if self.composed:
            parts.append((self.composed, composed_loss(click, conversion, positive, negative)))
        nats, by_ctr, by_cvr = 0.0, np.zeros_like(click.logit), np.zeros_like(click.logit)
        for weight, cost in parts:
            nats, by_ctr, by_cvr = (
                nats + weight * cost.nats,
                by_ctr + weight * cost.by_ctr,
                by_cvr + weight * cost.by_cvr,
            )
        return Cost(nats, by_ctr, by_cvr)


OBJECTIVES: Mapping[str, Objective] = {
    "esmm": Objective(product=1.0, composed=0.0),
    "composed": Objective(product=0.0, composed=1.0),
}


def objective_of(name: str, *, composed_weight: float) -> Objective:
    """The objective of the settings: `esmm`, `composed`, or `both` with this weight of `composed`."""
    return Objective(product=1.0, composed=composed_weight) if name == "both" else OBJECTIVES[name]
