"""A published version that scores: tables, towers, maps, and nothing that could learn; must not know a trainer, a label or a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from models.batch import Float64, Inputs
from models.features import Columns
from models.field_maps import FieldMaps
from models.frozen_table import FrozenTable
from models.frozen_towers import FrozenTowers, Split
from models.layers.input_layout import InputLayout, Part, bags_of
from models.likelihoods import likelihood_of, sigmoid
from models.manifest import DamagedWeightsError, Manifest
from models.schema import Task
from models.weights import Weights, tables_of

_MAPS = "recalibration."
_FEW = 8  # rows: with fewer, to look what they have in common costs more than it spares
_MOST_SPLITS = 64  # of a version; each holds the first layer once more


@dataclass(frozen=True, slots=True)
class Scored:
    """What a version says of B impressions.

    Args:
        pctr: (B,) P(click). pcvr: (B,) P(conversion | click), recalibrated where the version has maps.
        seen, unseen: feature -> ids that were looked up, and those of them that the version has no row for. Of a bag all its ids count.
    """

    pctr: Float64
    pcvr: Float64
    seen: dict[str, int]
    unseen: dict[str, int]


class FrozenModel:
    """Scores with one version; never changes, so that any number of threads may ask it at once.

    Gives what the trainer would have predicted with these weights: to 1e-6, as sums of float32 in another order differ in their last bits.

    Args:
        weights: of a whole version. Its tensors are kept, not copied: leave them as they are.
        before: the version before it, if there is one: where most ids are the same, its index of them is taken on.

    Raises:
        DamagedWeightsError: a tensor that scoring needs is missing, or of another shape than features and network say.

    Example:
        >>> from models.schema import Feature, Network
        >>> manifest = Manifest(epoch=1, version=1, settings_hash="0", method="mature", torch_version="2",
        ...                     features=(Feature(name="user", kind="categorical"),), network=Network(towers=(), embedding_width=1))
        >>> model = FrozenModel(Weights(manifest, {
        ...     "table_1.ids": torch.tensor([5]), "table_1.vectors": torch.ones(1, 1), "dense.entrance.bias": torch.zeros(2),
        ...     "dense.entrance.shared.weight": torch.tensor([[1.0], [-1.0]]), "dense.entrance.ctr.weight": torch.zeros(1, 0),
        ...     "dense.entrance.cvr.weight": torch.zeros(1, 0)}))
        >>> users = Inputs(np.array([[5], [6]]), np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((2, 0), np.float32))
        >>> scored = model.predict_many(users)
        >>> scored.pctr.round(1), scored.unseen
        (array([0.7, 0.5]), {'user': 1})
    """

    def __init__(self, weights: Weights, before: FrozenModel | None = None) -> None:
        manifest = weights.manifest
        self.manifest = manifest
        self._layout = InputLayout.of(manifest.features, embedding_width=manifest.network.embedding_width)
        columns = Columns.of(manifest.features)
        self._singles = [feature.name for feature in columns.single]
        self._bags = [feature.name for feature in columns.bags]
        self._likelihood = None
        if manifest.form != "pairs":
            window_ms = manifest.attribution_window_ms
            if window_ms is None:
                raise DamagedWeightsError(
                    f"manifest.json of version {manifest.name} lacks attribution_window_ms, which {manifest.form!r} is scored with: "
                    "publish it again"
                )
            self._likelihood = likelihood_of(manifest.form, attribution_window_ms=window_ms)
        heads = ("cvr",) if self._likelihood is None else self._likelihood.heads
        self._towers = FrozenTowers(weights, ("ctr", *heads), self._layout.widths)
        self._whole = Split.of(self._layout, np.zeros(len(self._singles), np.bool_), self._towers.shared)
        self._splits: dict[bytes, Split] = {}
        tables = tables_of(weights.tensors)
        self._tables: dict[int, FrozenTable] = {
            width: FrozenTable(
                *_table(manifest, tables, width),
                seed=manifest.network.seed,
                before=None if before is None else before._tables.get(width),
            )
            for width in self._layout.tables
        }
        self._maps = None
        if f"{_MAPS}at" in weights.tensors:
            named = {name.removeprefix(_MAPS): tensor for name, tensor in weights.tensors.items()}
            self._maps = FieldMaps.of_tensors(named)
        self._field = None
        if self._maps is not None and manifest.recalibrated_by is not None:
            if manifest.recalibrated_by not in self._singles:
                raise DamagedWeightsError(
                    f"version {manifest.name} is recalibrated by {manifest.recalibrated_by!r}, which is no single feature of it: publish it again"
                )
            self._field = self._singles.index(manifest.recalibrated_by)

    @property
    def embedding_rows(self) -> int:
        """Rows in all tables."""
        return sum(len(table.vectors) for table in self._tables.values())

    def predict_many(self, inputs: Inputs) -> Scored:
        """The scores of B impressions; B = 0 is fine.

        Features that all rows have in common (the user's, of a user's request) are looked up and multiplied once: of 100 rows with
        half of 20 fields in common it takes 0.9 ms where it took 1.4 (one core).
        """
        rows = len(inputs)
        unseen = dict.fromkeys((*self._singles, *self._bags), 0)
        split = self._split_of(inputs)
        bias = self._towers.bias
        if split.common:
            first = Inputs(inputs.ids[:1], inputs.bag_ids, inputs.bag_offsets, inputs.numbers[:1])
            x = self._embedded(first, split.common, {"shared": split.common_width}, unseen, times=rows)["shared"]
            bias = torch.addmm(bias, x, split.common_weight)  # (1, heads * H)
        widths = self._layout.widths | {"shared": split.own_width}
        x_own = self._embedded(inputs, split.own, widths, unseen)
        self._put_numbers(inputs, x_own, shift=split.common_width)
        logits = self._towers.forward(bias, x_own, split.own_weight).to(torch.float64).numpy()  # (heads, B)
        pcvr = sigmoid(logits[1]) if self._likelihood is None else self._likelihood.pcvr(logits[1:])
        if self._maps is not None:
            pcvr = self._maps.apply(pcvr, None if self._field is None else inputs.ids[:, self._field])
        sizes = np.diff(inputs.bag_offsets[::rows]) if rows else np.zeros(len(self._bags), np.int64)
        seen = dict.fromkeys(self._singles, rows) | dict(zip(self._bags, sizes.tolist(), strict=True))
        return Scored(sigmoid(logits[0]), pcvr, seen, unseen)

    def _split_of(self, inputs: Inputs) -> Split:
        """What of the shared input all rows have in common; made once for each set of features, mostly one."""
        if len(inputs) < _FEW:
            return self._whole
        is_common = (inputs.ids == inputs.ids[0]).all(axis=0)  # (F,)
        key = is_common.tobytes()
        split = self._splits.get(key)
        if split is None:
            if len(self._splits) >= _MOST_SPLITS:
                return self._whole
            split = self._splits[key] = Split.of(self._layout, is_common, self._towers.shared)
        return split

    def _embedded(
        self,
        inputs: Inputs,
        parts: Sequence[Part],
        widths: Mapping[Task, int],
        unseen: dict[str, int],
        *,
        times: int = 1,
    ) -> dict[Task, torch.Tensor]:
        """The vectors of these parts, side by side: (B, width) a task. Counts in `unseen`, `times` each."""
        rows = len(inputs)
        x = {task: np.empty((rows, width), np.float32) for task, width in widths.items()}
        for part in parts:
            table, into = self._tables[part.width], x[part.task][:, part.columns]
            if part.singles:
                is_all = len(part.singles) == inputs.ids.shape[1]  # then in order, and without a copy
                ids = inputs.ids if is_all else inputs.ids[:, part.singles]
                vectors, is_new = table.read(ids.reshape(-1))
                into[:] = vectors.reshape(rows, len(part.singles) * part.width)
                if is_new is not None:
                    counts = is_new.reshape(rows, len(part.singles)).sum(axis=0).tolist()
                    for place, count in zip(part.singles, counts, strict=True):
                        unseen[self._singles[place]] += count * times
                continue
            ids, offsets = bags_of(inputs, part.bags)
            vectors, is_new = table.read(ids)
            at = torch.arange(len(ids))
            means = embedding_bag(
                at, torch.from_numpy(vectors), torch.from_numpy(offsets), mode="mean", include_last_offset=True
            )
            by_bag = means.numpy().reshape(len(part.bags), rows, part.width)
            into[:] = by_bag.transpose(1, 0, 2).reshape(rows, len(part.bags) * part.width)
            if is_new is not None:
                starts = np.concatenate([[0], is_new.cumsum()])[offsets[:: rows or 1]]
                for place, count in zip(part.bags, np.diff(starts).tolist(), strict=True):
                    unseen[self._bags[place]] += count
        return {task: torch.from_numpy(values) for task, values in x.items()}

    def _put_numbers(self, inputs: Inputs, x: Mapping[Task, torch.Tensor], *, shift: int) -> None:
        """Fills in the plain numbers and what is missing of them; of the shared input, so many columns further to the left."""
        for plain in self._layout.numbers:
            values = inputs.numbers[:, plain.numbers]  # (B, numbers)
            missing = np.isnan(values)
            left = shift if plain.task == "shared" else 0
            into = x[plain.task].numpy()[:, plain.columns.start - left : plain.columns.stop - left]
            into[:, : len(plain.numbers)] = np.where(missing, np.float32(0), values)
            into[:, len(plain.numbers) :] = missing


def _table(
    manifest: Manifest, tables: Mapping[str, tuple[torch.Tensor, torch.Tensor]], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids and vectors of a width; an empty table may be left out."""
    ids, vectors = tables.get(f"table_{width}", (torch.zeros(0, dtype=torch.int64), torch.zeros(0, width)))
    if vectors.shape[1] != width:
        raise DamagedWeightsError(
            f"version {manifest.name} holds table_{width}.vectors as {tuple(vectors.shape)}: they must be {width} wide; publish it again"
        )
    return ids, vectors
