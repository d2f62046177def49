"""Whether a version may be published: rules over its tensors and over what it says of the newest outcomes. Pure; must not know who asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from models.batch import Bool, Float64
from models.weights import is_of_table, tables_of
from streaming.metrics import IngestFigures
from streaming.publication import Gate

Reason = Literal["not_finite", "norm", "calibration", "log_loss", "coverage"]
_LEAST_P = 1e-12  # a probability is taken as no nearer to 0 or 1: one miss must not weigh more than 27.6 nats


class VersionRefusedError(Exception):
    """A run ended since the gate refused a version, and `gate.on_refusal` is "stop". The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a version is refused: in a word to count by, and in a sentence."""

    reason: Reason
    says: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What versions say of the newest matured clicks.

    Args:
        converted: (n,) their final labels.
        pcvr: (n,) by this version.
        served: (n,) by the version that was published last, when it was; NaN for clicks that matured since.
    """

    converted: Bool
    pcvr: Float64
    served: Float64


def refusal(
    rules: Gate, tensors: Mapping[str, torch.Tensor], compared: Compared, coverage: float | None
) -> Refused | None:
    """Why a version is refused; None if it passes.

    Args:
        rules: of the settings; one that is None always passes.
        tensors: of the version; of a delta, what is in it.
        compared: on the newest outcomes. With fewer than `outcomes_least` they say nothing.
        coverage: of the join, see `coverage_of`.
    """
    return _of_tensors(rules, tensors) or _of_outcomes(rules, compared) or _of_coverage(rules, coverage)


def coverage_of(figures: IngestFigures) -> float | None:
    """Which share of the clicks and conversions read has not left as late or as an orphan; None before the first."""
    kinds = ("click", "conversion")
    read = sum(figures.events.get(kind, 0) for kind in kinds)
    lost = sum(figures.side_outputs.get(door, {}).get(kind, 0) for door in ("late", "orphans") for kind in kinds)
    return None if read == 0 else 1 - lost / read


def _of_tensors(rules: Gate, tensors: Mapping[str, torch.Tensor]) -> Refused | None:
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return Refused("not_finite", f"{name} holds NaN or infinity")
    most = rules.row_norm_most
    if most is None:
        return None
    for name, tensor in sorted(tensors.items()):
        norm = 0.0 if is_of_table(name) or not tensor.numel() else float(tensor.double().square().mean().sqrt())
        if norm > most:
            return Refused("norm", f"{name} has a root mean square of {norm:.3g}, gate.row_norm_most is {most:g}")
    for table, (ids, vectors) in tables_of(tensors).items():
        norms = torch.linalg.vector_norm(vectors, dim=1)  # (rows,)
        if len(norms) and float(norms.max()) > most:
            at = int(norms.argmax())
            return Refused(
                "norm",
                f"the row of id {int(ids[at])} in {table} has a norm of {float(norms[at]):.3g}, gate.row_norm_most is {most:g}",
            )
    return None


def _of_outcomes(rules: Gate, compared: Compared) -> Refused | None:
    clicks = len(compared.converted)
    conversions = int(compared.converted.sum())
    if clicks >= rules.outcomes_least and conversions:
        calibration = float(compared.pcvr.sum()) / conversions
        least, most = rules.calibration_least, rules.calibration_most
        if (least is not None and calibration < least) or (most is not None and calibration > most):
            return Refused(
                "calibration",
                f"calibration of pCVR on the newest {clicks} outcomes is {calibration:.3g}, "
                f"gate.calibration_least and _most are {least} and {most}",
            )
    both = ~np.isnan(compared.served)
    if rules.log_loss_ratio_most is None or int(both.sum()) < rules.outcomes_least:
        return None
    own, served = (_log_loss(p[both], compared.converted[both]) for p in (compared.pcvr, compared.served))
    if own > rules.log_loss_ratio_most * served:
        return Refused(
            "log_loss",
            f"log loss of pCVR on {int(both.sum())} outcomes is {own:.4g} nats, that of the version served {served:.4g}: "
            f"{own / served:.3g} times, gate.log_loss_ratio_most is {rules.log_loss_ratio_most:g}",
        )
    return None


def _of_coverage(rules: Gate, coverage: float | None) -> Refused | None:
    least = rules.join_coverage_least
    if least is None or coverage is None or coverage >= least:
        return None
    return Refused(
        "coverage",
        f"{coverage:.1%} of the clicks and conversions found their impression in time, gate.join_coverage_least is {least:.1%}",
    )


def _log_loss(p: Float64, converted: Bool) -> float:
    p = np.clip(p, _LEAST_P, 1 - _LEAST_P)
    return -math.fsum(np.log(np.where(converted, p, 1 - p))) / len(p)
