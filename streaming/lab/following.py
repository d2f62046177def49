"""Which facts follow which, over whole columns of ids and times; must not know files or how a record was written.

A second, simpler reading of the join: by id alone, all at once, without watermark or state. It serves to diagnose a log, not to
label it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming.lab.durations import clean_above
from streaming.lab.findings import Following, Gap, Quantiles

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

HOUR_MS = 3_600_000
EXPECTED = (
    20  # facts that should have come before a silence means anything, as the stall rule has it (exp(-20) by chance)
)
STRETCHES = (
    100_000  # most stretches that a log is cut into when looking for silence; one stray date must not cost memory
)


@dataclass(frozen=True, slots=True)
class Column:
    """Records of a stream as columns of equal length: hashed ids and event times."""

    ids: UInt64
    times_ms: Int64

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, kept: Bool) -> Column:
        """Those records that are True in `kept`."""
        return Column(self.ids[kept], self.times_ms[kept])

    def firsts(self) -> Column:
        """The earliest record of each id, in ascending order of ids.

        Example:
            >>> column = Column(np.array([7, 3, 7], dtype=np.uint64), np.array([30, 20, 10], dtype=np.int64))
            >>> column.firsts().times_ms.tolist()
            [20, 10]
        """
        order = np.lexsort((self.times_ms, self.ids))
        ids = self.ids[order]
        is_first = np.ones(len(ids), dtype=np.bool_)
        is_first[1:] = ids[1:] != ids[:-1]
        return Column(ids[is_first], self.times_ms[order][is_first])

    def places_of(self, other: Column) -> tuple[Int64, Bool]:
        """Where the ids of `other` stand among these `firsts`, and which of them do; the place of one that does not means nothing."""
        if not len(self):
            return np.zeros(len(other), dtype=np.int64), np.zeros(len(other), dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.ids, other.ids), len(self) - 1)
        return places, self.ids[places] == other.ids


def follow(owners: Column, facts: Column, *, window_ms: int, clock_skew_ms: int) -> tuple[Following, Column]:
    """How facts follow their owners.

    Args:
        owners: one record an id, ids ascending, as `firsts` gives them.
        facts: records that carry the id of what they follow.
        window_ms: a fact belongs to its owner up to this long after it.
        clock_skew_ms: and from this long before it.

    Returns:
        The counts, and the first fact of each owner whatever the window: what may be followed in turn.
    """
    places, known = owners.places_of(facts)
    found = facts.where(known)
    delay = found.times_ms - owners.times_ms[places[known]]
    inside = (delay >= -clock_skew_ms) & (delay <= window_ms)
    followed = len(np.unique(found.ids[inside]))
    firsts = found.firsts()
    first_delay = firsts.times_ms - owners.times_ms[owners.places_of(firsts)[0]]
    return (
        Following(
            facts=len(facts),
            orphaned=len(facts) - len(found),
            before=int((delay < -clock_skew_ms).sum()),
            beyond=int((delay > window_ms).sum()),
            repeated=int(inside.sum()) - followed,
            followed=followed,
            owners=len(owners),
            rate=followed / len(owners) if len(owners) else None,
            delay_ms=Quantiles.of(first_delay),
        ),
        firsts,
    )


def silences(stem: str, times_ms: Int64, causes_ms: Int64) -> list[Gap]:
    """Stretches in which a stream was silent although what causes its records went on; to the hour, in a long log.

    The stream's records a cause over the whole log say how many should have come. Before the stream's first record nothing
    is expected: conversions of a log's first hours are still to come.

    Args:
        stem: the stream that may be silent.
        times_ms: event times of its records.
        causes_ms: event times of the impressions (for clicks) or clicks (for conversions).

    Example:
        >>> hours = np.arange(1000, dtype=np.int64) * HOUR_MS // 100
        >>> clicks = np.concatenate([hours[:400], hours[600:]])
        >>> [(gap.from_ms // HOUR_MS, gap.to_ms // HOUR_MS, gap.expected) for gap in silences("clicks", clicks, hours)]
        [(4, 6, 160)]
    """
    if not len(times_ms) or not len(causes_ms):
        return []
    start, end = int(causes_ms.min()), int(causes_ms.max())
    stretch = HOUR_MS if end - start >= 24 * HOUR_MS // 4 else clean_above((end - start) / 24)
    stretch = max(stretch, -(-(end - start) // STRETCHES))
    start -= start % stretch
    count = (end - start) // stretch + 1
    causes = np.bincount((causes_ms - start) // stretch, minlength=count)
    within = times_ms[(times_ms >= start) & (times_ms <= end)]
    there = np.bincount((within - start) // stretch, minlength=count)
    expected = causes * (len(times_ms) / len(causes_ms))
    is_silent = there == 0
    is_silent[: max(int(times_ms.min() - start) // stretch, 0)] = False
    gaps: list[Gap] = []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_silent.astype(np.int8), [0]])))
    for first, last in edges.reshape(-1, 2).tolist():
        due = expected[first:last]
        if due.sum() > EXPECTED:
            busy = np.flatnonzero(due)  # where nothing was due, nothing is missed
            from_ms, to_ms = start + (first + int(busy[0])) * stretch, start + (first + int(busy[-1]) + 1) * stretch
            gaps.append(Gap(stem, from_ms, to_ms, round(float(due.sum()))))
    return gaps
