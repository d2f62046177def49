"""The dense part of a version that scores, and its first layer taken apart; must not know a table, an id or a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from models.batch import Bool
from models.layers.input_layout import InputLayout, Part
from models.manifest import DamagedWeightsError
from models.schema import Task
from models.weights import Weights


@dataclass(frozen=True, slots=True)
class Split:
    """The shared input taken apart into what all rows have in common and what each has of its own.

    Args:
        common, own: parts, placed anew; those of other tasks are all among `own`.
        common_width, own_width: columns of either in the shared input.
        common_weight, own_weight: (columns, heads * H) of the first layer.
    """

    common: list[Part]
    own: list[Part]
    common_width: int
    own_width: int
    common_weight: torch.Tensor
    own_weight: torch.Tensor

    @classmethod
    def of(cls, layout: InputLayout, is_common: Bool, weight: torch.Tensor) -> Split:
        """Taken apart by which single features, (F,), all rows have in common; `weight` (columns, heads * H) is the first layer's."""
        common: list[Part] = []
        own: list[Part] = []
        widths = {True: 0, False: 0}
        columns: dict[bool, list[int]] = {True: [], False: []}
        for part in layout.parts:
            if part.task != "shared":
                own.append(part)
                continue
            for is_shared, into in ((True, common), (False, own)):
                chosen = [number for number, place in enumerate(part.singles) if bool(is_common[place]) == is_shared]
                bags = () if is_shared else part.bags
                width = part.width * (len(chosen) + len(bags))
                if width:
                    at = widths[is_shared]
                    singles = tuple(part.singles[number] for number in chosen)
                    into.append(Part("shared", part.width, singles, bags, slice(at, at + width)))
                    widths[is_shared] += width
                    starts = [part.columns.start + part.width * number for number in chosen or range(len(bags))]
                    columns[is_shared] += [start + column for start in starts for column in range(part.width)]
        columns[False] += range(len(columns[True]) + len(columns[False]), len(weight))  # the plain numbers
        chosen_weight = {is_shared: weight[torch.tensor(own, dtype=torch.int64)] for is_shared, own in columns.items()}
        return cls(common, own, widths[True], len(columns[False]), chosen_weight[True], chosen_weight[False])


class FrozenTowers:
    """The dense part: what `esmm.py` computes, without a place to keep what a step back would need."""

    def __init__(self, weights: Weights, heads: tuple[str, ...], inputs: Mapping[Task, int]) -> None:
        self._heads, widths = len(heads), (*weights.manifest.network.towers, 1)
        self._part, self._inputs = widths[0], inputs

        def dense(name: str, *shape: int) -> torch.Tensor:
            tensor = weights.tensors.get(f"dense.{name}")
            if tensor is None or tuple(tensor.shape) != shape:
                found = None if tensor is None else tuple(tensor.shape)
                raise DamagedWeightsError(
                    f"version {weights.manifest.name} holds dense.{name} as {found}, its features and network need {shape}: publish it again"
                )
            return tensor.to(torch.float32)

        size = len(heads) * self._part
        self.bias = dense("entrance.bias", size)[None]  # (1, heads * H)
        self.shared = dense("entrance.shared.weight", size, inputs["shared"]).t().contiguous()  # (columns, heads * H)
        self._ctr = dense("entrance.ctr.weight", self._part, inputs["ctr"]).t()
        self._cvr = dense("entrance.cvr.weight", size - self._part, inputs["cvr"]).t()
        self._layers = []
        for number, (before, after) in enumerate(pairwise(widths)):
            weight = torch.stack([dense(f"{head}.{number}.weight", after, before) for head in heads])
            bias = torch.stack([dense(f"{head}.{number}.bias", after) for head in heads])
            self._layers.append((weight.transpose(1, 2).contiguous(), bias[:, None]))
        self._is_deep = bool(weights.manifest.network.towers)

    def forward(self, bias: torch.Tensor, x: Mapping[Task, torch.Tensor], shared: torch.Tensor) -> torch.Tensor:
        """Each task's input (B, columns) -> the logits (heads, B), by these weights of the shared one."""
        hidden = torch.addmm(bias, x["shared"], shared)  # (B, heads * H)
        if self._inputs["ctr"]:
            hidden[:, : self._part].addmm_(x["ctr"], self._ctr)
        if self._inputs["cvr"]:
            hidden[:, self._part :].addmm_(x["cvr"], self._cvr)
        if self._is_deep:
            hidden.relu_()
        stacked = hidden.view(len(hidden), self._heads, self._part).transpose(0, 1)  # (heads, B, H)
        for number, (weight, bias) in enumerate(self._layers, 1):
            stacked = torch.baddbmm(bias, stacked, weight)  # (heads, B, width)
            if number < len(self._layers):
                stacked.relu_()
        return stacked[:, :, 0]
