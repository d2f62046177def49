"""What is shown to whom and when, in the order of time; must not know whether anybody clicks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streaming.lab.delays import Floats, Ints
from streaming.lab.dials import DAY_MS, HOUR_MS, World
from streaming.lab.population import DEVICE_WEIGHTS, PLACEMENT_WEIGHTS, Items, Users, pick

RECENT = 8  # items of a user's history that are logged with an impression
_CHUNK = 32_768  # impressions drawn at a time: large enough for numpy, small enough for the cache
_STEP_MS = 300_000  # traffic is constant within five minutes
_PEAK_HOUR = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """Impressions in the order of event time, n of them, each with what was known when it was shown.

    Args:
        first: how many impressions came before these. user, item: indices. recency_hours: since the user's last impression, NaN at
            the first. recent: (n, RECENT) items the user was shown before, newest last, -1 where there are fewer.
    """

    first: int
    event_time_ms: Ints
    user: Ints
    item: Ints
    device: Ints
    placement: Ints
    recency_hours: Floats
    recent: Ints

    def __len__(self) -> int:
        return len(self.event_time_ms)

    @property
    def hour(self) -> Ints:
        """Hour of the day, UTC."""
        return np.asarray(self.event_time_ms // HOUR_MS % 24)


def impressions_by_step(world: World) -> tuple[Ints, Ints]:
    """Where each step of constant traffic begins (one edge more than steps), and how many impressions fall into it."""
    steps = max(1, -(-world.duration_ms // _STEP_MS))
    edges = world.start_ms + np.minimum(np.arange(steps + 1, dtype=np.int64) * _STEP_MS, world.duration_ms)
    middle = (edges[:-1] + edges[1:]) / 2
    hours, days = middle / HOUR_MS % 24, (middle - world.start_ms) / DAY_MS
    rate = 1 + world.rhythm * np.cos((hours - _PEAK_HOUR) * (2 * np.pi / 24))
    mass = np.cumsum(rate * np.exp(days * np.log1p(world.growth_per_day)) * np.diff(edges))
    reached = np.round(world.impressions * (mass / mass[-1])).astype(np.int64)
    return edges, np.diff(reached, prepend=0)


class Traffic:
    """Draws the impressions of a world, each user's history carried along.

    Args:
        world: its dials.
        users, items: its population.
        rng: where the draws come from.
    """

    def __init__(self, world: World, users: Users, items: Items, rng: np.random.Generator) -> None:
        self._world, self._users, self._items, self._rng = world, users, items, rng
        self._recent = np.full((world.users, RECENT), -1, dtype=np.int64)
        self._last_ms = np.full(world.users, -1, dtype=np.int64)

    def chunks(self) -> Iterator[Shown]:
        """All impressions of the world, some ten thousand at a time."""
        edges, counts = impressions_by_step(self._world)
        reached, first = np.cumsum(counts), 0
        while first < self._world.impressions:
            begin = int(np.searchsorted(reached, first, side="right"))
            end = max(begin + 1, int(np.searchsorted(reached, first + _CHUNK, side="right")))
            step = np.repeat(np.arange(begin, end), counts[begin:end])
            time_ms = edges[step] + (self._rng.random(len(step)) * (edges[step + 1] - edges[step])).astype(np.int64)
            time_ms.sort()
            user = self._draw_users(len(step))
            item = self._draw_items(user, time_ms)
            recent, last_ms = self._history(user, item, time_ms)
            hours = np.where(last_ms < 0, np.nan, (time_ms - last_ms) / HOUR_MS)
            yield self._show(first, time_ms, user, item, hours, recent)
            first += len(step)

    def sample(self, n: int) -> Shown:
        """Impressions spread evenly over the log, each with a history as long as its user's would be by then.

        A look at the world that its log does not contain. Rows are independent of each other and of `chunks`.
        """
        rng, world = self._rng, self._world
        elapsed = np.sort(rng.random(n)) * world.duration_ms
        time_ms = world.start_ms + elapsed.astype(np.int64)
        user = self._draw_users(n)
        gap_ms = world.duration_ms / (world.impressions * np.diff(self._users.cdf, prepend=0.0)[user])
        seen = rng.poisson(elapsed / gap_ms)
        recent = self._draw_items(np.repeat(user, RECENT), np.repeat(time_ms, RECENT)).reshape(n, RECENT)
        ago_ms = np.minimum(rng.exponential(gap_ms), elapsed)
        return self._show(
            0,
            time_ms,
            user,
            self._draw_items(user, time_ms),
            np.where(seen == 0, np.nan, ago_ms / HOUR_MS),
            np.where(np.arange(RECENT, 0, -1) <= seen[:, None], recent, -1),
        )

    def _show(
        self, first: int, event_time_ms: Ints, user: Ints, item: Ints, recency_hours: Floats, recent: Ints
    ) -> Shown:
        rng, n = self._rng, len(user)
        own_device = rng.random(n) < 0.75
        return Shown(
            first=first,
            event_time_ms=event_time_ms,
            user=user,
            item=item,
            device=np.where(own_device, self._users.device[user], pick(rng, DEVICE_WEIGHTS, n)),
            placement=pick(rng, PLACEMENT_WEIGHTS, n),
            recency_hours=recency_hours,
            recent=recent,
        )

    def _draw_users(self, n: int) -> Ints:
        return _draw(self._rng, self._users.cdf, n)

    def _draw_items(self, user: Ints, event_time_ms: Ints) -> Ints:
        """By popularity; of two candidates the first, unless the second alone is of the user's favourite category."""
        items, n = self._items, len(user)
        one, other = _draw(self._rng, items.cdf, n), _draw(self._rng, items.cdf, n)
        favourite = self._users.favourite[user]
        takes_other = (items.category[one] != favourite) & (items.category[other] == favourite)
        item = np.where(takes_other, other, one)
        return np.where(items.born_ms[item] <= event_time_ms, item, items.predecessor[item])

    def _history(self, user: Ints, item: Ints, event_time_ms: Ints) -> tuple[Ints, Ints]:
        """The last items each row's user was shown before that row, and when the last was (-1: never); then remembers these rows.

        Rows are laid out user by user, each user's rows behind the RECENT he brought along:

            u1: [.. h h h | row row ]  u2: [.. h h h | row row row ] ...
                     `-------^ what a row sees is the RECENT entries before it
        """
        order = np.argsort(user, kind="stable")
        who, starts, counts = np.unique(user[order], return_index=True, return_counts=True)
        group = np.repeat(np.arange(len(who)), counts)
        place = np.arange(len(user)) + RECENT * (group + 1)
        ends = starts + counts + RECENT * np.arange(1, len(who) + 1)
        back = np.arange(-RECENT, 0)

        line = np.empty(len(user) + RECENT * len(who), dtype=np.int64)
        line[(starts + RECENT * np.arange(len(who)))[:, None] + np.arange(RECENT)] = self._recent[who]
        line[place] = item[order]
        recent = np.empty((len(user), RECENT), dtype=np.int64)
        recent[order] = line[place[:, None] + back]
        self._recent[who] = line[ends[:, None] + back]

        time_in_order = event_time_ms[order]
        before = np.concatenate(([-1], time_in_order[:-1]))
        before[starts] = self._last_ms[who]
        last_ms = np.empty_like(before)
        last_ms[order] = before
        self._last_ms[who] = time_in_order[starts + counts - 1]
        return recent, last_ms


def _draw(rng: np.random.Generator, cdf: Floats, n: int) -> Ints:
    # The last share may end a rounding error below 1.
    return np.asarray(np.searchsorted(cdf, rng.random(n), side="right").clip(max=len(cdf) - 1))
