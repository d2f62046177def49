"""What clicks had shown and what was expected of them by then, summed by score and by value of a field; must not know what is made of it.

A click of age e has shown the share F(e) of what it will ever show. Its *exposure* is F(e), what is expected of it so far p F(e), and
what is observed 1 or 0; whatever F is, if it is right, E[observed] = q F(e) where q is the true rate. So

    sum of observed / sum of exposure      estimates q without bias, of clicks of any ages together
    sum of observed / sum of expected      estimates q / p likewise

It is true of each stretch of a click's life by itself, too, so a click may come in pieces: over (e_j, e_k] it has the exposure
F(e_k) - F(e_j), and has converted if it did so within. The pieces of a click that has reached w_a have exposure 1 in all. *Every* click
gives its pieces, converted before or not: those that had converted are part of the q F that is expected.

Putting p (1 - F) / (1 - p F) in place of labels that are open, the other way there is, leans on the very p that is in question: of a
model that is off by a factor it finds a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Float64, Int64
from models.logit_map import logit
from models.sums import LEAST_PROBABILITY, probabilities_and_labels

LOWEST_LOGIT, HIGHEST_LOGIT = -16.0, 8.0
BUCKETS = 96
"""A quarter of a logit each. Within a bucket the mean of p is kept, so an untouched p is exact, and a map of slope a is off by
a (a - 1) .25^2 / 24 of itself."""

EXPOSURE, EXPECTED, OBSERVED = range(3)  # rows of a (3, BUCKETS) table

_LEAST_EXPOSURE = 1e-9  # of a row: a conversion where F has 0 is the error of F, and must not be a rate of 1 in 0
_KEPT_SHARE = 0.75  # of the values, when there are too many


@dataclass(frozen=True, slots=True)
class Seen:
    """B pieces of clicks' lives.

    Args:
        p: (B,) predicted probabilities, as they came from the model.
        converted: (B,) 1 where the conversion came within the piece, else 0.
        exposure: (B,) F at the end of the piece less F at its start; 1 where a whole life is one piece, with its final label.
        click_ms: (B,) when the clicks were.
        field_ids: (B,) 64-bit ids of the field's values; None where there is no field.

    Raises:
        ValueError: shapes differ, or a value is out of its range.
    """

    p: Float64
    converted: Float64
    exposure: Float64
    click_ms: Int64
    field_ids: Int64 | None = None

    @classmethod
    def of(
        cls,
        p: npt.ArrayLike,
        converted: npt.ArrayLike,
        exposure: npt.ArrayLike,
        *,
        click_ms: npt.ArrayLike,
        field_ids: npt.ArrayLike | None = None,
    ) -> Seen:
        """The same from anything like an array."""
        p, converted = probabilities_and_labels(p, converted)
        ids = None if field_ids is None else np.asarray(field_ids, np.int64)
        return cls(p, converted, np.asarray(exposure, np.float64), np.asarray(click_ms, np.int64), ids)

    def __post_init__(self) -> None:
        ids = self.click_ms if self.field_ids is None else self.field_ids
        if not self.exposure.shape == self.click_ms.shape == ids.shape == self.p.shape:
            raise ValueError(
                f"p, exposure, click_ms and field_ids must have as many rows (got {self.p.shape}, {self.exposure.shape}, "
                f"{self.click_ms.shape}, {ids.shape})"
            )
        outside = ~((self.exposure >= 0.0) & (self.exposure <= 1.0))
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"exposure[{row}] must lie between 0 and 1 (got {self.exposure[row]}): it is the share of a click's conversions "
                "that falls within the piece"
            )

    def __len__(self) -> int:
        return len(self.p)


class ExposureSums:
    """Exposure, expected and observed by score bucket: of all rows, and of those of each value of a field.

    A click weighs 2^(-age / half-life), its age counted in whole segments before the newest click seen. So the sums are of a window
    that moves with the stream, and hold the same whatever the order in which rows came, to the last digits; and bit for bit however rows
    are cut into batches.

    Args:
        segment_ms: stretch of event time whose clicks weigh the same.
        half_life_ms: event time in which a click loses half its weight.
        max_values: of the field. Where there are more after a batch, a quarter is forgotten, those with the least exposure first: which,
            may depend on how rows were cut.

    Raises:
        ValueError: a number is not above 0.

    Example:
        >>> sums = ExposureSums(segment_ms=1000, half_life_ms=1000, max_values=10)
        >>> sums.add(Seen.of([0.2, 0.2], [1, 0], [0.5, 0.5], click_ms=[0, 0], field_ids=[7, 8]))
        >>> sums.add(Seen.of([0.2], [0], [1.0], click_ms=[1999], field_ids=[8]))
        >>> sums.everywhere.sum(axis=1).round(3).tolist()  # two halves that weigh half, and a whole one
        [1.5, 0.3, 0.5]
        >>> sums.ids.tolist(), sums.by_value.sum(axis=2)[1].round(3).tolist()
        ([7, 8], [1.25, 0.25, 0.0])

    Source:
        Cormode et al., "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009.
    """

    def __init__(self, *, segment_ms: int, half_life_ms: int, max_values: int) -> None:
        for name, number in (("segment_ms", segment_ms), ("half_life_ms", half_life_ms), ("max_values", max_values)):
            if number <= 0:
                raise ValueError(f"{name} must be above 0 (got {number})")
        self._segment_ms = segment_ms
        self._half_life_ms = half_life_ms
        self._max_values = max_values
        self._cells = np.zeros((3, BUCKETS))
        self._value_cells = np.zeros((0, 3, BUCKETS))
        self.ids: Int64 = np.zeros(0, np.int64)
        # Cells are kept as they weigh at the start of half-life number `_half_life`: rows only ever multiply by their own weight, and
        # going from one half-life to another multiplies by a power of two, which costs no bit.
        self._half_life: int | None = None
        self._newest_ms = 0

    @property
    def everywhere(self) -> Float64:
        """(3, BUCKETS) of all rows: exposure, expected, observed, as they weigh at the newest click."""
        return np.asarray(self._cells * self._weight_now())

    @property
    def by_value(self) -> Float64:
        """(V, 3, BUCKETS) the same of the rows of each of `ids`."""
        return np.asarray(self._value_cells * self._weight_now())

    def _weight_now(self) -> float:
        return float(0.5 ** (self._newest_ms % self._half_life_ms / self._half_life_ms))

    def add(self, rows: Seen) -> None:
        """Adds rows, in their order."""
        if not len(rows):
            return
        start_ms = rows.click_ms // self._segment_ms * self._segment_ms
        self._newest_ms = (
            max(int(start_ms.max()), self._newest_ms) if self._half_life is not None else int(start_ms.max())
        )
        self._move_to(self._newest_ms // self._half_life_ms)
        assert self._half_life is not None
        whole, part_ms = np.divmod(start_ms, self._half_life_ms)
        weight = np.ldexp(
            np.exp2(part_ms / self._half_life_ms), np.maximum(whole - self._half_life, -1000).astype(np.int32)
        )
        exposure = weight * np.maximum(rows.exposure, _LEAST_EXPOSURE)
        figures = np.stack(
            [exposure, exposure * np.maximum(rows.p, LEAST_PROBABILITY), weight * rows.converted]
        )  # (3, B)
        step = (HIGHEST_LOGIT - LOWEST_LOGIT) / BUCKETS
        bucket = np.clip((logit(rows.p) - LOWEST_LOGIT) // step, 0, BUCKETS - 1).astype(np.int64)
        for cells, figure in zip(self._cells, figures, strict=True):
            np.add.at(cells, bucket, figure)
        if rows.field_ids is not None:
            self._admit(rows.field_ids)
            place = np.searchsorted(self.ids, rows.field_ids)
            cells = self._value_cells.reshape(-1)  # a view
            for kind, figure in enumerate(figures):
                np.add.at(cells, (place * 3 + kind) * BUCKETS + bucket, figure)
            self._forget()

    def _move_to(self, half_life: int) -> None:
        steps = 0 if self._half_life is None else max(self._half_life - half_life, -1000)
        self._half_life = half_life
        if steps:
            self._cells = np.ldexp(self._cells, steps)
            self._value_cells = np.ldexp(self._value_cells, steps)

    def _admit(self, ids: Int64) -> None:
        every = np.union1d(self.ids, ids)
        if len(every) > len(self.ids):
            cells = np.zeros((len(every), 3, BUCKETS))
            cells[np.searchsorted(every, self.ids)] = self._value_cells
            self.ids, self._value_cells = every, cells

    def _forget(self) -> None:
        if len(self.ids) <= self._max_values:
            return
        exposure = self._value_cells[:, EXPOSURE].sum(axis=1)
        most = np.lexsort((self.ids, -exposure))[: max(1, int(self._max_values * _KEPT_SHARE))]
        stays = np.sort(most)
        self.ids, self._value_cells = self.ids[stays], self._value_cells[stays]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies; of values only the buckets they use."""
        value, bucket = np.nonzero(self._value_cells.any(axis=1))
        time = [] if self._half_life is None else [self._half_life, self._newest_ms]
        return {
            "cells": torch.from_numpy(self._cells.copy()),
            "ids": torch.from_numpy(self.ids.copy()),
            "used": torch.from_numpy(np.stack([value, bucket]).astype(np.int64)),
            "value_cells": torch.from_numpy(self._value_cells[value, :, bucket]),
            "time": torch.tensor(time, dtype=torch.int64),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        self._cells, self.ids = tensors["cells"].numpy().copy(), tensors["ids"].numpy().copy()
        value, bucket = tensors["used"].numpy()
        self._value_cells = np.zeros((len(self.ids), 3, BUCKETS))
        self._value_cells[value, :, bucket] = tensors["value_cells"].numpy()
        time = tensors["time"].tolist()
        self._half_life, self._newest_ms = (time[0], time[1]) if time else (None, 0)
