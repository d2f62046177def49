"""A published version as tensors, to bytes and back, and what changed between two; must not know where bytes are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from models.manifest import (
    DENSE,
    ROWS,
    DamagedWeightsError,
    Manifest,
    Published,
    TensorEntry,
    columns_of,
    entry_of,
    verify,
)
from models.row_format import unpacked

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """A version of the model: all that scoring needs.

    Args:
        manifest: what it is.
        tensors: CPU tensors. What starts with `table` goes to the rows: `table_D.ids` (rows,), `table_D.vectors` (rows, D) and, for
            vectors of bytes, `table_D.scales` (rows,); in a delta `table_D.rows` (rows,), their numbers, and `table_D.gone`, the ids
            that left. All else is dense, and whole in a delta too.
        digest: of the manifest that it was published with; None where it has not been.

    Example:
        >>> from models.schema import Network
        >>> manifest = Manifest(epoch=1, version=1, settings_hash="0", method="mature", torch_version="2", features=(), network=Network())
        >>> published = encode(Weights(manifest, {"dense.bias": torch.zeros(2)}))
        >>> list(published.parts), decode(published).tensors
        (['dense.safetensors', 'rows.safetensors'], {'dense.bias': tensor([0., 0.])})
    """

    manifest: Manifest
    tensors: Mapping[str, torch.Tensor]
    digest: str | None = field(default=None, compare=False)


def encode(weights: Weights) -> Published:
    """The version as bytes; the same weights give the same bytes.

    Raises:
        ValueError: a tensor has a dtype that is not published, or a table's ids and vectors do not pair up.
    """
    for name, tensor in weights.tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"tensors[{name!r}] must be one of {sorted(_DTYPES.values())} (got {tensor.dtype})")
    tables_of(weights.tensors)
    parts = {
        part: save({name: _own(tensor) for name, tensor in sorted(weights.tensors.items()) if _part_of(name) == part})
        for part in (DENSE, ROWS)
    }
    manifest = msgspec.structs.replace(
        weights.manifest,
        columns=columns_of(weights.manifest.features, weights.manifest.network),
        tensors={name: _entry_of(_part_of(name), tensor) for name, tensor in sorted(weights.tensors.items())},
        parts={part: entry_of(data) for part, data in parts.items()},
    )
    return Published(manifest, parts)


def decode(published: Published) -> Weights:
    """The version that some bytes hold, once size, digest and shapes are seen to be what its manifest says.

    Raises:
        DamagedWeightsError: they are not; the message names the part.
    """
    verify(published)
    manifest = published.manifest
    if manifest.columns != columns_of(manifest.features, manifest.network):
        raise DamagedWeightsError(
            f"manifest.json of version {manifest.name} tells other columns than its features make here: read it with the version that wrote it"
        )
    tensors: dict[str, torch.Tensor] = {}
    for part, data in sorted(published.parts.items()):
        try:
            loaded = load(data)
        except SafetensorError as error:
            raise DamagedWeightsError(f"{part} of version {manifest.name} is no safetensors file ({error})") from error
        expected = {name: entry for name, entry in manifest.tensors.items() if entry.part == part}
        held = {name: _entry_of(part, tensor) for name, tensor in loaded.items()}
        for name in sorted({*expected, *held}):
            if expected.get(name) != held.get(name):
                raise DamagedWeightsError(
                    f"{part} of version {manifest.name} holds {name!r} as {held.get(name)}, "
                    f"its manifest says {expected.get(name)}"
                )
        tensors |= loaded
    return Weights(manifest, dict(sorted(tensors.items())), manifest.digest)


def is_of_table(name: str) -> bool:
    """Whether a tensor is part of a table; all others are dense."""
    return name.startswith("table")


def _part_of(name: str) -> str:
    return ROWS if is_of_table(name) else DENSE


def _entry_of(part: str, tensor: torch.Tensor) -> TensorEntry:
    return TensorEntry(part=part, dtype=_DTYPES.get(tensor.dtype, str(tensor.dtype)), shape=tuple(tensor.shape))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with storage of its own: safetensors refuses views into shared storage."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def tables_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Table -> its ids (rows,) and vectors (rows, D) as F32, whatever format they were written in.

    Raises:
        ValueError: one is missing, or they are not as many.
    """
    tables = {}
    for table in sorted({name.rpartition(".")[0] for name in tensors if is_of_table(name)}):
        ids, vectors = tensors.get(f"{table}.ids"), tensors.get(f"{table}.vectors")
        if ids is None or vectors is None or ids.dim() != 1 or vectors.dim() != 2 or len(ids) != len(vectors):
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (ids, vectors)]
            raise ValueError(
                f"{table}.ids and {table}.vectors must be (rows,) and (rows, D) of the same rows (got {shapes})"
            )
        scales = {"scales": tensors[f"{table}.scales"]} if f"{table}.scales" in tensors else {}
        tables[table] = ids, unpacked({"vectors": vectors} | scales)
    return tables


class Move(msgspec.Struct, frozen=True):
    """How far the vector of an id has moved, as the length of the difference (L2)."""

    id: int
    distance: float


class TableDifference(msgspec.Struct, frozen=True):
    """What changed in one table, by id.

    Args:
        added, removed, kept: rows. moved: those of the kept whose bits changed.
        farthest: the rows that moved most, farthest first; ties by id.
    """

    added: int
    removed: int
    kept: int
    moved: int
    farthest: list[Move]


class DenseDifference(msgspec.Struct, frozen=True):
    """Lengths (L2) of a dense weight before and after, None where it was not there, and of what was added to it."""

    before: float | None
    after: float | None
    change: float | None


class Difference(msgspec.Struct, frozen=True):
    """What changed from one version to another, by name of table and of dense weight."""

    tables: dict[str, TableDifference]
    dense: dict[str, DenseDifference]


def difference(before: Weights, after: Weights, *, farthest: int = 10) -> Difference:
    """What changed from `before` to `after`, both of them whole.

    Args:
        before: the version that is taken as the start.
        after: the other one.
        farthest: how many of the rows that moved most are named, in each table.
    """
    old, new = tables_of(before.tensors), tables_of(after.tensors)
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0)
    tables = {
        table: _table_difference(old.get(table, none), new.get(table, none), farthest) for table in sorted({*old, *new})
    }
    dense = {}
    for name in sorted(name for name in {*before.tensors, *after.tensors} if not is_of_table(name)):
        one, other = before.tensors.get(name), after.tensors.get(name)
        change = None if one is None or other is None or one.shape != other.shape else other.double() - one.double()
        dense[name] = DenseDifference(_length(one), _length(other), _length(change))
    return Difference(tables, dense)


def _length(tensor: torch.Tensor | None) -> float | None:
    return None if tensor is None else float(torch.linalg.vector_norm(tensor.double()))


def _table_difference(
    before: tuple[torch.Tensor, torch.Tensor], after: tuple[torch.Tensor, torch.Tensor], farthest: int
) -> TableDifference:
    old, new = before[0].numpy(), after[0].numpy()
    comparable = old if before[1].shape[1] == after[1].shape[1] else old[:0]  # vectors of two widths have no distance
    kept, old_rows, new_rows = np.intersect1d(comparable, new, assume_unique=True, return_indices=True)  # ascending ids
    one, other = before[1][torch.from_numpy(old_rows)].double(), after[1][torch.from_numpy(new_rows)].double()
    distance = torch.linalg.vector_norm(other - one, dim=1).numpy() if len(kept) else np.zeros(0)
    order = np.argsort(-distance, kind="stable")[:farthest]
    return TableDifference(
        added=len(new) - len(kept),
        removed=len(old) - len(kept),
        kept=len(kept),
        moved=int((distance > 0).sum()),
        farthest=[Move(int(kept[row]), float(distance[row])) for row in order if distance[row] > 0],
    )
