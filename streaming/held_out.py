"""The newest matured clicks, and what the version served said of them. Must not know which version passes.

Their labels have been taught, to this version as to the one before it: they show what went wrong since, not how good a model is on
clicks that it has never seen. That is what prequential scores are for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from models.batch import Float64, Inputs
from streaming.examples import Example
from streaming.features import FeatureReader
from streaming.gate import Compared
from streaming.settings import Settings


class HeldOut:
    """The newest OUTCOMEs with their features.

    No part of a cut: a run that goes on from one collects them anew, and until there are enough they say nothing.

    Args:
        settings: of the run; where no rule of the gate asks for outcomes, none are kept.
    """

    def __init__(self, settings: Settings) -> None:
        rules = settings.gate
        asked = (rules.calibration_least, rules.calibration_most, rules.log_loss_ratio_most)
        is_asked = any(rule is not None for rule in asked)
        self._reader = FeatureReader(settings.features)
        self._kept: deque[Example] = deque(maxlen=rules.outcomes_kept if is_asked else 0)
        self._served: deque[float] = deque(maxlen=self._kept.maxlen)

    @property
    def keeps(self) -> bool:
        """Whether any are kept."""
        return self._kept.maxlen != 0

    def on_outcomes(self, outcomes: Iterable[Example]) -> None:
        """Takes clicks whose labels have become final."""
        for outcome in outcomes:
            self._kept.append(outcome)
            self._served.append(float("nan"))

    def compared(self, predict: Callable[[Inputs], Float64]) -> Compared:
        """What a version says of them.

        Args:
            predict: features of n rows -> (n,) pCVR.
        """
        if not self._kept:
            return Compared(np.zeros(0, np.bool_), np.zeros(0), np.zeros(0))
        pcvr = predict(self._reader.read([outcome.impression.features for outcome in self._kept]))
        converted = np.array([outcome.converted for outcome in self._kept], np.bool_)
        return Compared(converted, pcvr, np.array(self._served))

    def passed(self, compared: Compared) -> None:
        """Takes note that the version just compared is the one that is served now."""
        self._served.clear()
        self._served.extend(compared.pcvr.tolist())
