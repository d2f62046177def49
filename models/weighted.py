"""What rows teach when their weights are given, of either sign; must not know where weights come from, nor a network."""

from __future__ import annotations

from dataclasses import dataclass

from models.batch import Float64
from models.loss import Cost, composed_loss, ctr_loss, product_loss


@dataclass(frozen=True, slots=True)
class Weighted:
    """The weights of B rows. One below 0 takes back what was taught: its loss counts the other way round.

    Args:
        clicked, unclicked: (B,) of the labels "clicked" and "not clicked".
        product: (2, B) a+ and a- in the product loss; of a row without a click, a- is kappa.
        composed: (2, B) a+ and a- on clicks alone.

    Example:
        >>> import numpy as np
        >>> one, pair = np.ones(1), np.zeros((2, 1))
        >>> late_click = Weighted(clicked=one, unclicked=-one, product=pair, composed=pair)
        >>> late_click.cost(np.zeros(1), np.zeros(1)).by_ctr  # the slope of right less wrong is -1 wherever the model stands
        array([-1.])
    """

    clicked: Float64
    unclicked: Float64
    product: Float64
    composed: Float64

    def __len__(self) -> int:
        return len(self.clicked)

    def __abs__(self) -> Weighted:
        return Weighted(abs(self.clicked), abs(self.unclicked), abs(self.product), abs(self.composed))

    def cost(self, ctr_logit: Float64, cvr_logit: Float64) -> Cost:
        """The loss of the rows at these logits, (B,) each, and its slopes."""
        clicks = ctr_loss(ctr_logit, self.unclicked, self.clicked)
        over_all = product_loss(ctr_logit, cvr_logit, *self.product)
        on_clicks = composed_loss(ctr_logit, cvr_logit, *self.composed)
        return Cost(
            clicks.nats + over_all.nats + on_clicks.nats,
            clicks.by_ctr + over_all.by_ctr + on_clicks.by_ctr,
            clicks.by_cvr + over_all.by_cvr + on_clicks.by_cvr,
        )
