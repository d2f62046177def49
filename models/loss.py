"""What a wrong prediction costs, in nats; must not know networks, weights of methods or how a label was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

_LINEAR_FROM = 50.0  # softplus(x) is x above it: e**-50 is lost in rounding (its default of 20 costs 2e-9)


def ctr_loss(ctr_logit: torch.Tensor, unclicked: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """The cross entropy of pCTR summed over the rows that show whether there was a click.

    Args:
        ctr_logit: (B,) any real number.
        unclicked: (B,) 1.0 on rows that teach that there was none, else 0.0.
        clicked: (B,) 1.0 on rows that teach that there was one, else 0.0.
    """
    return (unclicked * ctr_logit - (clicked + unclicked) * _log_sigmoid(ctr_logit)).sum()  # log s(-x) = log s(x) - x


def product_loss(
    ctr_logit: torch.Tensor, cvr_logit: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
) -> torch.Tensor:
    """The sum over the rows of positive * -log(pCTR pCVR) + negative * -log(1 - pCTR pCVR).

    The product is taken in log space: log p = log s(a) + log s(b), and log(1 - p) = log(s(-a) + s(a) s(-b)). Multiplied
    as float32 sigmoids, logits of 20 give log(1 - p) = -inf (true value -19.3).

    Args:
        ctr_logit: (B,) any real number.
        cvr_logit: (B,) any real number.
        positive: (B,) weight a+ of each row, a constant: no gradient flows through it.
        negative: (B,) weight a- of each row, likewise.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> round(product_loss(zero, zero, one, zero).item(), 3), round(product_loss(zero, zero, zero, one).item(), 3)
        (1.386, 0.288)

    Source:
        Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, arXiv:1804.07931.
    """
    log_ctr, log_cvr = _log_sigmoid(ctr_logit), _log_sigmoid(cvr_logit)
    log_product = log_ctr + log_cvr
    log_rest = torch.logaddexp(log_ctr - ctr_logit, log_ctr + log_cvr - cvr_logit)  # log s(-x) = log s(x) - x
    return -(positive.detach() * log_product + negative.detach() * log_rest).sum()


def composed_loss(
    ctr_logit: torch.Tensor, cvr_logit: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
) -> torch.Tensor:
    """The sum over the rows of positive * -log pCVR + negative * -log(1 - pCVR); pCTR has no part in it.

    Args:
        ctr_logit: not used: it keeps the objectives of one form.
        cvr_logit: (B,) any real number.
        positive: (B,) weight a+ of each row, a constant: no gradient flows through it.
        negative: (B,) weight a- of each row, likewise.
    """
    return -(positive.detach() * _log_sigmoid(cvr_logit) + negative.detach() * _log_sigmoid(-cvr_logit)).sum()


def _log_sigmoid(logit: torch.Tensor) -> torch.Tensor:
    # torch's own logsigmoid starts its threads for any number of rows, which for a batch costs more than it saves.
    return -softplus(-logit, threshold=_LINEAR_FROM)


@dataclass(frozen=True, slots=True)
class Objective:
    """How conversions are taught.

    Args:
        loss: of ctr_logit, cvr_logit, positive and negative, (B,) each.
        counts_unclicked: whether rows without a click teach it too, as negatives of weight kappa.
    """

    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    counts_unclicked: bool


OBJECTIVES: Mapping[str, Objective] = {
    "esmm": Objective(product_loss, counts_unclicked=True),
    "composed": Objective(composed_loss, counts_unclicked=False),
}
