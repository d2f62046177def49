"""How much a click weighs beside impressions and beside later clicks: kappa and rho; must not know features, labels or methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.batch import Float64, Int64

_HOUR_MS = 3_600_000
_DAY_MS, _QUARTER_MS = 24 * _HOUR_MS, _HOUR_MS // 4
_MOST_CHANGE = 4.0


class Kappa:
    """Mass taught for each click seen: the weight of an unclicked row in a product loss.

    Conversion labels are older than the impressions they meet in a batch. Without kappa, today's unclicked rows would stand
    beside conversions of a week ago, few when a stream is young, and pCVR would start far too low.

    Both sums halve every `half_life_ms` of event time. Clicks count from the first batch that teaches mass; before it
    kappa is 0.

    Example:
        >>> kappa = Kappa(half_life_ms=1000)
        >>> kappa.update(mass=0, clicks=100, at_ms=0)  # nothing taught yet: these are not counted
        >>> kappa.update(mass=3, clicks=4, at_ms=500)
        >>> kappa.value
        0.75
        >>> kappa.update(mass=1.5, clicks=0, at_ms=1500)
        >>> kappa.value
        1.5
    """

    def __init__(self, *, half_life_ms: int) -> None:
        if half_life_ms <= 0:
            raise ValueError(
                f"half_life_ms must be above 0 (got {half_life_ms}): it is the time in which old batches lose half their weight"
            )
        self._half_life_ms = half_life_ms
        self._mass = 0.0
        self._clicks = 0.0
        self._at_ms: int | None = None

    @property
    def value(self) -> float:
        """Mass a click; 0 before the first mass."""
        return self._mass / self._clicks if self._clicks > 0 else 0.0

    def update(self, *, mass: float, clicks: int, at_ms: int) -> None:
        """Adds a batch.

        Args:
            mass: sum of a+ and a- over its rows.
            clicks: its CLICKED rows.
            at_ms: its event time; one before the latest is taken at the latest.
        """
        if self._at_ms is None and mass == 0:
            return
        latest = at_ms if self._at_ms is None else max(at_ms, self._at_ms)
        kept = 1.0 if self._at_ms is None else 0.5 ** ((latest - self._at_ms) / self._half_life_ms)
        self._mass = self._mass * kept + mass
        self._clicks = self._clicks * kept + clicks
        self._at_ms = latest

    def snapshot(self) -> dict[str, float | int | None]:
        """Its sums, as JSON takes them."""
        return {"mass": self._mass, "clicks": self._clicks, "at_ms": self._at_ms}

    def restore(self, state: Mapping[str, float | int | None]) -> None:
        """Takes back what `snapshot` gave."""
        at_ms = state["at_ms"]
        self._mass, self._clicks = float(state["mass"] or 0.0), float(state["clicks"] or 0.0)
        self._at_ms = None if at_ms is None else int(at_ms)


class Growth:
    """How much more traffic there is now than when a click was made: what mass that arrives late must be multiplied by.

    A conversion that comes five hours after its click stands beside the fresh clicks of now. Where those are fewer, as by night, or more, as
    in a morning and where traffic grows, the labels of a batch are not those of any steady traffic, and a learner that is quick enough follows
    the rhythm of the day up and down. rho = r(now) / r(click) makes them those of a traffic that had always been as it is now. r is
    CLICKED an hour: from an hour before a click to an hour after it, and over the last two hours in which there were clicks. It is held
    within 1/4 and 4, and is 1 for clicks from before the stream.

    Clicks are counted by quarters of an hour, and within one as if they came evenly.

    Args:
        reach_ms: how old a click may be that is asked for.

    Example:
        >>> growth = Growth(reach_ms=3 * 86_400_000)
        >>> for hour in range(96):  # twice the clicks from the third day on
        ...     growth.update(clicks=100 if hour < 48 else 200, at_ms=(hour + 1) * 3_600_000)
        >>> day = 86_400_000
        >>> growth.ratio(np.array([4 * day, 3 * day, day, -day]), at_ms=4 * day).tolist()
        [1.0, 1.0, 2.0, 1.0]
    """

    def __init__(self, *, reach_ms: int) -> None:
        self._reach_ms = reach_ms + _DAY_MS  # batches may be long
        self._ends_ms: list[int] = []  # ascending; how many clicks there had been up to each
        self._counts: list[int] = []

    def update(self, *, clicks: int, at_ms: int) -> None:
        """Adds the CLICKED of a batch.

        Args:
            clicks: how many.
            at_ms: its event time; one before the latest is taken at the latest.
        """
        if not self._ends_ms:
            self._ends_ms, self._counts = [at_ms], [0]
        at_ms = max(at_ms, self._ends_ms[-1])
        count = self._counts[-1] + clicks
        # The last point moves along until its quarter is over.
        last, before = self._ends_ms[-1], self._ends_ms[-2:-1]
        if before and (at_ms == last or at_ms // _QUARTER_MS == before[0] // _QUARTER_MS):
            self._ends_ms[-1], self._counts[-1] = at_ms, count
        else:
            self._ends_ms.append(at_ms)
            self._counts.append(count)
        while len(self._ends_ms) > 2 and self._ends_ms[1] < at_ms - self._reach_ms:
            del self._ends_ms[0], self._counts[0]

    def ratio(self, clicks_ms: Int64, *, at_ms: int) -> Float64:
        """The rho of clicks made at these times, for mass that is taught at `at_ms`: (n,) -> (n,)."""
        if not self._ends_ms:
            return np.ones(len(clicks_ms))
        ends, counts = np.array(self._ends_ms, np.float64), np.array(self._counts, np.float64)

        def rate(from_ms: Float64, to_ms: Float64) -> Float64:
            from_ms, to_ms = np.maximum(from_ms, ends[0]), np.minimum(to_ms, ends[-1])
            came = np.interp(to_ms, ends, counts) - np.interp(from_ms, ends, counts)
            return np.divide(came, to_ms - from_ms, out=np.zeros(len(came)), where=to_ms > from_ms)

        passed = max(int(np.searchsorted(ends, at_ms, "right")) - 1, 0)
        now = ends[np.searchsorted(counts, counts[passed])]  # when the last click had been counted
        then = np.minimum(clicks_ms.astype(np.float64), now)
        today = rate(np.array([now - 2 * _HOUR_MS]), np.array([now]))
        its_time = rate(then - _HOUR_MS, then + _HOUR_MS)
        known = (then >= ends[0]) & (its_time > 0) & (today > 0)
        ratio = np.divide(today, its_time, out=np.ones(len(then)), where=known)
        return np.clip(ratio, 1 / _MOST_CHANGE, _MOST_CHANGE)

    def snapshot(self) -> dict[str, Any]:
        """Its counts, as JSON takes them."""
        return {"ends_ms": list(self._ends_ms), "counts": list(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `snapshot` gave."""
        self._ends_ms, self._counts = list(state["ends_ms"]), list(state["counts"])
