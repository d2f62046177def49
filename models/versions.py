"""Makes the versions of a learner's weights, each a snapshot or what changed since the one before; must not know who publishes them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch

from models.manifest import Manifest
from models.row_format import RowFormat, packed
from models.trainer import Learner
from models.weights import Weights


class Versions:
    """Versions of a learner's weights, one after the other.

    A version is a delta to the one before it if that one was published under the same epoch, and not `snapshot_every` - 1
    deltas stand behind the last snapshot (numbers that were left out do not count). What was made and not published (`published` was not called) is
    nobody's base: the next one is a snapshot.

    Args:
        learner: whose weights they are.
        snapshot_every: of so many versions that are published one after the other, at least one is a snapshot; 1 is snapshots alone.
        epsilon: a row that has moved no farther than this (L2) from what was last published of it is left out of a delta.
            Distances add up: however slowly it moves, what readers have is never farther off. Above 0 it costs a copy of
            all vectors.
        row_format: how vectors are written.
    """

    def __init__(self, learner: Learner, *, snapshot_every: int, epsilon: float, row_format: RowFormat) -> None:
        self._learner = learner
        self._snapshot_every = snapshot_every
        self._epsilon = epsilon
        self._row_format: RowFormat = row_format
        self._base: Manifest | None = None
        self._base_step = self._step = 0  # at the base, and at the version made last
        self._made: Mapping[str, torch.Tensor] = {}  # what the version made last holds, before it was packed
        self._deltas = 0  # published since the last snapshot
        self._shown: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # ids and vectors as they were last published

    def make(self, manifest: Manifest, others: Mapping[str, torch.Tensor], *, snapshot: bool = False) -> Weights:
        """The weights as they are now.

        Args:
            manifest: of a snapshot; the base is filled in.
            others: dense tensors that go with the learner's own.
            snapshot: whether it must be one.
        """
        gone = self._learner.take_evicted()  # also where nobody asks for them: they belong to this version
        base, self._base = self._base, None
        is_due = self._deltas + 1 >= self._snapshot_every
        if base is None or base.epoch != manifest.epoch or snapshot or is_due:
            return self._weights(manifest, self._learner.published() | dict(others))
        tensors = self._learner.published_since(self._base_step)
        if self._epsilon > 0:
            tensors = self._moved(tensors)
        tensors |= {f"{name.removesuffix('.ids')}.gone": ids for name, ids in gone.items()}
        of_base = {"base_epoch": base.epoch, "base_version": base.version, "base_digest": base.digest}
        return self._weights(msgspec.structs.replace(manifest, kind="delta", **of_base), tensors | dict(others))

    def published(self, manifest: Manifest) -> None:
        """Takes note that the version made last is there to be a base, under this manifest, in which its parts are told."""
        self._base, self._base_step = manifest, self._step
        self._deltas = 0 if manifest.kind == "snapshot" else self._deltas + 1
        if self._epsilon > 0:
            self._note(self._made)

    def _weights(self, manifest: Manifest, tensors: Mapping[str, torch.Tensor]) -> Weights:
        self._step = self._learner.step
        self._made = tensors if self._epsilon > 0 else {}
        found = dict(tensors)
        for name in [name for name in found if name.startswith("table") and name.endswith(".vectors")]:
            table = name.removesuffix(".vectors")
            found |= {f"{table}.{key}": tensor for key, tensor in packed(found[name], self._row_format).items()}
        return Weights(manifest, found)

    def _moved(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Those rows that have another id, or are farther than epsilon from what was last published of them."""
        found = dict(tensors)
        for table, (shown_ids, shown) in self._shown.items():
            rows, ids, vectors = (tensors[f"{table}.{key}"] for key in ("rows", "ids", "vectors"))
            goes = torch.ones(len(rows), dtype=torch.bool)
            known = torch.nonzero(rows < len(shown_ids))[:, 0]
            at = rows[known].long()
            distance = torch.linalg.vector_norm(vectors[known] - shown[at], dim=1)
            goes[known] = (shown_ids[at] != ids[known]) | ~(distance <= self._epsilon)
            found |= {f"{table}.rows": rows[goes], f"{table}.ids": ids[goes], f"{table}.vectors": vectors[goes]}
        return found

    def _note(self, made: Mapping[str, torch.Tensor]) -> None:
        """Remembers what was published, before it was packed: of a snapshot every row, of a delta its own."""
        for table in [name.removesuffix(".ids") for name in made if name.endswith(".ids")]:
            ids, vectors, rows = made[f"{table}.ids"], made[f"{table}.vectors"], made.get(f"{table}.rows")
            if rows is None:
                self._shown[table] = ids, vectors
                continue
            shown_ids, shown = self._shown[table]
            added = int((rows >= len(shown_ids)).sum())
            shown_ids = torch.cat(
                [shown_ids, ids.new_empty(added)]
            )  # a new row is in its delta whole, and written below
            shown = torch.cat([shown, vectors.new_empty(added, vectors.shape[1])])
            shown_ids[rows.long()], shown[rows.long()] = ids, vectors
            self._shown[table] = shown_ids, shown
