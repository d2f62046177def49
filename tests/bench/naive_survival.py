"""The naive form of `survival`, to be compared with: each look at a click is weighed with today's f; must not be used.

It holds every law of unit mass, since these are about a model that is right. What goes wrong needs a model that moves.
"""

from __future__ import annotations

from dataclasses import replace

from models.batch import Event
from models.delay import METHODS, Method
from models.weighing import Pairs, Seen


def open_from_todays_f(seen: Seen) -> Pairs:
    """P(v = 1 | nothing yet at this age), by the model as it stands at this look."""
    late = seen.f * (1 - seen.completed)
    z = late / (1 - seen.f + late)
    return z, 1 - z


_OF_SURVIVAL = METHODS["survival"]
NAIVE: Method = replace(
    _OF_SURVIVAL,
    pairs={
        **_OF_SURVIVAL.pairs,
        Event.OBSERVED_NEGATIVE: open_from_todays_f,
        Event.REVISIT: open_from_todays_f,
    },
)
