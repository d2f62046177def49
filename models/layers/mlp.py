"""A stack of linear layers with ReLU between them, forwards and backwards by hand; must not know what it predicts.

By hand, because autograd gives every intermediate result a fresh array: the same towers took 30 ms a step with it and
21 ms in kept ones (2 cores, 2,048 rows).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.layers.parameters import Parameters
from models.layers.workspace import Workspace


class Mlp:
    """y = W_n relu(... relu(W_1 h + b_1) ...) + b_n, over weights that `Parameters` holds.

    Args:
        name: its weights are `name.0.weight`, `name.0.bias`, and so on.
        widths: of the input, the hidden layers and the output; with one width alone it passes its input through.
    """

    def __init__(self, name: str, widths: Sequence[int]) -> None:
        self.name = name
        self.widths = tuple(widths)
        self._inputs: list[torch.Tensor] = []

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights it needs."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, (width, wider) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            found[f"{self.name}.{layer}.weight"] = (wider, width)
            found[f"{self.name}.{layer}.bias"] = (wider,)
        return found

    def forward(self, hidden: torch.Tensor, parameters: Parameters, workspace: Workspace) -> torch.Tensor:
        """(B, widths[0]) -> (B, widths[-1]); remembers what `backward` needs."""
        self._inputs = [hidden]
        for layer in range(len(self.widths) - 1):
            weight, bias = self._pair(parameters.value, layer)
            out = workspace.take(f"{self.name}.{layer}", len(hidden), len(bias))
            torch.addmm(bias, hidden, weight.t(), out=out)  # (B, widths[layer + 1])
            hidden = out.relu_() if layer < len(self.widths) - 2 else out
            self._inputs.append(hidden)
        return hidden

    def backward(
        self, slope: torch.Tensor, parameters: Parameters, workspace: Workspace, *, into: torch.Tensor
    ) -> None:
        """Sets the gradients of its weights, and in `into` (B, widths[0]) that of its input, from that of its output."""
        if len(self.widths) == 1:
            into.copy_(slope)
        for layer in reversed(range(len(self.widths) - 1)):
            hidden = self._inputs[layer]
            weight, _ = self._pair(parameters.value, layer)
            weight_gradient, bias_gradient = self._pair(parameters.gradient, layer)
            torch.mm(slope.t(), hidden, out=weight_gradient)
            torch.sum(slope, 0, out=bias_gradient)
            before = workspace.take(f"{self.name}.{layer}.slope", len(slope), self.widths[layer]) if layer else into
            torch.mm(slope, weight, out=before)  # (B, widths[layer])
            slope = relu_backward_(before, hidden) if layer else before

    def _pair(self, named: dict[str, torch.Tensor], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return named[f"{self.name}.{layer}.weight"], named[f"{self.name}.{layer}.bias"]


def relu_backward_(slope: torch.Tensor, activated: torch.Tensor) -> torch.Tensor:
    """Clears, in place, the gradient of every unit that ReLU had set to 0."""
    # The operator behind autograd's ReLU: .1 ms for (2048, 512), where a comparison and a product take .75 ms.
    torch.ops.aten.threshold_backward.grad_input(slope, activated, 0, grad_input=slope)
    return slope
