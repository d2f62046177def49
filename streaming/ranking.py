"""The score that items are ranked by: a product of powers. Must not know where probabilities or factors come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.batch import Float64
from streaming.serving import LEAST_FACTOR, MOST_FACTOR, Serving


class RankingError(ValueError):
    """An item's factors cannot be used; the message names the item, the factor, the rule and what to do."""


def ranking_scores(
    serving: Serving, pctr: Float64, pcvr: Float64, factors: Sequence[Mapping[str, float]] | None = None
) -> Float64:
    """The score of B items.

    Args:
        serving: the exponents.
        pctr, pcvr: (B,) probabilities.
        factors: of each item, those that the settings name and no other; None: none has any.

    Returns:
        (B,) finite.

    Raises:
        RankingError: a factor is missing, unknown or out of its range.

    Example:
        >>> bids = Serving(pctr_exponent=2.0, factors={"bid": 1.0})
        >>> ranking_scores(bids, np.array([0.5, 0.5]), np.array([0.1, 0.1]), [{"bid": 4.0}, {"bid": 8.0}]).round(3).tolist()
        [0.1, 0.2]
    """
    score = pctr**serving.pctr_exponent * pcvr**serving.pcvr_exponent
    for item, given in enumerate(factors or ()):
        for name in given:
            if name not in serving.factors:
                known = ", ".join(serving.factors) or "none"
                raise RankingError(
                    f"items[{item}].factors.{name} is unknown: serving.factors names {known}; leave it out, or add it to the settings"
                )
    for name, exponent in serving.factors.items():
        values = np.array([given.get(name, np.nan) for given in factors or [{}] * len(pctr)], np.float64)
        least = LEAST_FACTOR if exponent < 0 else 0.0
        wrong = ~((values >= least) & (values <= MOST_FACTOR))  # NaN compares false, and is wrong
        if wrong.any():
            item = int(wrong.argmax())
            got = "nothing" if factors is None or name not in factors[item] else repr(factors[item][name])
            raise RankingError(
                f"items[{item}].factors.{name} must be a number from {least:g} to {MOST_FACTOR:g} (got {got}), as serving.factors names it"
            )
        score = score * values**exponent
    return np.asarray(score, np.float64)
