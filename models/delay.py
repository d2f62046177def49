"""What each method teaches on each event of a click, and how much of a click that is; must not know a network.

Every event on a click gets a pair (a+, a-): its loss is a+ * l1 + a- * l0. Over the life of one click the pairs of a method
have unit mass, E[sum a+] = P(v = 1) and E[sum a-] = P(v = 0), so each method stands in for the mature label in any loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from models.batch import Event, Float64, Int8

Pair = Callable[[Float64, Float64, Float64], tuple[Float64, Float64]]
"""(f, s, v) -> (a+, a-), (n,) each: f is pCVR, s the share of conversions later than the observation window, v the label.

All three are numbers, not parts of a graph: no gradient flows through a weight.
"""


def by_label(f: Float64, s: Float64, v: Float64) -> tuple[Float64, Float64]:
    """The label as it stands."""
    return v, 1 - v


def all_positive(f: Float64, s: Float64, v: Float64) -> tuple[Float64, Float64]:
    """One positive, whatever the model says."""
    return np.ones_like(f), np.zeros_like(f)


def all_negative(f: Float64, s: Float64, v: Float64) -> tuple[Float64, Float64]:
    """One negative, whatever the model says."""
    return np.zeros_like(f), np.ones_like(f)


METHODS: Mapping[str, Mapping[Event, Pair]] = {
    "mature": {Event.MATURED: by_label},
    "window": {Event.IMMEDIATE_POSITIVE: all_positive, Event.OBSERVED_NEGATIVE: all_negative},
    "oracle": {Event.ORACLE: by_label},
}
"""Method -> event -> pair. An event that a method does not name teaches no conversion."""


def pairs_of(method: str) -> Mapping[Event, Pair]:
    """The pairs of a method.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)} (got {method!r}): no other has a table of weights"
        )
    return METHODS[method]


def taught(pairs: Mapping[Event, Pair], events: Int8, *, f: Float64, s: Float64, v: Float64) -> tuple[Float64, Float64]:
    """What each row teaches about conversion, (a+, a-): (B,) each, 0 where its event teaches nothing.

    Args:
        pairs: of the method.
        events: (B,) `Event` codes.
        f: (B,) as in `Pair`.
        s: (B,) likewise.
        v: (B,) likewise.

    Example:
        >>> events, zeros = np.array([Event.MATURED, Event.CLICKED], np.int8), np.zeros(2)
        >>> taught(METHODS["mature"], events, f=zeros, s=zeros, v=np.array([1.0, 1.0]))
        (array([1., 0.]), array([0., 0.]))
    """
    positive, negative = np.zeros(len(events)), np.zeros(len(events))
    for event, pair in pairs.items():
        rows = events == event
        positive[rows], negative[rows] = pair(f[rows], s[rows], v[rows])
    return positive, negative


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
