"""Recalibration of pCVR while labels are still coming: a map by segment of time and by value of a field; must not know a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Float64
from models.exposure import EXPECTED, OBSERVED, ExposureSums, Seen
from models.field_maps import FieldMaps
from models.logit_map import LogitMap
from models.map_fits import FITS, by_value

Kind = Literal["platt", "isotonic"]


class Recalibration:
    """Corrects a model's pCVR by what its earlier predictions led to, without waiting for labels to be final.

    What it learns from are pieces of clicks' lives with their exposure (`exposure.py`): clicks of any age count by what was expected of
    them by then, so a map is right on average as soon as F is. The map of a segment of event time is fitted when the segment
    begins, on all that was learned before it, recent clicks above old ones, and stands until the next: what is corrected has no part in
    the correction, and the order of rows within a segment does not matter. Until `least_conversions` were expected or observed, nothing
    is corrected. It always rises: within a value of the field nobody falls behind whom they ranked above.

    A map is as right as F: pieces that rest on a prior of delays are better left out, all of them, whoever converted. For maps by hour of
    the day, make the hour the field.

    Args:
        kind: `platt` (two numbers, from some hundred conversions on) or `isotonic` (any rising curve, from some thousand on).
        segment_ms: of event time, how long a map stands.
        half_life_ms: time in which a click loses half its weight.
        least_conversions: expected or observed, the greater, clicks weighted.
        max_values: of the field that keep a map of their own; those with the least exposure go back to the map of all.

    Raises:
        ValueError: there is no such kind, or a number is not above 0.

    Example:
        >>> recalibration = Recalibration("platt", segment_ms=1000, half_life_ms=60_000, least_conversions=50)
        >>> clicks = np.arange(4000) % 1000
        >>> open_labels = clicks % 10 == 0  # 10 % have converted by an age at which half of them have: 20 % will
        >>> recalibration.learn(np.full(4000, 0.1), open_labels, np.full(4000, 0.5), click_ms=clicks, at_ms=999)
        >>> recalibration.apply([0.1]).tolist()
        [0.1]
        >>> recalibration.advance(1000)
        >>> recalibration.apply([0.1]).round(2).tolist()
        [0.2]
    """

    def __init__(
        self,
        kind: Kind,
        *,
        segment_ms: int = 3_600_000,
        half_life_ms: int = 86_400_000,
        least_conversions: float = 100.0,
        max_values: int = 1000,
    ) -> None:
        if kind not in FITS:
            raise ValueError(f"kind must be one of {', '.join(FITS)} (got {kind!r}): no other map is fitted")
        if not 0 < least_conversions < np.inf:
            raise ValueError(
                f"least_conversions must be above 0 and finite (got {least_conversions}): a map of nothing would be a guess"
            )
        self._fit = FITS[kind]
        self._sums = ExposureSums(segment_ms=segment_ms, half_life_ms=half_life_ms, max_values=max_values)
        self._segment_ms = segment_ms
        self._least_conversions = least_conversions
        self._segment: int | None = None
        self._maps = FieldMaps()

    @property
    def map(self) -> LogitMap:
        """The map of all, as it stands in this segment."""
        return self._maps.of_all

    @property
    def expected(self) -> float:
        """Conversions expected so far of what it was taught, clicks weighted; it moves once this or `observed` is enough."""
        return float(self._sums.everywhere[EXPECTED].sum())

    @property
    def observed(self) -> float:
        """Conversions observed, clicks weighted."""
        return float(self._sums.everywhere[OBSERVED].sum())

    def advance(self, at_ms: int) -> None:
        """Fits the maps anew if event time has come to a new segment. `learn` does so itself."""
        segment = at_ms // self._segment_ms
        if self._segment is None:
            self._segment = segment
        elif segment > self._segment:
            self._segment = segment
            self._refit()

    def learn(
        self,
        p: npt.ArrayLike,
        converted: npt.ArrayLike,
        exposure: npt.ArrayLike,
        *,
        click_ms: npt.ArrayLike,
        field_ids: npt.ArrayLike | None = None,
        at_ms: int,
    ) -> None:
        """Adds B pieces of clicks' lives, which the map of the next segment will know.

        Args:
            p: (B,) pCVR from the model, *before* recalibration.
            converted: (B,) whether the conversion came within the piece.
            exposure: (B,) F at its end less F at its start; with final labels 1, for one piece a click.
            click_ms: (B,) when the clicks were.
            field_ids: (B,) ids of the field's values; None where there is no field.
            at_ms: event time of the batch; one before the latest is taken at the latest.

        Raises:
            ValueError: shapes differ, or a value is out of its range; nothing was changed.
        """
        rows = Seen.of(p, converted, exposure, click_ms=click_ms, field_ids=field_ids)
        self.advance(at_ms)
        self._sums.add(rows)

    def _refit(self) -> None:
        cells = self._sums.everywhere
        if max(cells[EXPECTED].sum(), cells[OBSERVED].sum()) < self._least_conversions:
            self._maps = FieldMaps()
            return
        of_all = self._fit(cells)
        values = by_value(of_all, self._sums.by_value)
        self._maps = FieldMaps(of_all, self._sums.ids, values.slope, values.intercept)

    def apply(self, p: npt.ArrayLike, field_ids: npt.ArrayLike | None = None) -> Float64:
        """The pCVR of B rows, corrected: (B,) as the model gives it, and (B,) ids of the field's values if there is one -> (B,)."""
        return self._maps.apply(p, field_ids)

    def published(self) -> dict[str, torch.Tensor]:
        """The maps as they stand, for a scorer in any language.

        Returns:
            `at` and `to` (K,), `slope` (1,), float64: the map of all; `value.ids` (V,) int64 ascending, `value.slope` and
            `value.intercept` (V,) float64. With K = 0, p stays as it is. Else, natural logarithms throughout:

                s = log(p / (1 - p)), p held 1e-12 away from 0 and 1
                z = to[0] + slope[0] (s - at[0])         if s <= at[0]
                    to[K-1] + slope[0] (s - at[K-1])     if s >= at[K-1]
                    on the line between the two knots around s, otherwise
                z = value.intercept[v] + value.slope[v] z    if the row's id is value.ids[v]
                p = 1 / (1 + e^-z)
        """
        return self._maps.tensors()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies: what `restore` continues from bit for bit."""
        segment = [] if self._segment is None else [self._segment]
        return {
            "segment": torch.tensor(segment, dtype=torch.int64),
            **{f"map.{name}": tensor for name, tensor in self.published().items()},
            **{f"sums.{name}": tensor for name, tensor in self._sums.snapshot().items()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        maps, sums = (
            {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in ("map.", "sums.")
        )
        self._segment = int(tensors["segment"][0]) if len(tensors["segment"]) else None
        self._maps = FieldMaps.of_tensors(maps)
        self._sums.restore(sums)
