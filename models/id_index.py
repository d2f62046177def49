"""Which row belongs to a 64-bit id, by open addressing over numpy arrays; must not know what a row holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.batch import Int64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: one multiplication spreads even consecutive ids
_EMPTY = -1  # a slot never used: a search ends here
_GONE = -2  # a slot whose id was removed: a search goes on
_LEAST_SLOTS = 1024


class IdIndex:
    """A map from any int64 to a row number, for arrays of ids at a time.

    Linear probing in a table at most half full. Ids are compared whole, so two ids never share a row. What it answers
    depends on the pairs it holds alone, never on the order or the batches in which they came.

    Example:
        >>> index = IdIndex()
        >>> index.insert(np.array([7, -3]), np.array([0, 1]))
        >>> index.find(np.array([-3, 5, 7, -3])).tolist()
        [1, -1, 0, 1]

    Source:
        Knuth, "The Art of Computer Programming" vol. 3, 6.4: linear probing, and multiplicative hashing.
    """

    def __init__(self) -> None:
        self._clear(_LEAST_SLOTS)

    def find(self, ids: Int64) -> Int64:
        """The row of each id, -1 where it has none: (n,) -> (n,)."""
        return self._search(ids)[1]

    def insert(self, ids: Int64, rows: Int64) -> None:
        """Adds ids that are all different and not yet held, with the row of each (from 0 to 2**31 - 1)."""
        if 2 * (self._used + len(ids)) > len(self._rows):
            held = self._rows >= 0
            ids = np.concatenate([self._keys[held], ids])
            rows = np.concatenate([self._rows[held], rows])
            self._clear(max(_LEAST_SLOTS, 1 << (4 * len(ids) - 1).bit_length()))
        slots = self._first_slots(ids)
        waiting = np.arange(len(ids))
        while len(waiting):
            # Several may meet in one free slot: all write their row, the one that is found there afterwards has it.
            free = waiting[self._rows[slots[waiting]] == _EMPTY]
            self._rows[slots[free]] = rows[free]
            seated = free[self._rows[slots[free]] == rows[free]]
            self._keys[slots[seated]] = ids[seated]
            is_waiting = np.zeros(len(ids), np.bool_)
            is_waiting[waiting] = True
            is_waiting[seated] = False
            waiting = np.flatnonzero(is_waiting)
            slots[waiting] = (slots[waiting] + 1) & self._mask
        self._used += len(ids)

    def remove(self, ids: Int64) -> None:
        """Forgets ids, all of them held."""
        self._rows[self._search(ids)[0]] = _GONE

    def _clear(self, slots: int) -> None:
        self._keys: Int64 = np.zeros(slots, np.int64)
        self._rows: npt.NDArray[np.int32] = np.full(slots, _EMPTY, np.int32)
        self._mask = slots - 1
        self._shift = np.uint64(64 - self._mask.bit_length())
        self._used = 0  # slots not empty; those of removed ids count until the next growth

    def _first_slots(self, ids: Int64) -> Int64:
        mixed = ids.view(np.uint64) * _GOLDEN
        mixed >>= self._shift
        return mixed.view(np.int64)

    def _search(self, ids: Int64) -> tuple[Int64, Int64]:
        """Where the search for each id ended, and the row found there or -1."""
        ids = np.ascontiguousarray(ids)
        slots = self._first_slots(ids)
        rows = self._rows[slots].astype(np.int64)
        on = np.flatnonzero((rows != _EMPTY) & ((self._keys[slots] != ids) | (rows == _GONE)))
        while len(on):
            at = slots[on] = (slots[on] + 1) & self._mask
            rows[on] = self._rows[at]
            on = on[(rows[on] != _EMPTY) & ((self._keys[at] != ids[on]) | (rows[on] == _GONE))]
        return slots, rows
