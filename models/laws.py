"""The laws that every method's weights must hold, on exact event masses; must not know a network, a stream or a sample.

A click converts with p, of its conversions S come after the observation window w_o, and of those F_k - (1 - S) by horizon k. Then every
sequence of events that can happen to it has a known probability, and the sum of what they teach must be the click itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from models.batch import Event, Float64
from models.delay import Method, weigh
from models.weighing import Seen

MOST_WEIGHT = 2.0
GRID = tuple((p, s) for p in (0.001, 0.02, 0.2, 0.7, 0.99) for s in (0.0, 0.1, 0.57, 0.76, 1.0))
_HORIZONS = (0.3, 0.55, 0.8)  # of the conversions later than w_o, those that have come by each revisit
_TOLERANCE = 1e-9
_NOT_ON_CLICKS = (Event.UNCLICKED, Event.CLICKED, Event.AGED, Event.HELD_OUT)


def lives(
    p: float, s: float, horizons: Sequence[float] = _HORIZONS
) -> Iterator[tuple[float, list[tuple[Event, float, float]]]]:
    """Every life that a click can have: its probability, and its events as (event, label, F at its age).

    Example:
        >>> round(sum(chance for chance, _ in lives(0.2, 0.5)), 9)
        1.0
    """
    at_first = 1 - s
    looks = [(Event.OBSERVED_NEGATIVE, 0.0, at_first)]
    yield p * at_first, [*_settled(1.0), (Event.IMMEDIATE_POSITIVE, 1.0, at_first)]
    came = 0.0
    for horizon in (*horizons, 1.0):
        yield p * s * (horizon - came), [*_settled(1.0), *looks, (Event.DELAYED_POSITIVE, 1.0, 1.0)]
        came = horizon
        if horizon < 1.0:
            looks = [*looks, (Event.REVISIT, 0.0, at_first + s * horizon)]
    yield 1 - p, [*_settled(0.0), *looks, (Event.REAL_NEGATIVE, 0.0, 1.0)]


def _settled(label: float) -> list[tuple[Event, float, float]]:
    """What `mature` and `oracle` see of it; no other method has a pair for either."""
    return [(Event.MATURED, label, 1.0), (Event.ORACLE, label, 1.0)]


def taught_over_a_life(
    method: Method, events: list[tuple[Event, float, float]], *, f: float, s: float
) -> tuple[Float64, Float64]:
    """What each event of a click teaches, (events,) each, with f and S as the model believes them.

    The method is told what it says it uses, and NaN for the rest, as in a stream.
    """
    codes = np.array([event for event, _, _ in events], np.int8)
    labels, completed = (np.array(column) for column in ([v for _, v, _ in events], [F for _, _, F in events]))
    flat, nothing = np.ones(len(events)), np.full(len(events), np.nan)
    delays = (flat * s, completed) if method.uses_delay else (nothing, nothing)
    seen = Seen(flat * f, delays[0], labels, delays[1], flat * f if method.adjusts else nothing)
    plus, minus = weigh(method.pairs, codes, seen)
    if method.adjusts:
        told = np.flatnonzero(np.isin(codes, list(method.pairs)))
        for weights in (plus, minus):
            weights[told[1:]] -= weights[told[:-1]].copy()
    return plus, minus


def masses(method: Method, p: float, s: float) -> tuple[float, float]:
    """E[sum a+] and E[sum a-] over the life of a click, for a model that is right."""
    total, s = np.zeros(2), 1.0 if method.observes_at_click else s
    for chance, events in lives(p, s):
        plus, minus = taught_over_a_life(method, events, f=p, s=s)
        total += chance * np.array([plus.sum(), minus.sum()])
    return float(total[0]), float(total[1])


def broken_laws(method: Method) -> list[str]:
    """What is wrong with a method's weights, in words; nothing if nothing is.

    The laws: unit mass on exact event masses, from which p is where the loss is stationary; finite weights, none beyond 2; nothing
    on rows that are no event on a click. What it does before it has history is held to them as well.

    Example:
        >>> from models.weighing import negative, positive
        >>> broken_laws(Method(pairs={Event.IMMEDIATE_POSITIVE: positive, Event.OBSERVED_NEGATIVE: negative}))[0]
        'of a click that converts with 0.001, 0.1 of it late, it teaches 0.0009 positive and 0.9991 negative in place of 0.001 and 0.999'
    """
    broken = [
        f"it has a pair for {event.name}, which is no event on a click"
        for event in _NOT_ON_CLICKS
        if event in method.pairs
    ]
    for p, s in GRID:
        plus, minus = masses(method, p, s)
        if not (abs(plus - p) < _TOLERANCE and abs(minus - (1 - p)) < _TOLERANCE):
            broken.append(
                f"of a click that converts with {p:g}, {s:g} of it late, it teaches {plus:.6g} positive and {minus:.6g} negative "
                f"in place of {p:g} and {1 - p:g}"
                + (" (S and F are NaN unless it says uses_delay)" if np.isnan(plus + minus) else "")
            )
    for f in (1e-6, 0.1, 1 - 1e-6):
        for s in (0.0, 0.5, 1.0):
            for _, events in lives(0.5, s):
                weights = np.concatenate(taught_over_a_life(method, events, f=f, s=s))
                if not (np.isfinite(weights).all() and (np.abs(weights) <= MOST_WEIGHT + _TOLERANCE).all()):
                    broken.append(
                        f"at f = {f:g} and S = {s:g} it weighs {weights[np.argmax(np.abs(weights))]:g}, the most is {MOST_WEIGHT:g}"
                    )
    if method.before_history is not None:
        early = replace(method, pairs=method.before_history, before_history=None, adjusts=False)
        broken += [f"before it has history, {law}" for law in broken_laws(early)]
    return broken
