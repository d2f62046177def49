"""Published weights laid under a learner whose features may be others: what stays is taken over, the rest starts fresh. Must not know where weights lie.

The first layer has columns of its own for each feature, so it is taken over feature by feature:

    published   user user  item item  price  ?            ? is the column that says that the price is missing
    learner     user user  shop shop  price  ?  age  ?    item is dropped, shop and age are new
                  ^          fresh      ^         0       numbers start at 0, so that they change nothing before they have learned
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Int64
from models.features import Columns, salt_of
from models.layers.input_layout import TASKS, InputLayout
from models.schema import Feature, Network, Task
from models.trainer import Snapshot
from models.weights import Weights, tables_of

_ALIKE = ("pairs", "fnc")
"""Forms whose heads are the same: ctr and cvr."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What became of the features and the rows.

    Args:
        taken: features whose vectors and columns are those of the weights.
        fresh: feature -> why it starts anew.
        dropped: features of the weights that the learner has not.
        rows: taken over, in all tables. left_out: those for which `network.max_rows` has no room.
    """

    taken: tuple[str, ...]
    fresh: dict[str, str]
    dropped: tuple[str, ...]
    rows: int
    left_out: int


def refuse_unlike(weights: Weights, network: Network, form: str) -> None:
    """Refuses weights of another network: what a tower learned fits no tower of another shape.

    Raises:
        ValueError: they are; the message names the setting.
    """
    manifest = weights.manifest
    for key in ("name", "towers"):
        theirs, own = getattr(manifest.network, key), getattr(network, key)
        if theirs != own:
            told, asked = (list(value) if isinstance(value, tuple) else repr(value) for value in (theirs, own))
            raise ValueError(
                f"version {manifest.name} has network.{key} = {told}, these settings have {asked}: only features may change"
            )
    if manifest.form != form and not {manifest.form, form} <= set(_ALIKE):
        raise ValueError(
            f"version {manifest.name} was taught by labels.method = {manifest.method!r}, whose heads are not those of the method "
            "that is set: choose one like it, or start without these weights"
        )


def warm_started(
    fresh: Snapshot,
    weights: Weights,
    features: Sequence[Feature],
    network: Network,
    *,
    initial_sum: float,
    forgotten: Int64,
) -> tuple[Snapshot, TakenOver]:
    """A fresh learner's state with what fits of some weights in its place.

    What weights do not carry stays fresh: optimizers, step, delay model, kappa and traffic.

    Args:
        fresh: state of the learner that has learned nothing.
        weights: a whole version, of a network like it (`refuse_unlike`).
        features, network: of the learner.
        initial_sum: where the sums of Adagrad start.
        forgotten: ids whose meaning has changed, see `changed_buckets`.
    """
    manifest = weights.manifest
    before, after = (
        _Fields.of(manifest.features, manifest.network.embedding_width),
        _Fields.of(features, network.embedding_width),
    )
    reasons = {name: _why_fresh(before, after, name) for name in after.by_name}
    taken = tuple(name for name, why in reasons.items() if why is None)
    tensors = dict(fresh.tensors)
    _take_dense(tensors, weights.tensors, before, after, taken)
    rows = left_out = 0
    for table, (ids, vectors) in tables_of(weights.tensors).items():
        if f"{table}.ids" not in tensors or not len(ids):  # no feature has this width any more
            continue
        kept = torch.from_numpy(np.flatnonzero(~np.isin(ids.numpy(), forgotten)))
        if network.max_rows is not None and len(kept) > network.max_rows:
            norms = torch.linalg.vector_norm(vectors[kept], dim=1)
            most = torch.argsort(norms, descending=True, stable=True)[: network.max_rows]
            left_out += len(kept) - network.max_rows
            kept = kept[most.sort().values]  # those that have learned most, in their order
        rows += len(kept)
        tensors |= {
            f"{table}.ids": ids[kept],
            f"{table}.vectors": vectors[kept],
            f"{table}.sums": torch.full_like(vectors[kept], initial_sum),
            f"{table}.touched": torch.zeros(len(kept), dtype=torch.int32),  # before the first step: first to leave
        }
    told = TakenOver(
        taken,
        {name: why for name, why in reasons.items() if why is not None},
        tuple(name for name in before.by_name if name not in after.by_name),
        rows,
        left_out,
    )
    return Snapshot(tensors, fresh.state), told


def changed_buckets(before: Sequence[Feature], after: Sequence[Feature]) -> list[tuple[str, int]]:
    """Salts whose buckets mean something else now, or nothing, and how many buckets they have: nothing may be taken for them.

    Other ids need no such care: a value's id does not change its meaning, and no other feature has it.
    """
    old, new = (
        {feature.name: feature for feature in features if _own_buckets(feature)} for features in (before, after)
    )
    names = sorted({*old, *new})
    both = [(name, old.get(name), new.get(name)) for name in names]
    return [
        (feature.name, 1 + len(feature.boundaries))
        for _, one, other in both
        for feature in (one, other)
        if feature is not None and (one is None or other is None or one.boundaries != other.boundaries)
    ]


def _buckets(feature: Feature) -> bool:
    return feature.kind == "numeric" and feature.is_embedded


def _own_buckets(feature: Feature) -> bool:
    """Whether its ids are buckets, and no other feature's: those are kept as long as that one is."""
    return _buckets(feature) and feature.ids_of is None


@dataclass(frozen=True, slots=True)
class _Fields:
    """Features, and where each stands in the input of its task: the columns of its vector; of a number, its own and that of its absence."""

    by_name: dict[str, Feature]
    places: dict[str, tuple[Task, list[int]]]
    embedding_width: int

    @classmethod
    def of(cls, features: Sequence[Feature], embedding_width: int) -> _Fields:
        layout, columns = InputLayout.of(features, embedding_width=embedding_width), Columns.of(features)
        places: dict[str, tuple[Task, list[int]]] = {}
        for part in layout.parts:
            several = columns.single if part.singles else columns.bags
            for number, place in enumerate(part.singles or part.bags):
                start = part.columns.start + part.width * number
                places[several[place].name] = part.task, list(range(start, start + part.width))
        for plain in layout.numbers:
            for number, place in enumerate(plain.numbers):
                start = plain.columns.start + number
                places[columns.numbers[place].name] = plain.task, [start, start + len(plain.numbers)]
        return cls({feature.name: feature for feature in features}, places, embedding_width)

    def meaning(self, feature: Feature) -> object:
        """What its ids, or its number, are made of: as long as that stays, what was learned of them stays right."""
        if not feature.is_embedded:
            return feature.transform
        if _buckets(feature):
            return feature.boundaries
        return salt_of(feature), [self.meaning(self.by_name[name]) for name in feature.inputs]

    def width(self, feature: Feature) -> int:
        return self.embedding_width if feature.width is None else feature.width


def _why_fresh(before: _Fields, after: _Fields, name: str) -> str | None:
    """Why a feature of the learner starts anew; None if it is taken over."""
    old, new = before.by_name.get(name), after.by_name[name]
    if old is None:
        return "new"
    if old.is_embedded != new.is_embedded or _buckets(old) != _buckets(new) or bool(old.inputs) != bool(new.inputs):
        kinds = ["buckets" if _buckets(feature) else feature.kind for feature in (old, new)]
        return f"{kinds[0]} before, {kinds[1]} now"
    if before.meaning(old) != after.meaning(new):
        return "made of something else"
    if new.is_embedded and before.width(old) != after.width(new):
        return f"width {before.width(old)} before, {after.width(new)} now"
    if {before.places[name][0], after.places[name][0]} == {"ctr", "cvr"}:
        return "for another task"
    return None


def _take_dense(
    tensors: dict[str, torch.Tensor],
    published: Mapping[str, torch.Tensor],
    before: _Fields,
    after: _Fields,
    taken: Sequence[str],
) -> None:
    """Lays the dense weights over those in `tensors`, the first layer feature by feature."""
    for name in [name for name in tensors if name.startswith("dense.")]:
        if name not in map(_entrance, TASKS):
            tensors[name] = published[name].clone()
    bias = tensors["dense.entrance.bias"]
    own = {task: tensors[_entrance(task)].clone() for task in TASKS}
    half = len(own["ctr"])
    units = {
        "shared": slice(0, len(bias)),
        "ctr": slice(0, half),
        "cvr": slice(half, len(bias)),
    }  # that each task's input goes to
    known = {(salt_of(feature), before.width(feature)) for feature in before.by_name.values() if feature.is_embedded}
    for name, (task, columns) in after.places.items():
        new = after.by_name[name]
        if not new.is_embedded or (salt_of(new), after.width(new)) in known:
            # Random weights on numbers, or on vectors that are long already, would be heard.
            own[task][:, columns] = 0.0
        if name not in taken:
            continue
        old, (from_task, from_columns) = before.by_name[name], before.places[name]
        # A shared feature that only ctr may see now keeps what ctr made of it.
        both = slice(max(units[task].start, units[from_task].start), min(units[task].stop, units[from_task].stop))
        block = published[_entrance(from_task)][_within(both, units[from_task])][:, from_columns].clone()
        if not new.is_embedded:
            # (x - center) / scale w is told anew in the center and scale of now; where x is missing nothing changes.
            shift = block[:, 0] * ((new.center - old.center) / old.scale)
            bias[both] += shift
            block = torch.stack([block[:, 0] * (new.scale / old.scale), block[:, 1] - shift], 1)
        place = torch.tensor(columns)
        own[task][_within(both, units[task])] = own[task][_within(both, units[task])].index_copy(1, place, block)
    tensors |= {_entrance(task): own[task] for task in TASKS}


def _entrance(task: str) -> str:
    return f"dense.entrance.{task}.weight"


def _within(rows: slice, of: slice) -> slice:
    return slice(rows.start - of.start, rows.stop - of.start)
