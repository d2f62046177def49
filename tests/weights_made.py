"""Small versions of weights, and what every target must do, for the tests of several targets."""

from __future__ import annotations

import torch

from models.manifest import Manifest, Published
from models.schema import Network
from models.weights import Weights, encode


def version(
    epoch: int,
    number: int,
    value: float = 1.0,
    *,
    base: int | None = None,
    size: int = 4,
    republishes: str | None = None,
) -> Published:
    """A snapshot, or with `base` a delta to that version of the epoch; `value` is in every tensor, `size` how long the dense one is."""
    of_base = {} if base is None else {"kind": "delta", "base_epoch": epoch, "base_version": base}
    manifest = Manifest(
        epoch=epoch,
        version=number,
        settings_hash="a",
        method="mature",
        torch_version="2",
        features=(),
        network=Network(),
        republishes=republishes,
        **of_base,
    )
    tensors = {
        "dense.bias": torch.full((size,), value),
        "table_2.ids": torch.tensor([5]),
        "table_2.vectors": torch.full((1, 2), value),
    }
    if base is not None:
        tensors |= {
            "table_2.rows": torch.zeros(1, dtype=torch.int32),
            "table_2.gone": torch.zeros(0, dtype=torch.int64),
        }
    return encode(Weights(manifest, tensors))
