"""The features of rows as one list of (row, weight, value), whatever their kind; must not know what the weights are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Bool, Float64, Inputs, Int64
from models.features import Columns
from models.schema import Feature

_FARTHEST = 3.0  # standard deviations that a number counts for: one far out must not move what the others share


@dataclass(frozen=True, slots=True)
class Terms:
    """What stands in the score of each row: value times weight, summed. Sorted by row.

    Args:
        row: (n,) of the batch.
        field: (n,) which feature it belongs to, see `Fields`.
        id: (n,) 64-bit id; of a number 0 for its value and 1 for its absence.
        value: (n,) 1 for an id, 1 / size in a bag, the standardised value or the absence of a number.
    """

    row: Int64
    field: Int64
    id: Int64
    value: Float64


class Fields:
    """The features that CVR sees, numbered: single-valued ones, bags, numbers, each in schema order.

    Numbers come as they are, so they are standardised by the mean and deviation of what has been observed, and cut at three
    deviations.

    Args:
        features: of the model, in settings order. Those for CTR alone are left out.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        columns = Columns.of(features)
        self._singles, self._bags, self._numbers = (
            np.array([place for place, feature in enumerate(several) if feature.task != "ctr"], np.int64)
            for several in (columns.single, columns.bags, columns.numbers)
        )
        self._bags_of_all = len(columns.bags)
        self.first_number = len(self._singles) + len(self._bags)
        self.count = self.first_number + len(self._numbers)
        numbers = np.arange(self.first_number, self.count)
        self._fixed_field = np.concatenate([np.arange(len(self._singles)), np.repeat(numbers, 2)])
        self._seen, self._mean, self._squares = np.zeros((3, len(self._numbers)))

    def observe(self, inputs: Inputs) -> None:
        """Adds the numbers of B rows to the mean and deviation they are standardised by."""
        if not len(self._numbers):
            return
        numbers = inputs.numbers[:, self._numbers].astype(np.float64)
        unknown = ~np.isfinite(numbers)
        count = len(numbers) - unknown.sum(axis=0)
        numbers[unknown] = 0.0
        mean = numbers.sum(axis=0) / np.maximum(count, 1)
        numbers -= mean
        numbers[unknown] = 0.0
        squares = (numbers**2).sum(axis=0)
        # Two sets of numbers joined, Chan et al. 1979: sums of squares alone lose all digits of a large mean.
        total = np.maximum(self._seen + count, 1)
        shift = mean - self._mean
        self._squares += squares + shift**2 * self._seen * count / total
        self._mean += shift * count / total
        self._seen += count

    def terms(self, inputs: Inputs) -> Terms:
        """The terms of B rows."""
        # A row: | singles | numbers, each its value and its absence | bag | bag |. All features of a kind are written at once: of some
        # 50 rows it is the number of calls that costs.
        rows, singles, bounds = len(inputs), len(self._singles), inputs.bag_offsets
        fixed = singles + 2 * len(self._numbers)
        sizes = (bounds[1:] - bounds[:-1]).reshape(self._bags_of_all, rows)[self._bags]  # (bags, B)
        ends = np.empty((1 + len(sizes), rows), np.int64)  # within the row: of what is fixed, and of each bag
        ends[0], ends[1:] = fixed, sizes
        np.add.accumulate(ends, axis=0, out=ends)
        starts = ends[-1].cumsum() - ends[-1]  # (B,)
        row = np.arange(rows).repeat(ends[-1])
        field, ids, value = np.empty_like(row), np.empty_like(row), np.empty(len(row))

        at = starts[:, None] + np.arange(fixed)  # (B, fixed)
        own_ids, own_value = np.empty((rows, fixed), np.int64), np.ones((rows, fixed))
        own_ids[:, :singles], own_ids[:, singles::2], own_ids[:, singles + 1 :: 2] = inputs.ids[:, self._singles], 0, 1
        if len(self._numbers):
            own_value[:, singles::2], own_value[:, singles + 1 :: 2] = self._standardised(inputs)
        field[at], ids[at], value[at] = self._fixed_field, own_ids, own_value

        if len(self._bags):
            each = sizes.ravel()
            at = ((starts + ends[:-1]).ravel() - (each.cumsum() - each)).repeat(each) + np.arange(len(row) - at.size)
            ids[at] = np.concatenate(
                [inputs.bag_ids[bounds[bag * rows] : bounds[(bag + 1) * rows]] for bag in self._bags.tolist()]
            )
            field[at] = np.arange(singles, self.first_number).repeat(sizes.sum(axis=1))
            value[at] = (1.0 / np.maximum(each, 1)).repeat(each)
        return Terms(row, field, ids, value)

    def _standardised(self, inputs: Inputs) -> tuple[Float64, Bool]:
        """Each number as it counts, 0 where it is missing or never varied, and whether it is missing: (B, numbers) both."""
        values = inputs.numbers[:, self._numbers].astype(np.float64)
        missing = np.isnan(values)
        deviation = np.sqrt(self._squares / np.maximum(self._seen, 1))
        farthest = _FARTHEST * deviation
        values = np.maximum(np.minimum(values - self._mean, farthest), -farthest)
        values[missing] = 0.0
        return values / np.where(deviation > 0, deviation, 1.0), missing

    def snapshot(self) -> dict[str, torch.Tensor]:
        """What numbers are standardised by."""
        return {"numbers": torch.from_numpy(np.stack([self._seen, self._mean, self._squares]))}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        self._seen, self._mean, self._squares = tensors["numbers"].numpy().copy()
