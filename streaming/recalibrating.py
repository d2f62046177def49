"""Corrects pCVR by what earlier predictions of the model led to; must not know a network or how it is taught.

A click gives one piece of its life where its first label is drawn (its conversion came within w_o, or not, with exposure F(w_o | x)), and
the rest with its OUTCOME. So the maps follow within hours, and are right as soon as F is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import torch

from models.batch import Batch, Event, Float64, Inputs, rows_of
from models.features import Columns
from models.recalibration import Recalibration
from models.schema import Feature
from streaming.examples import Example, Examples, Kind
from streaming.settings import Recalibrating

_LOOKED = (Kind.IMMEDIATE_POSITIVE, Kind.OBSERVED_NEGATIVE)


class OpenRaw(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A click's pCVR as the model gave it, the id of its field, and the exposure that it has been counted with so far."""

    pcvr: float
    field_id: int
    exposure: float


class Recalibrator:
    """The maps of a run, and the clicks that have still something to tell them.

    Args:
        settings: kind (not `none`), field and lengths of time.
        features: of the model; the field is one of them.
    """

    def __init__(self, settings: Recalibrating, features: Sequence[Feature]) -> None:
        assert settings.kind != "none"
        self._recalibration = Recalibration(
            settings.kind,
            segment_ms=settings.segment_ms,
            half_life_ms=settings.half_life_ms,
            least_conversions=settings.least_conversions,
        )
        names = [feature.name for feature in Columns.of(features).single]
        self._column = None if settings.field is None else names.index(settings.field)
        self._open: dict[str, OpenRaw] = {}

    def apply(self, pcvr: Float64, inputs: Inputs) -> Float64:
        """The pCVR of B rows, corrected."""
        return self._recalibration.apply(pcvr, None if self._column is None else inputs.ids[:, self._column])

    def on_rows(
        self,
        rows: Examples,
        batch: Batch,
        pcvr: Float64,
        *,
        completed: Callable[[Inputs], Float64] | None,
        at_ms: int,
    ) -> None:
        """Takes a batch.

        Args:
            rows: its B examples. batch: the same, collated.
            pcvr: (B,) as the model gives it, before it learned of them.
            completed: F(w_o | x) of some inputs; None while it rests on a prior, or is of no use to the method: then OUTCOMEs alone tell.
            at_ms: event time of the batch.
        """
        clicked = [
            (row, example)
            for row, example in zip(rows.places.tolist(), rows.others, strict=True)
            if example.click_ms is not None and batch.events[row] != Event.HELD_OUT
        ]
        looked = [row for row, example in clicked if completed is not None and example.kind in _LOOKED]
        exposure: dict[int, float] = {}
        if completed is not None and looked:
            shares = completed(rows_of(batch.inputs, np.array(looked, np.int64)))
            exposure = dict(zip(looked, shares.tolist(), strict=True))
        pieces: list[tuple[OpenRaw, bool, float, int]] = []
        for row, example in clicked:
            name = example.impression.impression_id
            own = self._open.get(name)
            if own is None:
                if example.kind not in (Kind.CLICKED, *_LOOKED):
                    continue  # its first example left before this run began
                field_id = 0 if self._column is None else int(batch.inputs.ids[row, self._column])
                own = self._open[name] = OpenRaw(float(pcvr[row]), field_id, 0.0)
            if row in exposure and own.exposure == 0.0:
                share = exposure[row]
                self._open[name] = OpenRaw(own.pcvr, own.field_id, share)
                assert example.click_ms is not None
                pieces.append((own, example.kind == Kind.IMMEDIATE_POSITIVE, share, example.click_ms))
        self._learn(pieces, at_ms)

    def on_outcomes(self, outcomes: Sequence[Example], *, observation_window_ms: int, at_ms: int) -> None:
        """Takes final labels: what of each click's life has not been counted yet."""
        pieces: list[tuple[OpenRaw, bool, float, int]] = []
        for example in outcomes:
            own = self._open.pop(example.impression.impression_id, None)
            if own is None or example.click_ms is None:
                continue
            delay_ms = None if example.conversion_ms is None else example.conversion_ms - example.click_ms
            is_later = delay_ms is not None and (own.exposure == 0.0 or delay_ms > observation_window_ms)
            pieces.append((own, is_later, 1.0 - own.exposure, example.click_ms))
        self._learn(pieces, at_ms)

    def _learn(self, pieces: Sequence[tuple[OpenRaw, bool, float, int]], at_ms: int) -> None:
        if not pieces:
            return
        own, converted, exposure, click_ms = zip(*pieces, strict=True)
        self._recalibration.learn(
            np.array([each.pcvr for each in own]),
            np.array(converted, np.float64),
            np.array(exposure),
            click_ms=np.array(click_ms, np.int64),
            field_ids=None if self._column is None else np.array([each.field_id for each in own], np.int64),
            at_ms=at_ms,
        )

    def advance(self, at_ms: int) -> None:
        """Fits the maps anew if event time has come to a new segment."""
        self._recalibration.advance(at_ms)

    def published(self) -> dict[str, torch.Tensor]:
        """The maps as they stand, for scorers."""
        return self._recalibration.published()

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, OpenRaw]]:
        """All state, as copies."""
        return self._recalibration.snapshot(), dict(self._open)

    def restore(self, tensors: Mapping[str, torch.Tensor], opened: Mapping[str, OpenRaw]) -> None:
        """Takes up what `snapshot` gave, in place of all there was."""
        self._recalibration.restore(tensors)
        self._open = dict(opened)
