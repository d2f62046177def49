"""What the event times of one file say about the clocks that made them; must not know what the records are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streaming.log_file import FUTURE_LOOKAHEAD, NEVER

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def behind_newest_ms(times_ms: Int64) -> Int64:
    """How far each time is behind the largest before it, milliseconds; 0 for what is in order.

    Example:
        >>> behind_newest_ms(np.array([5, 9, 7, 12], dtype=np.int64)).tolist()
        [0, 0, 2, 0]
    """
    return np.maximum.accumulate(times_ms) - times_ms if len(times_ms) else times_ms


def futures_of(streams: Sequence[Sequence[Int64]], *, skew_ms: int, leads_ms: Sequence[int]) -> list[list[Bool]]:
    """Which records of a log are stamped in the future, by the rule of the replay.

    A record is if it is further ahead than `skew_ms` of each of the next 16 of its file; where fewer follow, of all the rest of
    its file, and by the stream's lead more. The last one of a file, which nothing follows, is held against the whole log.

    Args:
        streams: for each stream the event times of its files, in the order in which they stand.
        skew_ms: how far ahead a record may be.
        leads_ms: for each stream, how much further the last records of its files may be, since they follow what others hold.

    Example:
        >>> times = [[np.array([1, 900, 2, 3], dtype=np.int64)], [np.array([4, 700], dtype=np.int64)]]
        >>> [[part.tolist() for part in parts] for parts in futures_of(times, skew_ms=10, leads_ms=[0, 500])]
        [[[False, True, False, False]], [[False, True]]]
    """
    found = [
        [_ahead_of_the_rest(part, skew_ms, lead_ms) for part in parts]
        for parts, lead_ms in zip(streams, leads_ms, strict=True)
    ]
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


def _ahead_of_the_rest(times_ms: Int64, skew_ms: int, lead_ms: int) -> Bool:
    found = np.zeros(len(times_ms), dtype=np.bool_)
    followed = max(len(times_ms) - FUTURE_LOOKAHEAD, 0)  # records that 16 others follow
    # The largest of the next 1, 2, 4, 8, 16 records, by doubling.
    following = np.append(times_ms[1:], NEVER)
    reach = 1
    while reach < FUTURE_LOOKAHEAD and followed:
        following[:-reach] = np.maximum(following[:-reach], following[reach:])
        reach *= 2
    found[:followed] = times_ms[:followed] > following[:followed] + skew_ms
    largest_ms = int(times_ms[:followed][~found[:followed]].max(initial=NEVER))
    for place in range(followed, len(times_ms) - 1):
        bound_ms = max(largest_ms, int(times_ms[place + 1 :].max())) + skew_ms + lead_ms
        found[place] = times_ms[place] > bound_ms
        largest_ms = largest_ms if found[place] else max(largest_ms, int(times_ms[place]))
    return found
