"""What the event times of one file say about the clocks that made them; must not know what the records are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streaming.arrivals import FUTURE_LOOKAHEAD

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_NEVER = np.iinfo(np.int64).min // 2  # far enough from the edge that a window can be added


def behind_newest_ms(times_ms: Int64) -> Int64:
    """How far each time is behind the largest before it, milliseconds; 0 for what is in order.

    Example:
        >>> behind_newest_ms(np.array([5, 9, 7, 12], dtype=np.int64)).tolist()
        [0, 0, 2, 0]
    """
    return np.maximum.accumulate(times_ms) - times_ms if len(times_ms) else times_ms


def futures_of(streams: Sequence[Sequence[Int64]], *, skew_ms: int, leads_ms: Sequence[int]) -> list[list[Bool]]:
    """Which records of a log are stamped in the future.

    A record is if it is further ahead than `skew_ms` of each of the next 16 of its file. The last one of a file, which nothing
    follows, is held against everything else in the log.

    Args:
        streams: for each stream the event times of its files, in the order in which they stand.
        skew_ms: how far ahead a record may be.
        leads_ms: for each stream, how much further its files' last records may be, since they follow what others hold.

    Example:
        >>> times = [[np.array([1, 900, 2, 3], dtype=np.int64)], [np.array([4, 700], dtype=np.int64)]]
        >>> [[part.tolist() for part in parts] for parts in futures_of(times, skew_ms=10, leads_ms=[0, 500])]
        [[[False, True, False, False]], [[False, True]]]
    """
    found = [[_ahead_of_next(part, skew_ms) for part in parts] for parts in streams]
    flat = [
        (part, future)
        for parts, futures in zip(streams, found, strict=True)
        for part, future in zip(parts, futures, strict=True)
    ]
    for lead_ms, parts, futures in zip(leads_ms, streams, found, strict=True):
        for part, future in zip(parts, futures, strict=True):
            rest = [other[:-1][~ahead[:-1]] if other is part else other[~ahead] for other, ahead in flat]
            largest_ms = max((int(times.max()) for times in rest if len(times)), default=None)
            if len(part) and largest_ms is not None:
                future[-1] = int(part[-1]) > largest_ms + lead_ms + skew_ms
    return found


def _ahead_of_next(times_ms: Int64, skew_ms: int) -> Bool:
    # The largest of the next 1, 2, 4, 8, 16 records, by doubling; the last record has none and is decided elsewhere.
    following = np.concatenate([times_ms[1:], np.full(FUTURE_LOOKAHEAD, _NEVER)])
    reach = 1
    while reach < FUTURE_LOOKAHEAD:
        following[:-reach] = np.maximum(following[:-reach], following[reach:])
        reach *= 2
    found: Bool = times_ms > following[: len(times_ms)] + skew_ms
    found[-1:] = False
    return found
