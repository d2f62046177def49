"""What people did, and which facts of it a log gets; must not know in which order, or how legibly, they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from streaming.lab.delays import Floats, Ints, draw_click_delays, draw_conversion_delays
from streaming.lab.dials import DAY_MS, HOUR_MS, MINUTE_MS, World
from streaming.lab.population import Items
from streaming.lab.traffic import Shown
from streaming.lab.truth import Probabilities

Ids = npt.NDArray[np.uint64]

_SECOND_CLICK_MS = MINUTE_MS  # an impatient finger
_SECOND_CONVERSION_MS = HOUR_MS  # an order changed, or a second basket


@dataclass(frozen=True, slots=True)
class Answers:
    """What people did: facts as truth means them, without anything that goes wrong.

    Args:
        clicked: rows of the impressions that were clicked, ascending. click_ms: when.
        converted: which of these clicks converted, as positions in `clicked`, ascending.
        conversion_delay_ms: how long after the click. value: of the conversion, near the item's price.
    """

    clicked: Ints
    click_ms: Ints
    converted: Ints
    conversion_delay_ms: Ints
    value: Floats


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one stream, in no order.

    Args:
        impression_id: as numbers. event_time_ms: as stamped. closes_ms: until when it could still make a label.
        value: of conversions, else None.
    """

    impression_id: Ids
    event_time_ms: Ints
    closes_ms: Ints
    value: Floats | None = None

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def and_then(self, *others: Records) -> Records:
        """These, followed by others of the same stream."""
        parts = (self, *others)
        values = [part.value for part in parts if part.value is not None]
        return Records(
            impression_id=np.concatenate([part.impression_id for part in parts]),
            event_time_ms=np.concatenate([part.event_time_ms for part in parts]),
            closes_ms=np.concatenate([part.closes_ms for part in parts]),
            value=np.concatenate(values) if values else None,
        )


class IdSpace:
    """Ids that look drawn by lot and never repeat: a bijection of 64 bits, another one for each seed and use.

    Example:
        >>> ids = IdSpace(seed=0, use=0)
        >>> ids.take(2).tolist() == ids.at(np.array([0, 1])).tolist()
        True
    """

    def __init__(self, seed: int, use: int) -> None:
        self._key = np.random.SeedSequence((seed, use)).generate_state(1, np.uint64)[0]
        self._taken = 0

    @classmethod
    def beside(cls, other: IdSpace) -> Self:
        """Ids of the same look that the first 2^40 of `other` do not contain."""
        ids = cls.__new__(cls)
        ids._key, ids._taken = other._key, 1 << 40
        return ids

    def take(self, n: int) -> Ids:
        """The next n ids."""
        self._taken += n
        return self.at(np.arange(self._taken - n, self._taken))

    def at(self, index: Ints) -> Ids:
        """The ids of these numbers, by the finalizer of splitmix64 (Steele et al., OOPSLA 2014)."""
        x = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self._key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def draw_answers(
    rng: np.random.Generator, world: World, items: Items, shown: Shown, probabilities: Probabilities
) -> Answers:
    """What people did with these impressions, drawn from their probabilities."""
    clicked = np.flatnonzero(rng.random(len(shown)) < probabilities.pctr)
    converted = np.flatnonzero(rng.random(len(clicked)) < probabilities.pcvr[clicked])
    rows = clicked[converted]
    return Answers(
        clicked=clicked,
        click_ms=shown.event_time_ms[clicked] + draw_click_delays(rng, len(clicked), world.click_window_ms),
        converted=converted,
        conversion_delay_ms=draw_conversion_delays(rng, probabilities.short_share[rows], world.attribution_window_ms),
        value=np.round(items.price[shown.item[rows]] * np.exp(rng.normal(0.0, 0.2, len(rows))), 2),
    )


class FactLog:
    """Which clicks and conversions a log gets: those that happened, and some that should not be there.

    Args:
        world: its dials.
        strangers: ids for impressions that were never logged.
        rng: where the draws come from.
    """

    def __init__(self, world: World, strangers: IdSpace, rng: np.random.Generator) -> None:
        self._world, self._strangers, self._rng = world, strangers, rng
        names = ("clock_skewed", "second_facts", "orphans", "out_of_window", "view_through")
        self.counts = dict.fromkeys(names, 0)

    def records(self, shown: Shown, impression_id: Ids, answers: Answers) -> tuple[Records, Records]:
        """The clicks and the conversions logged about these impressions."""
        rng, world = self._rng, self._world
        shown_ms = shown.event_time_ms[answers.clicked]
        skewed = rng.random(len(answers.clicked)) < world.clock_skew_share
        skew_ms = rng.integers(1, max(world.clock_skew_ms, 1), len(skewed), endpoint=True)
        self.counts["clock_skewed"] += int(skewed.sum())
        # A click stamped before its impression counts as having happened with it: from there its conversion is measured.
        click_ms = np.where(skewed, shown_ms, answers.click_ms)
        clicks = Records(
            impression_id[answers.clicked],
            np.where(skewed, shown_ms - skew_ms, click_ms),
            shown_ms + world.click_window_ms,
        )
        of_click = answers.converted
        closes_ms = click_ms + world.attribution_window_ms
        conversions = Records(
            clicks.impression_id[of_click],
            click_ms[of_click] + answers.conversion_delay_ms,
            closes_ms[of_click],
            answers.value,
        )
        unclicked = np.delete(np.arange(len(shown)), answers.clicked)
        unconverted = np.delete(np.arange(len(closes_ms)), of_click)
        return (
            clicks.and_then(
                self._seconds(clicks, _SECOND_CLICK_MS),
                self._orphans(shown, len(clicks), None),
                self._too_late(
                    impression_id, shown.event_time_ms + world.click_window_ms, unclicked, len(clicks), None
                ),
            ),
            conversions.and_then(
                self._seconds(conversions, _SECOND_CONVERSION_MS),
                self._orphans(shown, len(conversions), answers.value),
                self._too_late(clicks.impression_id, closes_ms, unconverted, len(conversions), answers.value),
                self._view_through(shown, impression_id, unclicked, answers.value),
            ),
        )

    def _seconds(self, first: Records, within_ms: int) -> Records:
        """Another fact of the same kind soon after the first, before its impression closes."""
        again = np.flatnonzero(self._rng.random(len(first)) < self._world.second_fact_share)
        self.counts["second_facts"] += len(again)
        time_ms = first.event_time_ms[again] + self._rng.integers(1, within_ms, len(again))
        return Records(
            first.impression_id[again],
            np.minimum(time_ms, first.closes_ms[again]),
            first.closes_ms[again],
            None if first.value is None else first.value[again],
        )

    def _orphans(self, shown: Shown, n: int, values: Floats | None) -> Records:
        """Facts about impressions that nobody logged."""
        n = int(self._rng.binomial(n, self._world.orphan_share))
        self.counts["orphans"] += n
        time_ms = self._rng.choice(shown.event_time_ms, n)
        return Records(self._strangers.take(n), time_ms, time_ms + self._world.click_window_ms, self._some(values, n))

    def _too_late(self, ids: Ids, closed_ms: Ints, without: Ints, n: int, values: Floats | None) -> Records:
        """Facts, a share of n, about rows `without` one, up to a click window past `closed_ms`: a join still remembers those."""
        rows = self._some_rows(without, n * self._world.out_of_window_share)
        self.counts["out_of_window"] += len(rows)
        past_ms = self._rng.integers(1, self._world.click_window_ms, len(rows), endpoint=True)
        return Records(ids[rows], closed_ms[rows] + past_ms, closed_ms[rows], self._some(values, len(rows)))

    def _view_through(self, shown: Shown, ids: Ids, unclicked: Ints, values: Floats) -> Records:
        """Conversions of impressions that were seen, but not clicked."""
        rows = self._some_rows(unclicked, len(values) * self._world.view_through_share)
        self.counts["view_through"] += len(rows)
        after_ms = self._rng.integers(1, min(DAY_MS, self._world.attribution_window_ms), len(rows), endpoint=True)
        time_ms = shown.event_time_ms[rows] + after_ms
        return Records(ids[rows], time_ms, time_ms, self._some(values, len(rows)))

    def _some_rows(self, rows: Ints, expected: float) -> Ints:
        return rows[self._rng.random(len(rows)) < expected / max(len(rows), 1)]

    def _some(self, values: Floats | None, n: int) -> Floats | None:
        return None if values is None else self._rng.choice(values, n) if n else np.empty(0)
