"""Embedding rows that appear with their ids, learn, and may leave again; must not know features, towers or losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Int64
from models.id_index import Distinct, IdIndex
from models.optimizers import adagrad_
from models.start_vectors import start_vectors

_LEAST_CAPACITY = 1024  # rows
_QUEUED_SHARE = 256  # one row in so many at least is queued for eviction at once, so that sorting by age stays rare
_ROW_BITS = 32  # of an entry of that queue: touched << 32 | row
_ROW = (1 << _ROW_BITS) - 1

_Integer = TypeVar("_Integer", np.int32, np.int64)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the ids of a batch stand in a table. U is how many different ones there are.

    Args:
        rows: (U,) row of each different id, in order of first appearance; one that is not in the table has the row count plus
            its place in `new_ids`.
        new_ids: ids that are not in the table, in the same order.
        inverse: (n,) which of the U each position of the batch has.
    """

    rows: Int64
    new_ids: Int64
    inverse: torch.Tensor


class Table:
    """Vectors of one width, a row an id, without collisions; rows are numbered in order of first appearance.

    Looking up changes nothing: an id without a row is answered with the vector it would start from. Only `learn` makes
    rows. Where `max_rows` is reached, the ids whose last batch is longest ago (of equals, the lowest row) hand theirs on;
    ids of the batch itself stay, and a batch that needs more than `max_rows` gets them.

    Args:
        width: D, length of a vector.
        seed: of start vectors.
        initial_sum: where the sums of Adagrad start.
        max_rows: most rows kept; None is no limit.
        device: where vectors and sums live. Ids and bookkeeping stay with the CPU.
    """

    def __init__(self, *, width: int, seed: int, initial_sum: float, max_rows: int | None, device: str) -> None:
        self.width = width
        self._seed = seed
        self._initial_sum = initial_sum
        self._max_rows = max_rows
        self._device = device
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._index = IdIndex()
        self._ids: Int64 = np.zeros(0, np.int64)
        self._touched: npt.NDArray[np.int32] = np.zeros(0, np.int32)  # step that last learned each row
        self._vectors = torch.zeros(0, self.width, device=self._device)
        self._sums = torch.zeros(0, self.width, device=self._device)
        self._distinct = Distinct()
        self._queue: Int64 = np.zeros(
            0, np.int64
        )  # to evict next, oldest first; no state: can be made anew at any time
        self._evicted: list[Int64] = []

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> Int64:
        """(rows,) the id of each row."""
        return self._ids[: self._count]

    @property
    def vectors(self) -> torch.Tensor:
        """(rows, D) the vector of each row, on the table's device; a view."""
        return self._vectors[: self._count]

    def look_up(self, ids: Int64) -> Places:
        """Where ids stand: (n,) -> places of the U different ones."""
        first, inverse = self._distinct.of(ids)
        different = ids[first]
        rows = self._index.find(different)
        absent = np.flatnonzero(rows < 0)
        rows[absent] = self._count + np.arange(len(absent))
        return Places(rows, different[absent], torch.from_numpy(inverse).to(self._device))

    def read(self, places: Places) -> torch.Tensor:
        """The vectors of the different ids, a copy: (U, D)."""
        vectors, is_new = self._gather(self._vectors, places)
        if len(places.new_ids):
            fresh = start_vectors(places.new_ids, width=self.width, seed=self._seed)
            vectors[is_new] = torch.from_numpy(fresh).to(self._device)
        return vectors

    def learn(self, places: Places, vectors: torch.Tensor, gradient: torch.Tensor, *, rate: float, step: int) -> None:
        """Gives new ids their rows and moves all rows of a batch by Adagrad.

        Args:
            places: of the batch, with nothing learned since they were looked up.
            vectors: (U, D) what `read` gave for them; overwritten with the result.
            gradient: (U, D) of the batch, summed over the positions that share a row.
            rate: learning rate.
            step: number of this step, from 1; rows remember it.
        """
        sums, is_new = self._gather(self._sums, places)
        if len(places.new_ids):
            sums[is_new] = self._initial_sum
        rows = self._admit(places, step)
        adagrad_(vectors, sums, gradient, rate=rate)
        _write(self._vectors, rows, vectors)
        _write(self._sums, rows, sums)
        self._touched[rows] = step

    def _gather(self, stored: torch.Tensor, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of `stored`, anything where the id is new, and which those are: (U, D), (new ids,)."""
        if not len(places.new_ids):
            return _take(stored, places.rows), torch.zeros(0, dtype=torch.int64, device=self._device)
        is_new = places.rows >= self._count
        known, new = (torch.from_numpy(np.flatnonzero(mask)).to(self._device) for mask in (~is_new, is_new))
        gathered = torch.empty(len(places.rows), self.width, device=self._device)
        gathered[known] = _take(stored, places.rows[~is_new])
        return gathered, new

    def _admit(self, places: Places, step: int) -> Int64:
        """Makes rows for the new ids; the rows of all of `places`, now final: (U,)."""
        if not len(places.new_ids):
            return places.rows
        is_new = places.rows >= self._count
        self._touched[places.rows[~is_new]] = step  # before any row is taken from another
        room = len(places.new_ids) if self._max_rows is None else max(0, self._max_rows - self._count)
        freed = self._evict(len(places.new_ids) - room, step)
        added = len(places.new_ids) - len(freed)
        self._reserve(self._count + added)
        new_rows = np.concatenate([freed, np.arange(self._count, self._count + added)])
        rows = places.rows.copy()
        rows[is_new] = new_rows[rows[is_new] - self._count]
        self._ids[new_rows] = places.new_ids
        self._touched[new_rows] = step
        self._index.insert(places.new_ids, new_rows)
        self._count += added
        return rows

    def _evict(self, wanted: int, step: int) -> Int64:
        """Up to `wanted` rows, those untouched for longest first, none of them touched in this step."""
        if wanted <= 0:
            return np.zeros(0, np.int64)
        self._queue = self._queue[self._touched[self._queue & _ROW] == self._queue >> _ROW_BITS]
        if len(self._queue) < wanted:
            ages = self._touched[: self._count].astype(np.int64) << _ROW_BITS | np.arange(self._count)
            picked = min(max(wanted, self._count // _QUEUED_SHARE), self._count)
            oldest = np.sort(np.partition(ages, picked - 1)[:picked])
            self._queue = oldest[oldest >> _ROW_BITS < step]
        rows = self._queue[:wanted] & _ROW
        self._queue = self._queue[wanted:]
        self._index.remove(self._ids[rows])
        self._evicted.append(self._ids[rows])
        return rows

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._ids):
            return
        capacity = max(_LEAST_CAPACITY, 2 * len(self._ids), rows)
        self._ids = _grown(self._ids, capacity)
        self._touched = _grown(self._touched, capacity)
        for name in ("_vectors", "_sums"):
            grown = _room(capacity, self.width, device=self._device)
            grown[: self._count] = getattr(self, name)[: self._count]
            setattr(self, name, grown)

    def touched_since(self, step: int) -> Int64:
        """The rows, ascending, that a later step than this one has learned."""
        return np.flatnonzero(self._touched[: self._count] > step)

    def take_evicted(self) -> Int64:
        """The ids that left since this was last asked and have not come back, in the order in which they left."""
        left = np.concatenate([*self._evicted, np.zeros(0, np.int64)])
        self._evicted = []
        _, last = np.unique(left[::-1], return_index=True)
        left = left[np.sort(len(left) - 1 - last)]
        return left[self._index.find(left) < 0]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All of its state, as CPU copies."""
        return {
            "ids": torch.from_numpy(self._ids[: self._count].copy()),
            "touched": torch.from_numpy(self._touched[: self._count].copy()),
            "vectors": self.vectors.to("cpu", copy=True),
            "sums": self._sums[: self._count].to("cpu", copy=True),
            "evicted": torch.from_numpy(np.concatenate([*self._evicted, np.zeros(0, np.int64)])),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self._clear()
        count = len(tensors["ids"])
        self._reserve(count)
        self._ids[:count] = tensors["ids"].numpy()
        self._touched[:count] = tensors["touched"].numpy()
        self._vectors[:count] = tensors["vectors"].to(self._device)
        self._sums[:count] = tensors["sums"].to(self._device)
        self._index.insert(self._ids[:count], np.arange(count))
        self._evicted = [tensors["evicted"].numpy().copy()]
        self._count = count


def _room(rows: int, width: int, *, device: str) -> torch.Tensor:
    """(rows, D) of anything."""
    if torch.device(device).type == "cpu":
        # Of numpy, as it asks for huge pages: 11,600 of 2 million rows are gathered in .43 ms, from torch's pages in .62.
        return torch.from_numpy(np.empty((rows, width), np.float32))
    return torch.empty(rows, width, device=device)


def _take(stored: torch.Tensor, rows: Int64) -> torch.Tensor:
    """Rows (U,) of `stored`, a copy: (U, D)."""
    if stored.device.type == "cpu":
        return torch.from_numpy(stored.numpy().take(rows, axis=0))
    return stored.index_select(0, torch.from_numpy(rows).to(stored.device))


def _write(stored: torch.Tensor, rows: Int64, values: torch.Tensor) -> None:
    """Lays (U, D) values over rows (U,) of `stored`."""
    if stored.device.type == "cpu":
        # Each row as one value of 4 D bytes: .18 ms for 9,400 rows of width 16, where index_copy_ takes .28 and plain numpy .6.
        whole = np.dtype((np.void, stored.shape[1] * stored.element_size()))
        stored.numpy().view(whole)[rows] = values.numpy().view(whole)
    else:
        stored.index_copy_(0, torch.from_numpy(rows).to(stored.device), values)


def _grown(array: npt.NDArray[_Integer], capacity: int) -> npt.NDArray[_Integer]:
    grown = np.zeros(capacity, array.dtype)
    grown[: len(array)] = array
    return grown
