"""pCTR told rather than learned, in the conversion part of a product loss: the truth of a simulated log. Must not know a method.

Under "esmm" a conversion is taught through pCTR pCVR, so whatever pCTR has wrong at x, pCVR must make good: p ctr / pCTR. Where the product is
made with the true pCTR, and nothing else is changed, what is left is not pCTR's doing. What pCTR itself learns from is not touched: clicks alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.batch import Float64
from models.likelihoods import logit
from models.loss import Chance, Cost, Objective
from models.trainer import Learner
from streaming.lab.compare.runs import Walk
from streaming.lab.compare.stream import Group
from streaming.lab.world import truth_of
from streaming.settings import Settings

_LEAST, _MOST = 1e-6, 1 - 1e-6


class TrueCtr:
    """The logit of each impression's true pCTR, by name; NaN for one that the world did not show (a mishap).

    Args:
        log: directory of the log.
    """

    def __init__(self, log: Path) -> None:
        truth = truth_of(log)
        order = np.argsort(truth.impression_id)
        self._names = truth.impression_id[order]
        self._logits = np.array([logit(p) for p in np.clip(truth.pctr[order], _LEAST, _MOST)])

    def of(self, names: list[str]) -> Float64:
        """(n,) logits."""
        wanted = np.array(names, self._names.dtype)
        places = np.minimum(np.searchsorted(self._names, wanted), len(self._names) - 1)
        return np.where(self._names[places] == wanted, self._logits[places], np.nan)


class Given:
    """An objective whose conversions see a pCTR of their own, and teach none.

    Args:
        objective: "esmm" or "both".
    """

    counts_unclicked = True

    def __init__(self, objective: Objective) -> None:
        assert objective.counts_unclicked, "without a product there is no pCTR to give"
        self._objective = objective
        self.ctr_logit: Float64 | None = (
            None  # (B,) of the next batch; None is the model's own, still without a gradient
        )

    def cost(
        self,
        ctr_logit: Float64 | Chance,
        cvr_logit: Float64 | Chance,
        positive: Float64,
        negative: Float64,
        *,
        unclicked: Float64,
    ) -> Cost:
        """As `Objective.cost`; rows that nothing is known of have the model's own pCTR."""
        own = given = Chance.of(ctr_logit).logit
        if self.ctr_logit is not None:
            given = np.where(np.isnan(self.ctr_logit), own, self.ctr_logit)
        cost = self._objective.cost(given, cvr_logit, positive, negative, unclicked=unclicked)
        return Cost(cost.nats, np.zeros_like(own), cost.by_cvr)


def walk_given(truth: TrueCtr | None) -> Callable[[Settings, Learner], Walk]:
    """What makes walks whose product is made with the true pCTR; None: with the model's own, which conversions then teach nothing."""

    class Told(Walk):
        def __init__(self, settings: Settings, learner: Learner) -> None:
            super().__init__(settings, learner)
            self._given = Given(learner._objective)
            learner._objective = self._given  # type: ignore[assignment]

        def learn(self, group: Group, edges_ms: tuple[int, ...]) -> None:
            if truth is not None:
                self._given.ctr_logit = truth.of([shown.impression_id for shown in group.rows.impressions])
            super().learn(group, edges_ms)

    return Told
