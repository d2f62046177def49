"""The features of rows as one list of (row, weight, value), whatever their kind; must not know what the weights are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Float64, Inputs, Int64
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
            [place for place, feature in enumerate(several) if feature.task != "ctr"]
            for several in (columns.single, columns.bags, columns.numbers)
        )
        self.count = len(self._singles) + len(self._bags) + len(self._numbers)
        self.first_number = self.count - len(self._numbers)
        self._seen, self._mean, self._squares = np.zeros((3, len(self._numbers)))

    def observe(self, inputs: Inputs) -> None:
        """Adds the numbers of B rows to the mean and deviation they are standardised by."""
        numbers = inputs.numbers[:, self._numbers].astype(np.float64)
        known = np.isfinite(numbers)
        count = known.sum(axis=0)
        mean = np.where(known, numbers, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, numbers - mean, 0.0) ** 2).sum(axis=0)
        # Two sets of numbers joined, Chan et al. 1979: sums of squares alone lose all digits of a large mean.
        total = np.maximum(self._seen + count, 1)
        shift = mean - self._mean
        self._squares += squares + shift**2 * self._seen * count / total
        self._mean += shift * count / total
        self._seen += count

    def terms(self, inputs: Inputs) -> Terms:
        """The terms of B rows."""
        rows, width = len(inputs), len(self._singles)
        row = [np.repeat(np.arange(rows), width)]
        field = [np.tile(np.arange(width), rows)]
        ids = [np.ascontiguousarray(inputs.ids[:, self._singles]).ravel()]
        value = [np.ones(rows * width)]
        for place, bag in enumerate(self._bags):
            starts = inputs.bag_offsets[bag * rows : (bag + 1) * rows + 1]
            sizes = np.diff(starts)
            ids.append(inputs.bag_ids[starts[0] : starts[-1]])
            row.append(np.repeat(np.arange(rows), sizes))
            field.append(np.full(len(ids[-1]), width + place))
            value.append(np.repeat(1.0 / np.maximum(sizes, 1), sizes))
        for place, number in enumerate(self._numbers):
            values = inputs.numbers[:, number].astype(np.float64)
            missing = np.isnan(values)
            for which, part in enumerate((np.where(missing, 0.0, self._standardised(place, values)), missing)):
                row.append(np.arange(rows))
                field.append(np.full(rows, self.first_number + place))
                ids.append(np.full(rows, which))
                value.append(part.astype(np.float64))
        terms = Terms(np.concatenate(row), np.concatenate(field), np.concatenate(ids), np.concatenate(value))
        if not self._bags and not self._numbers:
            return terms
        order = np.argsort(terms.row, kind="stable")
        return Terms(terms.row[order], terms.field[order], terms.id[order], terms.value[order])

    def _standardised(self, place: int, values: Float64) -> Float64:
        seen = self._seen[place]
        deviation = np.sqrt(self._squares[place] / seen) if seen else 0.0
        if not deviation > 0:
            return np.zeros_like(values)
        return np.asarray(np.clip((values - self._mean[place]) / deviation, -_FARTHEST, _FARTHEST))

    def snapshot(self) -> dict[str, torch.Tensor]:
        """What numbers are standardised by."""
        return {"numbers": torch.from_numpy(np.stack([self._seen, self._mean, self._squares]))}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        self._seen, self._mean, self._squares = tensors["numbers"].numpy().copy()


def rows_of(inputs: Inputs, rows: Int64) -> Inputs:
    """Some rows of a batch, in the order given."""
    count = len(inputs)
    bags = (len(inputs.bag_offsets) - 1) // count if count else 0
    kept = (np.arange(bags)[:, None] * count + rows).ravel()  # bag g of row b is number g * B + b
    sizes = np.diff(inputs.bag_offsets)[kept]
    offsets = np.append(0, np.cumsum(sizes))
    ids = np.repeat(inputs.bag_offsets[kept] - offsets[:-1], sizes) + np.arange(offsets[-1])
    return Inputs(inputs.ids[rows], inputs.bag_ids[ids], offsets, inputs.numbers[rows])
