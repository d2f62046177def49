"""A delta laid over the version that it is a delta to, which gives the newer version whole; must not know who made it or where it lies.

base     row  0    1    2    3               rows 1 and 3 were touched; row 3 has another id now, row 4 is new
         id   a    b    c    d
delta    rows [1, 3, 4]  ids [b, e, f]  vectors ...  gone [d]
applied  id   a    b'   c    e    f          in the trainer's own order, bit for bit
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch

from models.manifest import DamagedWeightsError, Manifest
from models.weights import Weights, is_of_table, tables_of


class WrongBaseError(DamagedWeightsError):
    """A delta was to be laid over another version than the one it is a delta to."""


def whole(weights: Weights) -> Weights:
    """A snapshot with its vectors as F32, whatever format they were written in.

    Raises:
        WrongBaseError: it is a delta.
    """
    manifest = weights.manifest
    if manifest.kind != "snapshot":
        raise WrongBaseError(
            f"version {manifest.name} is a delta to {manifest.base_name}: lay it over that one, it is not complete in itself"
        )
    return Weights(_bare(weights), _tensors_of(weights, tables_of(weights.tensors)), weights.digest)


def applied(base: Weights, delta: Weights) -> Weights:
    """The version that a delta makes of its base, whole, with vectors as F32; neither of the two is changed.

    With rows written as fp32 it is what the trainer would have published as a snapshot in place of the delta, bit for bit:
    encoded, the two are the same bytes. With fp16 and int8, it is what unpacking that snapshot gives.

    Args:
        base: whole; the version that the delta names.
        delta: the version after it.

    Raises:
        WrongBaseError: the base is another version, or no whole one.
        DamagedWeightsError: the delta does not fit a version of this size: the message names the table.
    """
    manifest = delta.manifest
    if manifest.kind != "delta":
        raise WrongBaseError(f"version {manifest.name} is a snapshot: it needs no base, take it as it is")
    if base.manifest.kind != "snapshot" or base.manifest.name != manifest.base_name:
        raise WrongBaseError(
            f"version {manifest.name} is a delta to {manifest.base_name} (got {base.manifest.name}, a {base.manifest.kind}): "
            "read the newest snapshot and the deltas after it in order"
        )
    if None not in (base.digest, manifest.base_digest) and base.digest != manifest.base_digest:
        raise WrongBaseError(
            f"version {manifest.name} is a delta to another {manifest.base_name} than this one: a run of its own has published "
            "under the same names; read its newest snapshot and the deltas after it in order"
        )
    old, new = tables_of(base.tensors), tables_of(delta.tensors)
    if old.keys() != new.keys():
        raise DamagedWeightsError(
            f"version {manifest.name} has tables {sorted(new)}, its base has {sorted(old)}: read a snapshot"
        )
    laid = {}
    for table, (ids, vectors) in new.items():
        rows, gone = delta.tensors.get(f"{table}.rows"), delta.tensors.get(f"{table}.gone")
        if rows is None or gone is None or rows.shape != ids.shape:
            raise DamagedWeightsError(
                f"{table} of version {manifest.name} has no rows or no gone beside its {len(ids)} ids: it is no delta"
            )
        laid[table] = _laid(old[table], (rows.long(), ids, vectors, gone), f"{table} of version {manifest.name}")
    return Weights(_bare(delta), _tensors_of(delta, laid), delta.digest)


def _laid(
    base: tuple[torch.Tensor, torch.Tensor],
    delta: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (rows,) and vectors (rows, D) of a table after a delta of rows, ids, vectors and gone ids."""
    (old_ids, old_vectors), (rows, ids, vectors, gone) = base, delta
    before = len(old_ids)
    known, added = rows < before, rows[rows >= before]
    is_ascending = bool((rows[1:] > rows[:-1]).all())
    if not is_ascending or bool((rows < 0).any()) or old_vectors.shape[1] != vectors.shape[1]:
        raise DamagedWeightsError(f"{name}: rows must ascend from 0 up, and vectors be as wide as those of its base")
    if not torch.equal(added, torch.arange(before, before + len(added))):
        raise DamagedWeightsError(f"{name}: the rows that it adds do not follow the {before} of its base without a gap")
    overwritten = old_ids[rows[known]].numpy()
    left = overwritten[overwritten != ids[known].numpy()]
    if not np.isin(left, np.concatenate([ids.numpy(), gone.numpy()])).all():
        raise DamagedWeightsError(f"{name}: a row has another id than in its base, and the old one is not told gone")
    new_ids = torch.cat([old_ids, added])  # room for what is added; every one of those rows is written below
    new_vectors = torch.cat([old_vectors, old_vectors.new_empty(len(added), old_vectors.shape[1])])
    new_ids[rows], new_vectors[rows] = ids, vectors
    return new_ids, new_vectors


def _bare(weights: Weights) -> Manifest:
    """What is true of the version whether it was written as a snapshot or as a delta."""
    return msgspec.structs.replace(
        weights.manifest,
        kind="snapshot",
        base_epoch=None,
        base_version=None,
        base_digest=None,
        columns=(),
        tensors={},
        parts={},
    )


def _tensors_of(weights: Weights, tables: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not is_of_table(name)}
    for table, (ids, vectors) in tables.items():
        tensors |= {f"{table}.ids": ids, f"{table}.vectors": vectors}
    return dict(sorted(tensors.items()))
