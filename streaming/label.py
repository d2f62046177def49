"""The labelling policies: which examples a joined impression yields, and when. Must not know how facts were gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from models.delay_edges import edges_ms, horizons_ms
from streaming.examples import Example, Examples, Kind, Slot, slot_name
from streaming.joined import CLICK_SLOT, CONVERSION_SLOT, Due, Dues, JoinedImpression, Schedule

Moment = Literal["click window", "click", "observation window", "horizon", "age", "conversion", "attribution window"]


class Looked(msgspec.Struct, frozen=True):
    """A clicked impression at the moment a slot is due.

    Args:
        click_ms, conversion_ms: its facts, as known by then.
        is_immediate: whether the conversion was known when the observation window ended, and lay in it.
    """

    click_ms: int | None
    conversion_ms: int | None
    is_immediate: bool


class Row(msgspec.Struct, frozen=True):
    """One line of the table of kinds: the slot it takes, when that is due, and whether the facts known by then call for it.

    Args:
        due: the end of the impression's click window, the click, one of its ages, its conversion, or the end of one of its windows.
        applies: whether this kind is the one, of those in its slot.
        converted: the label v.
    """

    slot: Slot
    due: Moment
    applies: Callable[[Looked], bool]
    converted: Callable[[Looked], bool] = lambda looked: looked.conversion_ms is not None


def _is_open(looked: Looked) -> bool:
    return looked.conversion_ms is None


def _has_converted(looked: Looked) -> bool:
    return looked.conversion_ms is not None


def _always(looked: Looked) -> bool:
    return True


def _never(looked: Looked) -> bool:
    return False


ROWS: dict[Kind, Row] = {
    Kind.UNCLICKED: Row(Slot.CLICK, "click window", lambda looked: looked.click_ms is None, _never),
    Kind.CLICKED: Row(Slot.CLICK, "click window", lambda looked: looked.click_ms is not None, _never),
    Kind.IMMEDIATE_POSITIVE: Row(Slot.OBSERVED, "observation window", lambda looked: looked.is_immediate),
    Kind.OBSERVED_NEGATIVE: Row(Slot.OBSERVED, "observation window", lambda looked: not looked.is_immediate, _never),
    Kind.REVISIT: Row(Slot.REVISIT, "horizon", _is_open),
    Kind.AGED: Row(Slot.AGED, "age", _has_converted),
    Kind.DELAYED_POSITIVE: Row(
        Slot.SETTLED, "conversion", lambda looked: _has_converted(looked) and not looked.is_immediate
    ),
    Kind.REAL_NEGATIVE: Row(Slot.SETTLED, "attribution window", _is_open),
    Kind.MATURED: Row(Slot.SETTLED, "attribution window", _always),
    Kind.ORACLE: Row(Slot.OBSERVED, "click", _always),
    Kind.OUTCOME: Row(Slot.OUTCOME, "attribution window", _always),
}
"""What each kind says and when. A policy is a set of these; every policy has UNCLICKED, CLICKED, AGED and OUTCOME."""

EVERY_POLICY = (Kind.UNCLICKED, Kind.CLICKED, Kind.AGED, Kind.OUTCOME)

_IN_ONE_SLOT = {
    Kind.MATURED: (Kind.DELAYED_POSITIVE, Kind.REAL_NEGATIVE),
    Kind.ORACLE: (Kind.IMMEDIATE_POSITIVE, Kind.OBSERVED_NEGATIVE),
}
"""Kinds that take a slot at another moment than those beside them: a click would get two examples in it."""


def check_kinds(kinds: Iterable[Kind]) -> None:
    """Refuses kinds that no method can see together.

    Raises:
        ValueError: two of them take one slot at different moments.
    """
    kinds = set(kinds)
    for final, others in _IN_ONE_SLOT.items():
        for other in others:
            if final in kinds and other in kinds:
                raise ValueError(
                    f"a method must not see both {final.name} and {other.name}: both take the slot {slot_name(ROWS[final].slot)!r}, "
                    "and a click has one example in it; see the one or the other"
                )


class Outcome(msgspec.Struct, frozen=True):
    """What finally became of a click: all that `oracle` looks up."""

    conversion_ms: int | None
    value: float | None


class Policy:
    """Draws the examples of one method from what the join says is due.

    Args:
        kinds: those that the method sees, beside `EVERY_POLICY`.
        p: the join partition.
        observation_window_ms, attribution_window_ms: as in the settings; a method that observes at the click has 0.
        horizons: steps between them at which open clicks are looked at again.
        outcomes: (impression_id, impression's event time) -> outcome, from a first pass over the same log; for ORACLE alone.

    Raises:
        ValueError: ORACLE without outcomes, or outcomes without it; or two kinds that take one slot.
    """

    def __init__(
        self,
        kinds: Iterable[Kind],
        *,
        p: int,
        observation_window_ms: int,
        attribution_window_ms: int,
        horizons: int = 6,
        outcomes: Mapping[tuple[str, int], Outcome] | None = None,
    ) -> None:
        kinds = sorted({*EVERY_POLICY, *kinds})
        check_kinds(kinds)
        if (Kind.ORACLE in kinds) != (outcomes is not None):
            raise ValueError("method oracle, and no other, needs the outcomes of a first pass: it is for replays alone")
        self._p = p
        self._observation_window_ms = observation_window_ms
        self._outcomes = outcomes
        looks_ms = horizons_ms(observation_window_ms, attribution_window_ms, horizons)
        self.edges_ms = edges_ms(observation_window_ms, attribution_window_ms, horizons)
        ages_ms = {
            "click": [0],
            "observation window": [observation_window_ms],
            "horizon": looks_ms[1:-1],
            "age": self.edges_ms[1:],
            "attribution window": [attribution_window_ms],
        }
        self._rows: dict[int, list[tuple[Kind, Row]]] = {}  # by what the join says is due
        after_click_ms: dict[int, int] = {}
        at_ages_ms: dict[int, int] = {}
        for kind in kinds:
            row = ROWS[kind]
            first = row.slot + 1 if row.due in ("horizon", "age") else row.slot  # those of a family count from 1
            slots = {first + number: age_ms for number, age_ms in enumerate(ages_ms.get(row.due, []))}
            if row.due == "conversion":
                slots = {CONVERSION_SLOT: 0}
            elif row.due == "click window":
                slots = {CLICK_SLOT: 0}
            elif row.due == "age":
                at_ages_ms |= slots
            else:
                after_click_ms |= slots
            for slot in slots:
                self._rows.setdefault(slot, []).append((kind, row))
        self.schedule = Schedule(
            after_click_ms=tuple(sorted(after_click_ms.items(), key=lambda item: (item[1], item[0]))),
            tells_conversion=CONVERSION_SLOT in self._rows,
            at_ages_ms=tuple(sorted(at_ages_ms.items())),
        )

    def on_due(self, dues: Dues) -> Examples:
        """The examples for what is due, in the same order. A slot that no kind applies to yields none."""
        others = [(place, example) for place, due in dues.clicked for example in self._draw(due)]
        return Examples.unclicked(dues.unclicked, dues.due_ms, others, self._p)

    def _draw(self, due: Due) -> list[Example]:
        joined = due.joined
        known = joined.conversion_known_ms is not None and joined.conversion_known_ms <= due.due_ms
        conversion_ms, value = (joined.conversion_ms, joined.value) if known else (None, None)
        if self._outcomes is not None and due.slot == Slot.OBSERVED:
            outcome = self._outcomes.get((joined.impression.impression_id, joined.impression.event_time_ms))
            if outcome is None:
                return []
            conversion_ms, value = outcome.conversion_ms, outcome.value
        looked = Looked(joined.click_ms, conversion_ms, self._is_immediate(joined))
        for kind, row in self._rows[due.slot]:
            if row.applies(looked):
                slot = int(row.slot) if due.slot == CONVERSION_SLOT else due.slot
                facts = joined.click_ms, conversion_ms, row.converted(looked), value
                return [Example(due.due_ms, kind, slot, self._p, joined.impression, *facts)]
        return []

    def _is_immediate(self, joined: JoinedImpression) -> bool:
        if joined.click_ms is None or joined.conversion_ms is None:
            return False
        assert joined.click_known_ms is not None
        assert joined.conversion_known_ms is not None
        looked_ms = max(joined.click_ms + self._observation_window_ms, joined.click_known_ms)
        is_within = joined.conversion_ms - joined.click_ms <= self._observation_window_ms
        return is_within and joined.conversion_known_ms <= looked_ms
