"""ESMM: two towers, one for clicks and one for conversions, over shared embeddings; must not know losses or labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from models.layers.parameters import Parameters
from models.layers.towers import Towers, relu_backward_
from models.layers.workspace import Workspace
from models.schema import Network, Task


class Esmm:
    """Logits of pCTR and of what pCVR is made of; the towers share embeddings and nothing else.

    The first layers of all towers read the same columns, so they are one product; what only one task may see is
    added to its part.

        shared (B, S) --> entrance (B, 2H) --+-- [:, :H] --> ctr.0 ... --> ctr_logit (B,)
        ctr    (B, C) --------------^        |
        cvr    (B, V) ----------------^      +-- [:, H:] --> cvr.0 ... --> cvr_logit (B,)

    Some methods have two heads for conversions (within and after a window, or whether and when): then there are three towers,
    and the last two see what `cvr` may see.

    Hidden layers start from He's uniform law, heads within 1 / sqrt(fan-in), biases at 0 and those of the heads at the
    logit of the prior rates: f near 1 would be hard to leave under the product loss.

    Args:
        inputs: columns of the shared input and of each tower's own.
        network: towers, seed and device.
        heads: tower -> the logit it starts from; `ctr` first.

    Source:
        Ma et al., "Entire Space Multi-Task Model", SIGIR 2018, arXiv:1804.07931.
    """

    def __init__(self, inputs: Mapping[Task, int], *, network: Network, heads: Mapping[str, float]) -> None:
        self._has_hidden = bool(network.towers)
        self._heads = tuple(heads)
        widths = (*network.towers, 1)
        self._part = widths[0]
        self._inputs = dict(inputs)
        self._workspace = Workspace(network.device)
        self._towers = Towers(self._heads, widths)
        self.parameters = Parameters(
            {
                "entrance.shared.weight": (len(heads) * self._part, inputs["shared"]),
                "entrance.ctr.weight": (self._part, inputs["ctr"]),
                "entrance.cvr.weight": ((len(heads) - 1) * self._part, inputs["cvr"]),
                "entrance.bias": (len(heads) * self._part,),
                **self._towers.shapes(),
            },
            device=network.device,
        )
        self._towers.attach(self.parameters, self._workspace)
        self._start(network, heads)
        self._x: Mapping[Task, torch.Tensor] = {}
        self._hidden = torch.zeros(0, len(heads) * self._part)

    def _start(self, network: Network, heads: Mapping[str, float]) -> None:
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
        for number, (tower, logit) in enumerate(heads.items()):
            bias = value[f"{tower}.{head}.bias"] if self._has_hidden else value["entrance.bias"][number : number + 1]
            bias.fill_(logit)

    def forward(self, x: Mapping[Task, torch.Tensor]) -> torch.Tensor:
        """Each task's input (B, columns) -> the logits (heads, B); remembers what `backward` needs."""
        self._x, value = x, self.parameters.value
        self._hidden = self._workspace.take("hidden", x["shared"].shape[0], len(self._heads) * self._part)
        torch.addmm(
            value["entrance.bias"], x["shared"], value["entrance.shared.weight"].t(), out=self._hidden
        )  # (B, heads * H)
        for task, part in self._parts(self._hidden).items():
            if task != "shared" and self._inputs[task]:
                part.addmm_(x[task], value[f"entrance.{task}.weight"].t())
        if self._has_hidden:
            self._hidden.relu_()
        return self._towers.forward(self._stacked(self._hidden))[:, :, 0]

    def backward(self, slopes: torch.Tensor) -> dict[Task, torch.Tensor]:
        """Sets the gradients in `parameters` for the last `forward`, and gives those of each task's input that has columns.

        Args:
            slopes: (heads, B) gradients of the logits.
        """
        value, gradient, rows = self.parameters.value, self.parameters.gradient, slopes.shape[1]
        slope = self._workspace.take("slope", rows, len(self._heads) * self._part)
        self._towers.backward(slopes[:, :, None], into=self._stacked(slope))
        if self._has_hidden:
            relu_backward_(slope, self._hidden)
        torch.sum(slope, 0, out=gradient["entrance.bias"])
        of_inputs: dict[Task, torch.Tensor] = {}
        for task, part in self._parts(slope).items():
            if not self._inputs[task]:
                continue
            of_inputs[task] = self._workspace.take(f"{task}.slope", rows, self._inputs[task])
            torch.mm(part.t(), self._x[task], out=gradient[f"entrance.{task}.weight"])
            torch.mm(part, value[f"entrance.{task}.weight"], out=of_inputs[task])  # (B, columns)
        return of_inputs

    def _stacked(self, all_of: torch.Tensor) -> torch.Tensor:
        """(B, heads * H) -> (heads, B, H), a view: what each tower sees of it."""
        return all_of.view(len(all_of), len(self._heads), self._part).transpose(0, 1)

    def _parts(self, all_of: torch.Tensor) -> dict[Task, torch.Tensor]:
        """(B, heads * H) -> the columns that each task's input goes to, views."""
        return {"shared": all_of, "ctr": all_of[:, : self._part], "cvr": all_of[:, self._part :]}
