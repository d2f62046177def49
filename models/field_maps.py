"""The map of all rows and those of a field's values, as a scorer applies them; must not know how any was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Float64, Int64
from models.logit_map import LogitMap, logit, probability


def _none() -> Float64:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class FieldMaps:
    """A rising map of probabilities, and what a row's value of a field adds to it on the logit z: intercept[v] + slope[v] z.

    Args:
        of_all: the map of all; without knots nothing is corrected.
        ids: (V,) of the values that have a map of their own, ascending.
        slope, intercept: (V,) of each.

    Example:
        >>> twice_the_odds = FieldMaps(LogitMap(np.array([0.0]), np.log([2.0])), np.array([7]), np.ones(1), -np.log([2.0]))
        >>> twice_the_odds.apply([0.2, 0.2], [7, 8]).round(4).tolist()
        [0.2, 0.3333]
    """

    of_all: LogitMap = field(default_factory=LogitMap)
    ids: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    slope: Float64 = field(default_factory=_none)
    intercept: Float64 = field(default_factory=_none)

    def apply(self, p: npt.ArrayLike, field_ids: npt.ArrayLike | None = None) -> Float64:
        """Probabilities of B rows, corrected: (B,) as a model gives them, and (B,) ids of the field's values if there is one -> (B,)."""
        p = np.array(p, np.float64)
        if self.of_all.is_identity:
            return p
        z = self.of_all.read(logit(p))
        if field_ids is not None and len(self.ids):
            asked = np.asarray(field_ids, np.int64)
            place = np.minimum(np.searchsorted(self.ids, asked), len(self.ids) - 1)
            own = self.intercept[place] + self.slope[place] * z
            z = np.where(self.ids[place] == asked, own, z)
        return probability(z)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`at`, `to`, `slope` of the map of all, and `value.ids`, `value.slope`, `value.intercept`, as copies."""
        return {
            **self.of_all.tensors(),
            "value.ids": torch.from_numpy(self.ids.copy()),
            "value.slope": torch.from_numpy(self.slope.copy()),
            "value.intercept": torch.from_numpy(self.intercept.copy()),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> FieldMaps:
        """The maps that `tensors` wrote."""
        return cls(
            LogitMap.of_tensors(tensors),
            tensors["value.ids"].numpy().copy(),
            tensors["value.slope"].numpy().copy(),
            tensors["value.intercept"].numpy().copy(),
        )
