"""How the vectors of a table are written: as they are, in half the bits, or in a quarter; must not know what a version is.

fp32   vectors F32                                4 D bytes a row, every bit kept
fp16   vectors F16                                2 D bytes a row, off by 1/2,048 of a value at most
int8   vectors I8, scales F32 (rows,)             D + 4 bytes a row, off by 1/254 of the row's largest value at most
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

RowFormat = Literal["fp32", "fp16", "int8"]
_HALF_MOST = 65_504.0  # the largest number that 16 bits hold; beyond it they would say infinity
_BYTE_MOST = 127.0


def packed(vectors: torch.Tensor, row_format: RowFormat) -> dict[str, torch.Tensor]:
    """Vectors (rows, D) F32 in a format: `vectors`, and `scales` (rows,) where a row needs one. The same row gives the same bits.

    Example:
        >>> packed(torch.tensor([[1.27, -0.01]]), "int8")["vectors"]
        tensor([[127,  -1]], dtype=torch.int8)
    """
    if row_format == "fp32":
        return {"vectors": vectors}
    if row_format == "fp16":
        return {"vectors": vectors.clamp(-_HALF_MOST, _HALF_MOST).half()}
    # (rows,); a row of zeros has scale 0
    scales = vectors.abs().amax(dim=1) / _BYTE_MOST if vectors.numel() else vectors.new_zeros(len(vectors))
    steps = vectors / torch.where(scales > 0, scales, 1.0)[:, None]  # (rows, D)
    return {"vectors": steps.round().clamp(-_BYTE_MOST, _BYTE_MOST).to(torch.int8), "scales": scales}


def unpacked(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The vectors (rows, D) F32 that `packed` wrote.

    Raises:
        ValueError: there are bytes without scales, or not a scale a row.
    """
    vectors, scales = tensors["vectors"], tensors.get("scales")
    if vectors.dtype != torch.int8:
        return vectors.float()
    if scales is None or scales.shape != vectors.shape[:1]:
        found = None if scales is None else tuple(scales.shape)
        raise ValueError(f"scales must be ({len(vectors)},), one for each row of bytes (got {found})")
    return vectors.float() * scales[:, None]
