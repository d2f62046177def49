"""ESMM: two towers, one for clicks and one for conversions, over shared embeddings; must not know losses or labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from models.layers.parameters import Parameters
from models.layers.towers import Towers, relu_backward_
from models.layers.workspace import Workspace
from models.schema import Network, Task

_TOWERS: tuple[Task, Task] = ("ctr", "cvr")


class Esmm:
    """Logits of pCTR and pCVR; the two share embeddings and nothing else.

    The first layers of both towers read the same columns, so they are one product; what only one tower may see is
    added to its half.

        shared (B, S) --> entrance (B, 2H) --+-- [:, :H] --> ctr.0 ... --> ctr_logit (B,)
        ctr    (B, C) --------------^        |
        cvr    (B, V) ----------------^      +-- [:, H:] --> cvr.0 ... --> cvr_logit (B,)

    Hidden layers start from He's uniform law, heads within 1 / sqrt(fan-in), biases at 0 and those of the heads at the
    logit of the prior rates: f near 1 would be hard to leave under the product loss.

    Args:
        inputs: columns of the shared input and of each tower's own.
        network: towers, priors, seed and device.

    Source:
        Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, arXiv:1804.07931.
    """

    def __init__(self, inputs: Mapping[Task, int], *, network: Network) -> None:
        self._has_hidden = bool(network.towers)
        widths = (*network.towers, 1)
        self._half = widths[0]
        self._inputs = dict(inputs)
        self._workspace = Workspace(network.device)
        self._towers = Towers(_TOWERS, widths)
        self.parameters = Parameters(
            {
                "entrance.shared.weight": (2 * self._half, inputs["shared"]),
                "entrance.ctr.weight": (self._half, inputs["ctr"]),
                "entrance.cvr.weight": (self._half, inputs["cvr"]),
                "entrance.bias": (2 * self._half,),
                **self._towers.shapes(),
            },
            device=network.device,
        )
        self._towers.attach(self.parameters, self._workspace)
        self._start(network)
        self._x: Mapping[Task, torch.Tensor] = {}
        self._hidden = torch.zeros(0, 2 * self._half)

    def _start(self, network: Network) -> None:
        generator = torch.Generator().manual_seed(network.seed)
        value = self.parameters.value
        head = len(network.towers) - 1
        for name, weight in value.items():
            if weight.dim() == 2:
                fan_in = weight.shape[1]
                if name.startswith("entrance"):
                    fan_in = self._inputs["shared"] + max(self._inputs["ctr"], self._inputs["cvr"])
                is_head = name.endswith(f".{head}.weight") or not self._has_hidden
                bound = math.sqrt((1.0 if is_head else 6.0) / max(1, fan_in))
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)
        for number, (tower, prior) in enumerate(zip(_TOWERS, (network.prior_ctr, network.prior_cvr), strict=True)):
            bias = value[f"{tower}.{head}.bias"] if self._has_hidden else value["entrance.bias"][number : number + 1]
            bias.fill_(math.log(prior / (1 - prior)))

    def forward(self, x: Mapping[Task, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Each task's input (B, columns) -> ctr_logit, cvr_logit: (B,) each; remembers what `backward` needs."""
        self._x, value = x, self.parameters.value
        self._hidden = self._workspace.take("hidden", x["shared"].shape[0], 2 * self._half)
        torch.addmm(
            value["entrance.bias"], x["shared"], value["entrance.shared.weight"].t(), out=self._hidden
        )  # (B, 2H)
        halves = self._halves(self._hidden)
        for task, half in zip(_TOWERS, halves, strict=True):
            if self._inputs[task]:
                half.addmm_(x[task], value[f"entrance.{task}.weight"].t())  # (B, H)
        if self._has_hidden:
            self._hidden.relu_()
        ctr_logit, cvr_logit = self._towers.forward(halves)[:, :, 0]
        return ctr_logit, cvr_logit

    def backward(self, ctr_slope: torch.Tensor, cvr_slope: torch.Tensor) -> dict[Task, torch.Tensor]:
        """Sets the gradients in `parameters` for the last `forward`, and gives those of each task's input.

        Args:
            ctr_slope: (B,) gradient of ctr_logit.
            cvr_slope: (B,) gradient of cvr_logit.
        """
        value, gradient, rows = self.parameters.value, self.parameters.gradient, ctr_slope.shape[0]
        slope = self._workspace.take("slope", rows, 2 * self._half)
        halves = self._halves(slope)
        self._towers.backward(torch.stack([ctr_slope, cvr_slope])[:, :, None], into=halves)
        if self._has_hidden:
            relu_backward_(slope, self._hidden)
        torch.sum(slope, 0, out=gradient["entrance.bias"])
        parts = dict(zip(("shared", *_TOWERS), (slope, *halves), strict=True))
        slopes: dict[Task, torch.Tensor] = {}
        for task, width in self._inputs.items():
            slopes[task] = self._workspace.take(f"{task}.slope", rows, width)
            torch.mm(parts[task].t(), self._x[task], out=gradient[f"entrance.{task}.weight"])
            torch.mm(parts[task], value[f"entrance.{task}.weight"], out=slopes[task])  # (B, columns)
        return slopes

    def _halves(self, both: torch.Tensor) -> torch.Tensor:
        """(B, 2H) -> (2, B, H), a view: what each tower sees of it."""
        return both.view(len(both), 2, self._half).transpose(0, 1)
