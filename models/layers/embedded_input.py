"""The input of the towers: vectors of ids, means of bags and numbers side by side; must not know what a tower does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from models.batch import Inputs, Int64
from models.embedding import Places, Table
from models.layers.input_layout import TASKS, InputLayout, bags_of
from models.layers.workspace import Workspace
from models.schema import Feature, Network, Task


@dataclass(frozen=True, slots=True)
class Located:
    """Where a batch stands in the tables.

    Args:
        places: width -> places in its table.
        spans: part -> which of the table's positions it has.
        offsets: part of bags -> (bags + 1,) where each bag starts within its span.
    """

    places: dict[int, Places]
    spans: list[slice]
    offsets: dict[int, Int64]


class EmbeddedInput:
    """Turns `Inputs` into one array a task, and gradients of it into gradients of table rows.

    One table a width: features that share a width share a table, without meeting in a row (ids are salted by feature).
    A task's columns are: for every width, ascending, its single-valued features and then its bags, both in schema order;
    last the values of its numbers and one column each that says 1.0 where the number is missing (its value is then 0).

    Args:
        features: of the model, in settings order.
        network: widths, seed, row limit and device.
        initial_sum: where the sums of Adagrad start.
    """

    def __init__(self, features: Sequence[Feature], *, network: Network, initial_sum: float) -> None:
        layout = InputLayout.of(features, embedding_width=network.embedding_width)
        self._device = network.device
        self._workspace = Workspace(network.device)
        self.widths = layout.widths  # columns of each task's input
        self._parts, self._numbers = layout.parts, layout.numbers
        self.tables = {
            width: Table(
                width=width,
                seed=network.seed,
                initial_sum=initial_sum,
                max_rows=network.max_rows,
                device=network.device,
            )
            for width in layout.tables
        }

    def locate(self, inputs: Inputs) -> Located:
        """Looks up the ids of a batch; changes nothing."""
        found: dict[int, list[Int64]] = {width: [] for width in self.tables}
        taken = dict.fromkeys(self.tables, 0)
        spans: list[slice] = []
        offsets: dict[int, Int64] = {}
        for number, part in enumerate(self._parts):
            if part.singles:
                holds_all = len(part.singles) == inputs.ids.shape[1]  # then in order, and without a copy
                ids = (inputs.ids if holds_all else inputs.ids[:, part.singles]).reshape(-1)  # (B * features,)
            else:
                ids, offsets[number] = bags_of(inputs, part.bags)
            found[part.width].append(ids)
            spans.append(slice(taken[part.width], taken[part.width] + len(ids)))
            taken[part.width] += len(ids)
        places = {
            width: table.look_up(found[width][0] if len(found[width]) == 1 else np.concatenate(found[width]))
            for width, table in self.tables.items()
        }
        return Located(places, spans, offsets)

    def read(self, located: Located) -> dict[int, torch.Tensor]:
        """The vectors of the different ids of a batch, by width: (U, D) each."""
        return {width: table.read(located.places[width]) for width, table in self.tables.items()}

    def forward(
        self, inputs: Inputs, located: Located, vectors: Mapping[int, torch.Tensor]
    ) -> dict[Task, torch.Tensor]:
        """Each task's input, (B, widths[task])."""
        rows = len(inputs)
        x = {task: self._workspace.take(task, rows, self.widths[task]) for task in TASKS}
        for number, part in enumerate(self._parts):
            inverse = located.places[part.width].inverse[located.spans[number]]
            into = x[part.task][:, part.columns]  # (B, features * D)
            if part.singles and into.is_contiguous():
                torch.index_select(vectors[part.width], 0, inverse, out=into.view(-1, part.width))
            elif part.singles:
                into.copy_(vectors[part.width].index_select(0, inverse).view_as(into))
            else:
                offsets = torch.from_numpy(located.offsets[number]).to(self._device)
                means = embedding_bag(inverse, vectors[part.width], offsets, mode="mean", include_last_offset=True)
                means = means.view(len(part.bags), rows, part.width)  # (bags, B, D)
                into.view(rows, len(part.bags), part.width).copy_(means.transpose(0, 1))
        for plain in self._numbers:
            values = torch.from_numpy(inputs.numbers[:, plain.numbers]).to(self._device)  # (B, numbers)
            missing = values.isnan()
            into = x[plain.task][:, plain.columns]
            into.copy_(torch.cat([values.masked_fill(missing, 0.0), missing.to(values.dtype)], 1))  # (B, 2 * numbers)
        return x

    def backward(
        self, slopes: Mapping[Task, torch.Tensor], located: Located, vectors: Mapping[int, torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """The gradients of the different ids, by width (U, D), from those of each task's input."""
        terms: dict[int, list[torch.Tensor]] = {width: [] for width in vectors}  # in the order of the table's positions
        for number, part in enumerate(self._parts):
            slope = slopes[part.task][:, part.columns]  # (B, features * D)
            if part.bags:
                slope = slope.reshape(len(slope), len(part.bags), part.width).transpose(0, 1)  # (bags, B, D)
                sizes = np.diff(located.offsets[number])  # (bags * B,)
                owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(self._device)
                share = torch.from_numpy(1.0 / np.maximum(sizes, 1)).to(slope)  # (bags * B,)
                slope = (slope.reshape(-1, part.width) * share[:, None]).index_select(0, owner)  # (ids in bags, D)
            terms[part.width].append(slope.reshape(-1, part.width))
        return {
            width: _sums(torch.cat(own) if len(own) > 1 else own[0], located.places[width])
            for width, own in terms.items()
        }


def _sums(terms: torch.Tensor, places: Places) -> torch.Tensor:
    """The terms of each row added up, always in the same order: (n, D) -> (U, D)."""
    rows = len(places.rows)
    if terms.device.type != "cpu":
        # There scatter_add_ adds atomically, in any order; the backward of an embedding sorts.
        summed: torch.Tensor = torch.ops.aten.embedding_dense_backward(terms, places.inverse, rows, -1, False)
        return summed
    # The terms of a row are a bag: .5 ms for 41k terms of width 16, where scatter_add_ and index_add_ take 1.6 ms (one core).
    row = places.inverse.numpy()
    starts = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=rows), out=starts[1:])
    order = torch.from_numpy(_order(row, rows))
    return embedding_bag(order, terms, torch.from_numpy(starts), mode="sum", include_last_offset=True)


def _order(keys: Int64, below: int) -> Int64:
    """The stable order of keys from 0 up to below `below`: (n,) -> (n,)."""
    # By 16 bits at a time, as numpy sorts those by counting: .26 ms for 41k, where 64 bits take 2 ms.
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    if below > 1 << 16:
        order = order[_order((keys >> 16)[order], (below >> 16) + 1)]
    return order
