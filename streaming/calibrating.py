"""Calibration while labels are open: watches conversions come in, and corrects pCVR by them. Must not know how a model is taught."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from models.batch import Batch, Float64, rows_of
from models.completion_error import KnownCurve
from models.delay_models import DelayModel
from streaming.early_labels import EarlyLabels
from streaming.examples import Examples, Kind
from streaming.metrics import EarlyMetrics
from streaming.recalibrating import OpenRaw, Recalibrator
from streaming.scoring import Scoreboard
from streaming.settings import Settings


class Calibrating:
    """The early calibration of a run, and its recalibration if the settings ask for one.

    Args:
        settings: of the run.
        delays: the delay model, read whenever it is asked; `looks_ms` the age at which a click gets its first label, None if the method
            draws none before the last.
    """

    def __init__(self, settings: Settings, delays: DelayModel, *, looks_ms: int | None) -> None:
        self._delays = delays
        self._looks_ms = looks_ms
        self._early = EarlyLabels(edges_ms=delays.edges, click_window_ms=settings.windows.click_window_ms)
        kind = settings.recalibrating.kind
        self._recalibrator = None if kind == "none" else Recalibrator(settings.recalibrating, settings.features)

    def corrected(self, batch: Batch, pcvr: Float64) -> Float64:
        """(B,) pCVR as it is served: the model's, recalibrated."""
        return pcvr if self._recalibrator is None else self._recalibrator.apply(pcvr, batch.inputs)

    def on_batch(self, group: Examples, rows: Examples, batch: Batch, pcvr: Float64, scoreboard: Scoreboard) -> None:
        """Takes a batch that has been scored.

        Args:
            group: its examples. rows: those that were learned together. batch: the same, collated.
            pcvr: (B,) as the model gave it before it learned of them.
            scoreboard: holds what clicks are scored with.
        """
        at_ms = int(group.due_ms[-1])
        clicked = [
            (row, example, own.pcvr)
            for row, example in zip(rows.places.tolist(), rows.others, strict=True)
            if example.kind == Kind.CLICKED and (own := scoreboard.held(example.impression.impression_id)) is not None
        ]
        if clicked:
            places = np.array([row for row, _, _ in clicked], np.int64)
            self._early.on_clicks(
                [example for _, example, _ in clicked],
                np.array([p for _, _, p in clicked]),
                self._delays.completed_at_edges(rows_of(batch.inputs, places)),
                curve=self._delays.curve.completed_at_edges(),
            )
        self._early.on_aged(group.of_kind(Kind.AGED))
        if self._recalibrator is not None:
            looks_ms = self._looks_ms
            is_known = looks_ms is not None and not bool(self._delays.rests_on_prior(looks_ms))
            self._recalibrator.on_rows(
                rows,
                batch,
                pcvr,
                completed=(lambda inputs: 1 - self._delays.survival_at(inputs, looks_ms or 0)) if is_known else None,
                at_ms=at_ms,
            )
            outcomes = group.of_kind(Kind.OUTCOME)
            self._recalibrator.on_outcomes(outcomes, observation_window_ms=looks_ms or 0, at_ms=at_ms)

    def advance(self, watermark_ms: int) -> None:
        """Lets go of what is final, and fits the maps anew where a segment of time has begun."""
        self._early.fold(watermark_ms)
        if self._recalibrator is not None:
            self._recalibrator.advance(watermark_ms)

    def metrics(self, watermark_ms: int | None) -> dict[str, EarlyMetrics]:
        """Early calibration, by whose predictions."""
        curve = self._delays.curve
        known = KnownCurve.of_counts(curve.hazards, curve.seen, prior_examples=curve.prior_examples)
        return self._early.metrics(watermark_ms, known)

    def published(self) -> dict[str, torch.Tensor]:
        """What scorers need of it, `recalibration.NAME` each; nothing without recalibration."""
        maps = {} if self._recalibrator is None else self._recalibrator.published()
        return {f"recalibration.{name}": tensor for name, tensor in maps.items()}

    def snapshot(self) -> tuple[dict[str, torch.Tensor], dict[str, OpenRaw]]:
        """All state, as copies: tensors, and the clicks that recalibration still waits for."""
        tensors = {f"early.{name}": tensor for name, tensor in self._early.snapshot().items()}
        if self._recalibrator is None:
            return tensors, {}
        maps, opened = self._recalibrator.snapshot()
        return tensors | {f"recalibration.{name}": tensor for name, tensor in maps.items()}, opened

    def restore(self, tensors: Mapping[str, torch.Tensor], opened: Mapping[str, OpenRaw]) -> None:
        """Takes up what `snapshot` gave, in place of all there was."""
        self._early.restore(_under("early.", tensors))
        if self._recalibrator is not None:
            self._recalibrator.restore(_under("recalibration.", tensors), opened)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
