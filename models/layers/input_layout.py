"""Which column of a task's input is whose: the order that a network's first layer counts on; must not know a table or a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.batch import Inputs, Int64
from models.features import Columns
from models.schema import Feature, Task

TASKS: tuple[Task, ...] = ("shared", "ctr", "cvr")


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring columns of one task's input that come from one table.

    Args:
        singles: which columns of `Inputs.ids`. bags: which bags (g). Only one of the two is filled.
        columns: where its vectors stand in the task's input.
    """

    task: Task
    width: int
    singles: tuple[int, ...]
    bags: tuple[int, ...]
    columns: slice


@dataclass(frozen=True, slots=True)
class Numbers:
    """The plain numbers of a task: their values, and behind them what is missing."""

    task: Task
    numbers: tuple[int, ...]
    columns: slice


@dataclass(frozen=True, slots=True)
class InputLayout:
    """The inputs of the towers, one a task.

    A task's columns are: for every width, ascending, its single-valued features and then its bags, both in schema order;
    last the values of its numbers and one column each that says 1.0 where the number is missing (its value is then 0).

    Args:
        parts: what comes of tables. numbers: what does not.
        widths: columns of each task's input. tables: the widths of vectors, ascending: one table each.

    Example:
        >>> features = [Feature(name="price", kind="numeric"), Feature(name="user", kind="categorical", task="ctr")]
        >>> InputLayout.of(features, embedding_width=8).widths
        {'shared': 2, 'ctr': 8, 'cvr': 0}
    """

    parts: list[Part]
    numbers: list[Numbers]
    widths: dict[Task, int]
    tables: list[int]

    @classmethod
    def of(cls, features: Sequence[Feature], *, embedding_width: int) -> InputLayout:
        """The layout of these features; `embedding_width` is that of a feature that does not say."""
        columns = Columns.of(features)
        parts: list[Part] = []
        numbers: list[Numbers] = []
        widths: dict[Task, int] = {}

        def width_of(feature: Feature) -> int:
            return embedding_width if feature.width is None else feature.width

        tables = sorted({width_of(feature) for feature in columns.embedded})
        for task in TASKS:
            at = 0
            for width in tables:
                for is_bag, several in ((False, columns.single), (True, columns.bags)):
                    mine = tuple(i for i, f in enumerate(several) if f.task == task and width_of(f) == width)
                    if mine:
                        place = slice(at, at + width * len(mine))
                        parts.append(Part(task, width, () if is_bag else mine, mine if is_bag else (), place))
                        at = place.stop
            plain = tuple(i for i, feature in enumerate(columns.numbers) if feature.task == task)
            if plain:
                numbers.append(Numbers(task, plain, slice(at, at + 2 * len(plain))))
            widths[task] = at + 2 * len(plain)
        return cls(parts, numbers, widths, tables)


def bags_of(inputs: Inputs, bags: tuple[int, ...]) -> tuple[Int64, Int64]:
    """The ids of some features' bags, bag after bag, and where each bag starts."""
    rows = len(inputs)
    ids, offsets, taken = [], [np.zeros(1, np.int64)], 0
    for bag in bags:
        starts = inputs.bag_offsets[bag * rows : (bag + 1) * rows + 1]
        ids.append(inputs.bag_ids[starts[0] : starts[-1]])
        offsets.append(starts[1:] - starts[0] + taken)
        taken += len(ids[-1])
    return np.concatenate(ids), np.concatenate(offsets)
