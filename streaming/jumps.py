"""How far ahead the clock of a live stream may be moved by few records: one wrong clock must not move it. Must not know other streams.

A record more than `alignment_ms` ahead of where its stream has come *jumps*. It is taken as any other, but does not move the clock:

    sixteen have jumped                                  the clock goes to the least of them; every third record that is near takes one of them back
    the clock has come near in the meantime              it counts as any other
    the stream has been read to its end, and is idle     it counts: nothing more will speak against it

    clock ---o--o--o-o--o--.....................................  *  one record, days ahead: the clock stays
    clock ---o--o--o-o--o                                         *  *** *  ** *** *   sixteen: there was a gap

A record that is far behind says nothing of where the stream is now: what is sent again must not hold it. But of the first sixteen, when nobody knows yet
where the stream is, each counts until one comes that is so far behind it.
"""

from __future__ import annotations

import msgspec
import numpy as np

from streaming.log_file import NEVER, Int64

FOLLOWED = 16
"""So many records that jump move the clock; as many as must contradict a record of a file that is ahead of them."""

OUTWEIGHS = 3
"""So many records that are near take back one that jumped: more than a quarter of the traffic is no mistake."""


class JumpsSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state of a `Jumps` as a value, without `newest_ms`."""

    waiting: tuple[int, ...] = ()
    near: int = 0
    first: tuple[int, ...] = ()
    seen: int = 0


class Jumps:
    """The newest event time of a stream, by which its clock goes.

    Args:
        alignment_ms: how far ahead of its clock a single record may move it.

    Example:
        >>> jumps = Jumps(alignment_ms=50)
        >>> jumps.newest(np.array([8_000, 100, *range(100, 120), 140, 9_000, 150]), reached_ms=NEVER)[[0, 1, -3, -2, -1]]
        array([8000,  100,  140,  140,  150])
        >>> jumps.newest(np.arange(1_000, 1_016), reached_ms=NEVER)[-3:]  # with the one before that is sixteen one earlier
        array([ 150, 1014, 1015])
    """

    def __init__(self, *, alignment_ms: int) -> None:
        self._alignment_ms = alignment_ms
        self.newest_ms = NEVER
        """The largest event time that counts; NEVER before one."""
        self.waiting: list[int] = []
        """Event times of those that jump, in the order in which they came."""
        self.near = 0
        """Records that were near since one that jumped was last taken back."""
        self.first: list[int] = []
        """Event times of the first sixteen that none after them has contradicted."""
        self.seen = 0
        """Records, up to sixteen."""

    @property
    def is_beginning(self) -> bool:
        """Whether its newest may fall: fewer than sixteen records have come."""
        return self.seen < FOLLOWED

    def newest(self, times: Int64, *, reached_ms: int) -> Int64:
        """Takes in records of the stream.

        Args:
            times: (n,) event times; NEVER is one that moves nothing.
            reached_ms: how far event time has come by all streams; NEVER if there is no saying.

        Returns:
            (n,) the newest that counts, after each.
        """
        before = max(self.newest_ms, reached_ms)
        largest = np.maximum.accumulate(np.concatenate([[before], times]))
        limits = np.where(largest[:-1] == NEVER, NEVER, largest[:-1] + self._alignment_ms)
        if not self.waiting and not self.is_beginning and not (times > limits).any():
            newest = np.maximum(np.maximum.accumulate(times), self.newest_ms)
        else:
            newest = np.fromiter((self._take(time_ms, reached_ms) for time_ms in times.tolist()), np.int64, len(times))
        self.newest_ms = int(newest[-1])
        return newest

    def _take(self, time_ms: int, reached_ms: int) -> int:
        if time_ms == NEVER:
            return self.newest_ms
        if self.is_beginning:
            self.first = [own for own in self.first if own <= time_ms + self._alignment_ms] + [time_ms]
            self.newest_ms, self.seen = max(self.first), self.seen + 1
            return self.newest_ms
        before = max(self.newest_ms, reached_ms)
        if time_ms > before + self._alignment_ms:
            self.waiting.append(time_ms)
            if len(self.waiting) == FOLLOWED:
                self.newest_ms = min(self.waiting)
            self._let_go(reached_ms)
            return self.newest_ms
        self.newest_ms = max(self.newest_ms, time_ms)
        self._let_go(reached_ms)
        if self.waiting and time_ms >= before - self._alignment_ms:
            self.near += 1
            if self.near == OUTWEIGHS:
                del self.waiting[0]
                self.near = 0
        return self.newest_ms

    def _let_go(self, reached_ms: int) -> None:
        for time_ms in sorted(self.waiting):
            if time_ms > max(self.newest_ms, reached_ms) + self._alignment_ms:
                break
            self.newest_ms = max(self.newest_ms, time_ms)
            self.waiting.remove(time_ms)

    def end(self) -> None:
        """Takes in that the stream has been read to its end, and nothing more comes for a while."""
        self.newest_ms = max([self.newest_ms, *self.waiting])
        self.waiting.clear()
        self.near = 0

    def snapshot(self) -> JumpsSnapshot:
        """What waits, as a value; `newest_ms` is kept elsewhere."""
        return JumpsSnapshot(tuple(self.waiting), self.near, tuple(self.first) if self.is_beginning else (), self.seen)

    def restore(self, newest_ms: int, snapshot: JumpsSnapshot) -> None:
        """Takes up where another stood."""
        self.newest_ms, self.waiting, self.near = newest_ms, list(snapshot.waiting), snapshot.near
        self.first, self.seen = list(snapshot.first), snapshot.seen
