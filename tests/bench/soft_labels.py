"""`survival` with soft labels, to be compared with: an open click is lent the positive that may still come; must not be used.

    event                 `survival`                   SOFT
    IP                    (1, 0)                       (1, 0)
    ON                    (0, 1 - z_0)                 (z_0, 1 - z_0)
    REVISIT_k             (0, z_j - z_k)               (z_k - z_j, z_j - z_k)      j the look before
    DP                    (1, -(1 - z_j))              (1 - z_j, -(1 - z_j))
    RN                    (0, z_j)                     (-z_j, z_j)
    over a life           (v, 1 - v)                   (v, 1 - v)

Both settle every click, whatever S says. What is lent and taken back later leans on f: of an error in f days later f S / (1 - f F) comes back with
`survival`, whose negatives stand beside f in the slope of the loss, and S / (1 - f F) with SOFT: .13 and .63 at f = .2, S = .58. NAIVE is SOFT with z of
the f of each look in place of that of the click's first event: each look reinforces the step before it.
"""

from __future__ import annotations

from dataclasses import replace

from models.batch import Event, Float64
from models.delay import METHODS, Method
from models.weighing import Pair, Pairs, Seen


def _soft(seen: Seen, f: Float64) -> Pairs:
    """P(v = 1 | nothing yet at this age) of a click that converts with f, as a label."""
    late = f * (1 - seen.completed)
    z = late / (1 - f + late)
    return z, 1 - z


def soft_label(seen: Seen) -> Pairs:
    """By the f of the click's first event."""
    return _soft(seen, seen.first_f)


def soft_label_of_today(seen: Seen) -> Pairs:
    """By the model as it stands at this look."""
    return _soft(seen, seen.f)


def _with(look: Pair) -> Method:
    own = METHODS["survival"]
    return replace(own, pairs={**own.pairs, Event.OBSERVED_NEGATIVE: look, Event.REVISIT: look})


SOFT: Method = _with(soft_label)
NAIVE: Method = _with(soft_label_of_today)
