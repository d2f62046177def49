"""Delay models that are told rather than taught: the truth of a simulated log, exact or off by so much; must not know a method.

S off by some amount is the whole curve off: beyond w_o, 1 - F is stretched by the same factor at every age, so it still falls to 0 at w_a.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from models.batch import Float64, Inputs
from models.completion import CompletionModel
from models.delay import method_of
from models.delay_curve import DelayPrior
from models.trainer import Learner
from streaming.lab.compare.runs import Walk
from streaming.lab.compare.stream import Group
from streaming.lab.delays import conversion_delay_cdf
from streaming.settings import Settings

_LEAST_S, _MOST_S = 0.01, 0.99


class GivenDelays(CompletionModel):
    """F of the clicks that it has been told of last; learns nothing.

    Args:
        edges: of the bins. first_look_ms: w_o. off: added to S.
    """

    def __init__(self, edges: tuple[int, ...], *, first_look_ms: int, off: float) -> None:
        super().__init__([], edges=edges, prior=DelayPrior(), half_life_ms=1)
        self._first, self._off = edges.index(first_look_ms), off
        self.short_share: Float64 = np.zeros(0)

    def completed_at_edges(self, inputs: Inputs) -> Float64:
        """F at every edge: (B, edges)."""
        assert len(inputs) == len(self.short_share), "told of other clicks than it is asked for"
        truth = conversion_delay_cdf(np.array(self.edges), self.short_share[:, None], self.edges[-1])  # (B, edges)
        s = 1 - truth[:, self._first, None]
        return np.asarray(np.maximum(1 - (1 - truth) * np.clip(s + self._off, _LEAST_S, _MOST_S) / s, 0.0))


def walk_with_truth(short_share: Mapping[str, float], *, off: float) -> Callable[[Settings, Learner], Walk]:
    """What makes walks whose delay model is the truth, S off by so much.

    Args:
        short_share: of each impression that was clicked.
        off: added to S.
    """

    class Told(Walk):
        def __init__(self, settings: Settings, learner: Learner) -> None:
            super().__init__(settings, learner)
            windows = settings.windows
            self._given = GivenDelays(learner.delays.edges, first_look_ms=windows.observation_window_ms, off=off)
            learner._teaching.delays = self._given
            self._sees = frozenset(int(event) for event in method_of(settings.labels.method).sees)

        def prime(self, group: Group) -> None:
            self._tell(group)
            super().prime(group)

        def learn(self, group: Group, edges_ms: tuple[int, ...]) -> None:
            self._tell(group)
            aside = Group(group.rows, [], group.outcomes, group.at_ms)  # what it is told needs no teaching
            super().learn(aside, edges_ms)

        def _tell(self, group: Group) -> None:
            names = [row.impression.impression_id for row in group.rows.others if row.kind in self._sees]
            # Mishaps aside, every click is known; a made-up one has the law of the middle.
            self._given.short_share = np.array([short_share.get(name, 0.35) for name in names])

    return Told
