"""The dense weights of a network as two flat vectors and named views of them; must not know what they compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

_ALIGNED = 16  # float32s in 64 bytes: every view starts on a cache line, so that results cannot depend on its place


class Parameters:
    """Named weights and gradients over flat storage: an optimizer, a check or a copy is one operation on all.

    Args:
        shapes: name -> shape; two dimensions make a matrix, one a vector (a bias). All start at 0.
        device: where they live.

    Example:
        >>> parameters = Parameters({"weight": (2, 3), "bias": (2,)}, device="cpu")
        >>> parameters.value["bias"] += 1
        >>> parameters.vectors.sum().item()
        2.0
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, device: str) -> None:
        self.value: dict[str, torch.Tensor] = {}
        self.gradient: dict[str, torch.Tensor] = {}
        self.matrices = self._lay_out({name: shape for name, shape in shapes.items() if len(shape) == 2}, device)
        self.vectors = self._lay_out({name: shape for name, shape in shapes.items() if len(shape) == 1}, device)

    def _lay_out(self, shapes: Mapping[str, tuple[int, ...]], device: str) -> torch.Tensor:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        flat = torch.zeros(sum(-(-size // _ALIGNED) * _ALIGNED for size in sizes.values()), device=device)
        flat.grad = torch.zeros_like(flat)
        at = 0
        for name, shape in shapes.items():
            self.value[name] = flat[at : at + sizes[name]].view(shape)
            self.gradient[name] = flat.grad[at : at + sizes[name]].view(shape)
            at += -(-sizes[name] // _ALIGNED) * _ALIGNED
        return flat

    def stacked(self, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of one shape that were named one after the other, and their gradients, as views of one more dimension.

        Example:
            >>> parameters = Parameters({"a": (3,), "b": (3,)}, device="cpu")
            >>> parameters.value["b"] += 1
            >>> parameters.stacked(["a", "b"])[0].tolist()
            [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
        """
        first, *others = (self.value[name] for name in names)
        apart = -(-first.numel() // _ALIGNED) * _ALIGNED
        for number, other in enumerate(others, 1):
            if other.shape != first.shape or other.storage_offset() != first.storage_offset() + number * apart:
                raise ValueError(
                    f"names must be of one shape and neighbours in `shapes` (got {list(names)}): they share no stride"
                )
        shape, strides = (len(names), *first.shape), (apart, *first.stride())
        value, gradient = (
            one.as_strided(shape, strides, first.storage_offset()) for one in (first, self.gradient[names[0]])
        )
        return value, gradient

    @property
    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All gradients, flat: those of the matrices and those of the vectors."""
        assert self.matrices.grad is not None
        assert self.vectors.grad is not None
        return self.matrices.grad, self.vectors.grad

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The weights by name, as CPU copies."""
        return {name: value.to("cpu", copy=True) for name, value in self.value.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        for name, value in self.value.items():
            value.copy_(tensors[name])
