"""The delayed-feedback methods, a row each: what every kind of event on a click teaches. Must not know how an event came about.

Over the life of one click the pairs of a method have *unit mass*, E[sum a+] = P(v = 1) and E[sum a-] = P(v = 0), so each
stands in for the mature label in any loss. The papers normalise over their own sample space instead and are off by a factor
that depends on x: harmless for a CVR model on clicks alone, wrong inside a sum over impressions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from models.batch import Event, Float64, Int8
from models.likelihoods import Form
from models.weighing import (
    LEAST_F,
    MOST_F,
    Pair,
    Seen,
    by_label,
    ddfm_observed,
    ddfm_positive,
    ddfm_real,
    defer_delayed,
    defer_immediate,
    defer_negative,
    defuse_delayed,
    defuse_negative,
    es_dfm_negative,
    fnw_negative,
    mass_of_ddfm,
    negative,
    one_and_dp,
    one_and_f,
    paper,
    positive,
    survival_open,
    two,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A delayed-feedback method.

    Args:
        pairs: event -> pair of unit mass. An event that is not named teaches no conversion.
        before_history: event -> pair while the stream is younger than the attribution window, for methods that use what comes so
            late (RN): until then nothing of it has come. A method that adjusts goes by it click by click instead: for those whose first event
            was not taught, as it came before the stream began. None: `pairs` from the first event on.
        as_published: event -> pair as its paper has it; None: the paper has this one, or there is none.
        events: those that it must see beside the ones that have a pair.
        form: what the conversion head is and how it is trained: by `pairs`, or by a likelihood of its own (`likelihoods.py`).
        uses_delay: whether a pair looks at S or F, so that the delay model must have been taught.
        adjusts: whether a pair is a click's target, of which only what it has not been taught before is taught now.
        observes_at_click: whether the first label is drawn at the click (w_o = 0), whatever the settings say.
    """

    pairs: Mapping[Event, Pair] = field(default_factory=dict)
    before_history: Mapping[Event, Pair] | None = None
    as_published: Mapping[Event, Pair] | None = None
    events: tuple[Event, ...] = ()
    form: Form = "pairs"
    uses_delay: bool = False
    adjusts: bool = False
    observes_at_click: bool = False

    @property
    def sees(self) -> tuple[Event, ...]:
        """The events on a click that it must be shown."""
        return tuple(sorted({*self.pairs, *(self.before_history or ()), *self.events}))


_IP, _ON, _DP, _RN = (
    Event.IMMEDIATE_POSITIVE,
    Event.OBSERVED_NEGATIVE,
    Event.DELAYED_POSITIVE,
    Event.REAL_NEGATIVE,
)
_ES_DFM: Mapping[Event, Pair] = {_IP: positive, _ON: es_dfm_negative, _DP: positive}

_DEFER: Mapping[Event, Pair] = {_IP: defer_immediate, _ON: defer_negative, _DP: defer_delayed, _RN: defer_negative}
_FNW: Mapping[Event, Pair] = {_IP: positive, _ON: fnw_negative, _DP: positive}
_DEFUSE: Mapping[Event, Pair] = {_IP: positive, _ON: defuse_negative, _DP: defuse_delayed}
_DDFM: Mapping[Event, Pair] = {_IP: ddfm_positive, _ON: ddfm_observed, _DP: ddfm_positive, _RN: ddfm_real}


def _published(pairs: Mapping[Event, Pair], copies: Callable[[Seen], Float64]) -> Mapping[Event, Pair]:
    """A method's pairs over its paper's own sample space, that holds so many copies of a click."""
    return {event: paper(pair, copies) for event, pair in pairs.items()}


METHODS: Mapping[str, Method] = {
    "mature": Method(pairs={Event.MATURED: by_label}),
    "window": Method(pairs={_IP: positive, _ON: negative}),
    "fnw": Method(pairs=_FNW, as_published=_published(_FNW, one_and_f), observes_at_click=True),
    "fnc": Method(pairs={_IP: positive, _ON: negative, _DP: positive}, form="fnc", observes_at_click=True),
    "es_dfm": Method(pairs=_ES_DFM, as_published=_published(_ES_DFM, one_and_dp), uses_delay=True),
    "defer": Method(pairs=_DEFER, before_history=_ES_DFM, as_published=_published(_DEFER, two), uses_delay=True),
    "defuse": Method(pairs=_DEFUSE, as_published=_published(_DEFUSE, one_and_dp), uses_delay=True),
    "ddfm": Method(pairs=_DDFM, before_history=_ES_DFM, as_published=_published(_DDFM, mass_of_ddfm), uses_delay=True),
    "survival": Method(
        pairs={_IP: positive, _ON: survival_open, Event.REVISIT: survival_open, _DP: positive, _RN: negative},
        before_history=_ES_DFM,
        uses_delay=True,
        adjusts=True,
    ),
    "bi_defuse": Method(events=(_IP, _ON, _DP), form="bi_defuse"),
    "dfm": Method(events=(_IP, _ON, Event.REVISIT, _DP, _RN), form="dfm"),
    "oracle": Method(pairs={Event.ORACLE: by_label}),
}
"""Name -> method."""

Normalization = Literal["unit", "paper"]


def method_of(name: str) -> Method:
    """The method of a name: a row of `METHODS`, or `module:NAME`, a `Method` of one's own that holds the laws.

    Raises:
        ValueError: there is none, or it breaks a law.
    """
    if name in METHODS:
        return METHODS[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(
            f"labels.method must be one of {', '.join(METHODS)}, or module:NAME for one of your own (got {name!r})"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"labels.method {name!r} cannot be imported ({error}): put its module on PYTHONPATH and name a models.delay.Method in it"
        ) from error
    if not isinstance(found, Method):
        raise ValueError(f"labels.method {name!r} must be a models.delay.Method (got {type(found).__name__})")
    from models.laws import broken_laws  # the laws are told of methods, not methods of the laws

    if broken := broken_laws(found):
        raise ValueError(f"labels.method {name!r} breaks a law: {broken[0]}")
    return found


def check_combination(name: str, *, objective: str, normalization: str, delay_model: str = "hazard") -> None:
    """Refuses what cannot be right together.

    Raises:
        ValueError: the method has no unit mass that the objective needs, no published normalization, or looks at ages that the delay
            model does not tell of.
    """
    method = method_of(name)
    if method.form != "pairs" and objective != "composed":
        raise ValueError(
            f'labels.method = "{name}" needs network.objective = "composed" (got "{objective}"): it has no pair of unit mass '
            "that could stand inside a sum over impressions"
        )
    if normalization == "paper" and objective != "composed":
        raise ValueError(
            f'labels.normalization = "paper" needs network.objective = "composed" (got "{objective}"): the papers\' weights are off by '
            "a factor that depends on x, harmless on clicks alone, wrong beside unclicked impressions"
        )
    if normalization == "paper" and method.as_published is None and method.adjusts:
        raise ValueError(f'labels.normalization = "paper" and labels.method = "{name}": no paper has it; use "unit"')
    if delay_model == "heads" and method.uses_delay and (method.adjusts or Event.REVISIT in method.sees):
        raise ValueError(
            f'labels.delay_model = "heads" and labels.method = "{name}": it asks at every horizon how many conversions are still to come, '
            'and two heads know the observation window alone; use "hazard" or "global", or a method that looks once (es_dfm, defer, defuse, ddfm)'
        )


def weigh(pairs: Mapping[Event, Pair], events: Int8, seen: Seen) -> tuple[Float64, Float64]:
    """(a+, a-) of each row: (B,) each, 0 where its event teaches nothing.

    Args:
        pairs: of a method.
        events: (B,) `Event` codes.
        seen: of the same rows; those of no event on a click may hold anything.

    Example:
        >>> events, half = np.array([Event.MATURED, Event.CLICKED], np.int8), np.full(2, 0.5)
        >>> weigh(METHODS["mature"].pairs, events, Seen(half, half, np.ones(2), half, half))
        (array([1., 0.]), array([0., 0.]))
    """
    plus, minus = np.zeros(len(events)), np.zeros(len(events))
    held = np.clip(seen.f, LEAST_F, MOST_F)
    for event, pair in pairs.items():
        rows = np.flatnonzero(events == event)
        if len(rows):
            own = Seen(held[rows], seen.s[rows], seen.v[rows], seen.completed[rows], seen.first_f[rows])
            if seen.told_dp is not None and seen.told_rn is not None:
                own = own._replace(told_dp=seen.told_dp[rows], told_rn=seen.told_rn[rows])
            plus[rows], minus[rows] = pair(own)
    return plus, minus
