"""A stack of linear layers with ReLU between them, forwards and backwards by hand; must not know what it predicts.

By hand, because autograd gives every intermediate result a fresh array: the same towers took 30 ms a step with it and
21 ms in kept ones (2 cores, 2,048 rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from models.layers.parameters import Parameters
from models.layers.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's weights and gradients, with the names of its arrays made once: a step asks for them some hundred times."""

    weight: torch.Tensor  # (out, in)
    bias: torch.Tensor  # (out,)
    weight_gradient: torch.Tensor
    bias_gradient: torch.Tensor
    transposed: torch.Tensor  # (in, out), a view
    out: str
    slope: str


class Mlp:
    """y = W_n relu(... relu(W_1 h + b_1) ...) + b_n, over weights that `Parameters` holds.

    Args:
        name: its weights are `name.0.weight`, `name.0.bias`, and so on.
        widths: of the input, the hidden layers and the output; with one width alone it passes its input through.
    """

    def __init__(self, name: str, widths: Sequence[int]) -> None:
        self.name = name
        self.widths = tuple(widths)
        self._layers: list[_Layer] = []
        self._inputs: list[torch.Tensor] = []

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights it needs."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, (width, wider) in enumerate(pairwise(self.widths)):
            found[f"{self.name}.{layer}.weight"] = (wider, width)
            found[f"{self.name}.{layer}.bias"] = (wider,)
        return found

    def attach(self, parameters: Parameters, workspace: Workspace) -> None:
        """Tells it where its weights and its arrays are."""
        self._workspace = workspace
        for layer in range(len(self.widths) - 1):
            name, weight, bias = (f"{self.name}.{layer}{part}" for part in ("", ".weight", ".bias"))
            value, gradient = parameters.value, parameters.gradient
            own = value[weight], value[bias], gradient[weight], gradient[bias]
            self._layers.append(_Layer(*own, transposed=value[weight].t(), out=name, slope=f"{name}.slope"))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, widths[0]) -> (B, widths[-1]); remembers what `backward` needs."""
        self._inputs = [hidden]
        for layer, width in zip(self._layers, self.widths[1:], strict=True):
            out = self._workspace.take(layer.out, hidden.shape[0], width)
            torch.addmm(layer.bias, hidden, layer.transposed, out=out)  # (B, width)
            hidden = out.relu_() if layer is not self._layers[-1] else out
            self._inputs.append(hidden)
        return hidden

    def backward(self, slope: torch.Tensor, *, into: torch.Tensor) -> None:
        """Sets the gradients of its weights, and in `into` (B, widths[0]) that of its input, from that of its output."""
        if not self._layers:
            into.copy_(slope)
        for number in reversed(range(len(self._layers))):
            layer, hidden = self._layers[number], self._inputs[number]
            torch.mm(slope.t(), hidden, out=layer.weight_gradient)
            torch.sum(slope, 0, out=layer.bias_gradient)
            before = self._workspace.take(layer.slope, slope.shape[0], self.widths[number]) if number else into
            torch.mm(slope, layer.weight, out=before)  # (B, widths[number])
            slope = relu_backward_(before, hidden) if number else before


def relu_backward_(slope: torch.Tensor, activated: torch.Tensor) -> torch.Tensor:
    """Clears, in place, the gradient of every unit that ReLU had set to 0."""
    # The operator behind autograd's ReLU: .1 ms for (2048, 512), where a comparison and a product take .75 ms.
    torch.ops.aten.threshold_backward.grad_input(slope, activated, 0, grad_input=slope)
    return slope
