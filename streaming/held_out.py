"""The newest final labels of the clicks that are set aside, and what the version served said of them. Must not know which version passes.

No version has been taught anything of these clicks, so what it says of them is what it would say of new ones. With
`gate.held_out_share` = 0 none are set aside: then these are the newest clicks of all, this version has learned their labels as the one
before it has, and they show what went wrong since, not how good a model is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from models.batch import Float64, Inputs
from streaming.batching import decode_examples, encode_examples
from streaming.examples import Example
from streaming.features import FeatureReader
from streaming.gate import Compared
from streaming.set_aside import JudgedState, SetAside
from streaming.settings import Settings


class HeldOut:
    """The newest OUTCOMEs of what is set aside, with their features.

    Args:
        settings: of the run; where no rule of the gate asks for labels, none are kept.
    """

    def __init__(self, settings: Settings) -> None:
        rules = settings.gate
        self._set_aside = SetAside.of(rules)
        self._reader = FeatureReader(settings.features)
        self._kept: deque[Example] = deque(maxlen=rules.outcomes_kept if rules.judges_labels else 0)
        self._served: deque[float] = deque(maxlen=self._kept.maxlen)

    @property
    def keeps(self) -> bool:
        """Whether any are kept."""
        return self._kept.maxlen != 0

    def on_outcomes(self, outcomes: Sequence[Example]) -> None:
        """Takes clicks whose labels have become final."""
        for outcome in outcomes:
            if self._set_aside.is_empty or self._set_aside.has(outcome.impression.impression_id):
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

    def snapshot(self, *, has_passed: bool) -> JudgedState:
        """All state; `has_passed` goes with it."""
        return JudgedState(encode_examples(self._kept) if self._kept else None, list(self._served), has_passed)

    def restore(self, state: JudgedState) -> None:
        """Takes up what `snapshot` gave, in place of all there was."""
        self._kept.clear()
        self._kept.extend(decode_examples(state.outcomes) if state.outcomes is not None else [])
        self._served.clear()
        self._served.extend(state.served)
