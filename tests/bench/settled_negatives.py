"""A calmer form of `survival`, to be compared with: conversions alone teach positives, negatives are settled look by look; must not be used yet.

    event                 `survival`                         here
    IP                    (1, 0)                             (1, 0)
    ON                    (z_0, 1 - z_0)                     (0, 1 - z_0)            as `es_dfm`
    REVISIT_k             (z_k - z_j, z_j - z_k)             (0, z_j - z_k)          j the look before
    DP                    (1 - z_j, -(1 - z_j))              (1, -(1 - z_j))
    RN                    (-z_j, z_j)                        (0, z_j)
    over a life           (v, 1 - v)                         (v, 1 - v)

What leans on f is then the negatives alone. In the slope of a click's loss they stand beside f, a small number, so what comes back after days
of an error in f is f S / (1 - f F) of it in place of S / (1 - f F): .13 in place of .63 at f = .2, S = .58.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from models.batch import Batch, Event, Float64
from models.teaching import Lesson
from models.trainer import Learner
from streaming.lab.compare.runs import Walk
from streaming.settings import Settings

NAME = "settled"
_POSITIVE = (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE)


def walk_of(name: str) -> Callable[[Settings, Learner], Walk]:
    """The walk of a method: its own, or that of `NAME`."""
    return walk_settled if name == NAME else Walk


def method_behind(name: str) -> str:
    """What a run is set to: the method itself; `survival` for `NAME`."""
    return "survival" if name == NAME else name


def walk_settled(settings: Settings, learner: Learner) -> Walk:
    """A walk of a learner of `survival` whose positives are replaced."""
    assert settings.labels.method == "survival", "it takes its negatives from `survival`"
    teaching: Any = learner._teaching
    weigh, on_click = teaching.weigh, teaching.method.sees

    def weigh_settled(batch: Batch, f: Float64, *, at_ms: int) -> Lesson:
        lesson: Lesson = weigh(batch, f, at_ms=at_ms)
        positive = np.isin(batch.events, _POSITIVE).astype(np.float64)
        if settings.labels.growth:
            rows = np.flatnonzero(np.isin(batch.events, on_click))
            positive[rows] *= teaching._growth.ratio(batch.click_ms[rows], at_ms=at_ms)
        return replace(lesson, positive=positive)

    teaching.weigh = weigh_settled
    return Walk(settings, learner)
