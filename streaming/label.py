"""The labelling policies: which examples a joined impression yields, and when. Must not know how facts were gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Literal

import msgspec

from streaming.events import Impression
from streaming.joined import CLICK_SLOT, Due, JoinedImpression, Schedule


class Kind(IntEnum):
    """What an example says about its impression."""

    UNCLICKED = 0
    CLICKED = 1
    IMMEDIATE_POSITIVE = 2
    OBSERVED_NEGATIVE = 3
    REVISIT = 4
    AGED = 5
    DELAYED_POSITIVE = 6
    REAL_NEGATIVE = 7
    MATURED = 8
    ORACLE = 9
    OUTCOME = 10


class Slot(IntEnum):
    """A place an impression's example can take; the first in a slot wins. The order at equal due time and impression."""

    CLICK = CLICK_SLOT
    OBSERVED = 1
    REVISIT = 64  # + k, k = 1..63
    AGED = 128  # + k, k = 0..63
    SETTLED = 192
    OUTCOME = 193


def slot_name(slot: int) -> str:
    """How files call a slot.

    Example:
        >>> slot_name(Slot.OBSERVED), slot_name(Slot.REVISIT + 2)
        ('observed', 'revisit_2')
    """
    if Slot.REVISIT <= slot < Slot.SETTLED:
        base = Slot.AGED if slot >= Slot.AGED else Slot.REVISIT
        return f"{base.name.lower()}_{slot - base}"
    return Slot(slot).name.lower()


class Example(msgspec.Struct, frozen=True, gc=False):
    """One labelled example, as it leaves the join.

    Args:
        due_ms: when it left, in event time. kind: what it says. slot: a `Slot`, plus k for revisits and ages.
        p: the join partition. impression: as it was logged, features still raw.
        click_ms, conversion_ms: the facts known at `due_ms`, None if not (yet) there.
        converted: the label v; False for the kinds that say nothing of conversions. value: what the conversion was worth.
    """

    due_ms: int
    kind: Kind
    slot: int
    p: int
    impression: Impression
    click_ms: int | None = None
    conversion_ms: int | None = None
    converted: bool = False
    value: float | None = None


Moment = Literal["click window", "click", "observation window", "attribution window"]


class Row(msgspec.Struct, frozen=True):
    """One line of the table of kinds: the slot it takes, when that is due, and whether the facts known by then call for it.

    Args:
        due: the end of the impression's click window, the click itself, or the end of the click's observation or attribution window.
        applies: whether this kind is the one, of those in its slot, given (joined, its conversion if known by then, w_o in ms).
        converted: the label v, given the same.
    """

    slot: Slot
    due: Moment
    applies: Callable[[JoinedImpression, int | None, int], bool]
    converted: Callable[[int | None], bool] = lambda conversion_ms: conversion_ms is not None


def _within(joined: JoinedImpression, conversion_ms: int | None, observation_window_ms: int) -> bool:
    assert joined.click_ms is not None
    return conversion_ms is not None and conversion_ms - joined.click_ms <= observation_window_ms


ROWS: dict[Kind, Row] = {
    Kind.UNCLICKED: Row(Slot.CLICK, "click window", lambda j, *_: j.click_ms is None, lambda _: False),
    Kind.CLICKED: Row(Slot.CLICK, "click window", lambda j, *_: j.click_ms is not None, lambda _: False),
    Kind.IMMEDIATE_POSITIVE: Row(Slot.OBSERVED, "observation window", _within),
    Kind.OBSERVED_NEGATIVE: Row(
        Slot.OBSERVED, "observation window", lambda *facts: not _within(*facts), lambda _: False
    ),
    Kind.MATURED: Row(Slot.SETTLED, "attribution window", lambda *_: True),
    Kind.ORACLE: Row(Slot.OBSERVED, "click", lambda *_: True),
    Kind.OUTCOME: Row(Slot.OUTCOME, "attribution window", lambda *_: True),
}
"""What each kind says and when. A policy is a set of these; every policy has UNCLICKED, CLICKED and OUTCOME."""

METHODS: dict[str, tuple[Kind, ...]] = {
    "mature": (Kind.MATURED,),
    "window": (Kind.IMMEDIATE_POSITIVE, Kind.OBSERVED_NEGATIVE),
    "oracle": (Kind.ORACLE,),
}
"""Method -> the kinds it needs beside those that every policy has."""


class Outcome(msgspec.Struct, frozen=True):
    """What finally became of a click: all that `oracle` looks up."""

    conversion_ms: int | None
    value: float | None


class Policy:
    """Draws the examples of one method from what the join says is due.

    Args:
        method: a name in `METHODS`.
        p: the join partition.
        observation_window_ms, attribution_window_ms: as in the settings.
        outcomes: `oracle` only: (impression_id, impression's event time) -> outcome, from a first pass over the same log.

    Raises:
        ValueError: no such method, or `oracle` without outcomes.
    """

    def __init__(
        self,
        method: str,
        *,
        p: int,
        observation_window_ms: int,
        attribution_window_ms: int,
        outcomes: Mapping[tuple[str, int], Outcome] | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"labels.method must be one of {', '.join(METHODS)} (got {method!r})")
        if (method == "oracle") != (outcomes is not None):
            raise ValueError("method oracle, and no other, needs the outcomes of a first pass: it is for replays alone")
        self._p = p
        self._observation_window_ms = observation_window_ms
        self._outcomes = outcomes
        kinds = (Kind.UNCLICKED, Kind.CLICKED, *METHODS[method], Kind.OUTCOME)
        self._rows: dict[int, list[tuple[Kind, Row]]] = {}
        for kind in kinds:
            self._rows.setdefault(ROWS[kind].slot, []).append((kind, ROWS[kind]))
        after_ms = {
            "click": 0,
            "observation window": observation_window_ms,
            "attribution window": attribution_window_ms,
        }
        slots = {
            int(row.slot): after_ms[row.due] for rows in self._rows.values() for _, row in rows if row.due in after_ms
        }
        self.schedule = Schedule(after_click_ms=tuple(sorted(slots.items())))

    def on_due(self, dues: Sequence[Due]) -> list[Example]:
        """The examples for what is due, in the same order. A slot that no kind applies to yields none."""
        p, unclicked = self._p, Kind.UNCLICKED
        examples: list[Example] = []
        for due in dues:
            joined = due.joined
            if joined.click_ms is None:  # nearly all of them
                examples.append(Example(due.due_ms, unclicked, CLICK_SLOT, p, joined.impression))
            else:
                examples += self._draw(due)
        return examples

    def _draw(self, due: Due) -> list[Example]:
        joined = due.joined
        known = joined.conversion_known_ms is not None and joined.conversion_known_ms <= due.due_ms
        conversion_ms, value = (joined.conversion_ms, joined.value) if known else (None, None)
        if self._outcomes is not None and due.slot == Slot.OBSERVED:
            outcome = self._outcomes.get((joined.impression.impression_id, joined.impression.event_time_ms))
            if outcome is None:
                return []
            conversion_ms, value = outcome.conversion_ms, outcome.value
        for kind, row in self._rows[due.slot]:
            if row.applies(joined, conversion_ms, self._observation_window_ms):
                converted = row.converted(conversion_ms)
                return [
                    Example(
                        due.due_ms,
                        kind,
                        due.slot,
                        self._p,
                        joined.impression,
                        joined.click_ms,
                        conversion_ms,
                        converted,
                        value,
                    )
                ]
        return []
