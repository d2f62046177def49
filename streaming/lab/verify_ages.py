"""The ages at which clicks are looked at again, worked out a second time from docs/formats.md; must not know a click or a label.

Exact, in decimals: an age that this rounds to one millisecond and the learner's own arithmetic to another would be a difference.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

MINUTE_MS = 60_000
WANTED = 16  # edges, if nothing but the attribution window had to be one
_DIGITS = 40


def looks_of(observation_ms: int, attribution_ms: int, horizons: int) -> list[int]:
    """The horizons, first and last included: those between them are when an open click is looked at, REVISIT_k at the k-th.

    Example:
        >>> looks_of(0, 3_600_000, 3)
        [0, 176190, 869761, 3600000]
    """
    with localcontext(prec=_DIGITS):
        inner = [_between(observation_ms, attribution_ms, part, horizons) for part in range(1, horizons)]
    return sorted({observation_ms, *_strictly(inner, observation_ms, attribution_ms), attribution_ms})


def edges_of(observation_ms: int, attribution_ms: int, horizons: int) -> list[int]:
    """The edges of the delay model's bins: a converted click is an AGED_k at the k-th from which its delay is not larger.

    Example:
        >>> edges = edges_of(600_000, 3_600_000, 2)
        >>> len(edges), edges[:2], edges[-1], 600_000 in edges
        (15, [18318, 42228], 3600000, True)
    """
    looks = looks_of(observation_ms, attribution_ms, horizons)
    edges = set(looks)
    with localcontext(prec=_DIGITS):
        whole = _scale(0, attribution_ms)
        for start_ms, end_ms in zip([0, *looks], looks, strict=False):
            parts = max(1, round(WANTED * _scale(start_ms, end_ms) / whole))
            inner = [_between(start_ms, end_ms, part, parts) for part in range(1, parts)]
            edges.update(_strictly(inner, start_ms, end_ms))
    return sorted(edges)


def _scale(start_ms: int, end_ms: int) -> Decimal:
    """How far it is from one age to another, on a scale of log(1 + minutes)."""
    return (Decimal(end_ms + MINUTE_MS) / (start_ms + MINUTE_MS)).ln()


def _between(start_ms: int, end_ms: int, part: int, parts: int) -> int:
    """The age that is `part` of `parts` of the way on that scale, to the nearest millisecond."""
    low, high = Decimal(start_ms + MINUTE_MS), Decimal(end_ms + MINUTE_MS)
    return round(low * (high / low) ** (Decimal(part) / parts)) - MINUTE_MS


def _strictly(ages_ms: list[int], start_ms: int, end_ms: int) -> list[int]:
    return [age_ms for age_ms in ages_ms if start_ms < age_ms < end_ms]
