"""Watches conversions come in while labels are still open, beside what was predicted; must not know how anything is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.batch import Float64
from models.cohorts import Cohorts
from models.completion_error import KnownCurve
from models.delay_edges import bin_of
from models.early_calibration import Calibration, early_calibration
from streaming.examples import Example, Slot
from streaming.metrics import CohortMetrics, EarlyMetrics
from streaming.scoring import WHOSE, Whose, whose_of


class EarlyLabels:
    """Observed over expected conversions of clicks that are still open, for the predictions of the model and for those served.

    Args:
        edges_ms: ages at which conversions are counted, those of the delay model.
        click_window_ms: as in the settings; a click is told of no later than so long after it.
    """

    def __init__(self, *, edges_ms: tuple[int, ...], click_window_ms: int) -> None:
        self._edges_ms = edges_ms
        self._cohorts = {whose: Cohorts(edges_ms, settles_after_ms=click_window_ms) for whose in WHOSE}

    def on_clicks(self, clicked: Sequence[Example], pcvr: Float64, completed: Float64, *, curve: Float64) -> None:
        """Adds clicks.

        Args:
            clicked: n CLICKED examples.
            pcvr: (n,) what each is scored with.
            completed: (n, edges) F(e | x) of each.
            curve: (edges,) F(e) of all.
        """
        served = np.array([whose_of(example.impression) == "served" for example in clicked], np.bool_)
        click_ms = np.array([example.click_ms for example in clicked], np.int64)
        for whose, rows in zip(WHOSE, (~served, served), strict=True):
            if rows.any():
                self._cohorts[whose].add_clicks(click_ms[rows], pcvr[rows], completed[rows], curve=curve)

    def on_aged(self, aged: Sequence[Example]) -> None:
        """Counts the conversions of AGED examples once each: at the first edge that its click reaches after it."""
        came: dict[Whose, list[tuple[int, int]]] = {}
        for example in aged:
            assert example.click_ms is not None
            assert example.conversion_ms is not None
            delay_ms = max(example.conversion_ms - example.click_ms, 0)
            # Nothing is due at edge 0: who converts by then is told of at edge 1.
            if example.slot - Slot.AGED == max(bin_of(delay_ms, self._edges_ms), 1):
                came.setdefault(whose_of(example.impression), []).append((example.click_ms, delay_ms))
        for whose, conversions in came.items():
            click_ms, delays_ms = np.array(conversions, np.int64).T
            self._cohorts[whose].add_conversions(click_ms, delays_ms)

    def fold(self, watermark_ms: int) -> None:
        """Lets go of cohorts whose labels are final."""
        for cohorts in self._cohorts.values():
            cohorts.fold(watermark_ms)

    def metrics(self, watermark_ms: int | None, known: KnownCurve) -> dict[str, EarlyMetrics]:
        """The figures by whose predictions they are of; those of whom none is open are left out."""
        if watermark_ms is None:
            return {}
        found: dict[str, EarlyMetrics] = {}
        for whose, cohorts in self._cohorts.items():
            early = early_calibration(cohorts, watermark_ms, known)
            if early.total is not None:
                found[whose] = EarlyMetrics(
                    total=_cohort(None, None, early.total),
                    ages=[_cohort(None, each.age_ms, each.calibration) for each in early.ages],
                    cohorts=[_cohort(each.start_ms, each.age_ms, each.calibration) for each in early.cohorts],
                )
        return found

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies."""
        return {
            f"{whose}.{name}": tensor
            for whose, cohorts in self._cohorts.items()
            for name, tensor in cohorts.snapshot().items()
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes up what `snapshot` gave, in place of all there was."""
        for whose, cohorts in self._cohorts.items():
            cohorts.restore(
                {name.removeprefix(f"{whose}."): own for name, own in tensors.items() if name.startswith(f"{whose}.")}
            )


def _cohort(start_ms: int | None, age_ms: int | None, found: Calibration) -> CohortMetrics:
    return CohortMetrics(start_ms=start_ms, age_ms=age_ms, **found._asdict())
