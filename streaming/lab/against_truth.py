"""A run's predictions beside the probabilities that a simulated log was drawn with. Must not know how either was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from models.evaluate import auc, normalized_entropy
from models.sums import Sums
from streaming.lab.worldfiles import truth_of

DAY_MS = 86_400_000

T = TypeVar("T")
Floats = npt.NDArray[np.float64]


class TaskAgainstTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One task's predictions against the truth's. A figure that has no value is None.

    Args:
        n: impressions (CTR) or clicks with an OUTCOME (CVR).
        bias: sum of predictions over sum of true probabilities; 1 is right.
        auc, truth_auc: of predictions and of true probabilities, over the same labels; the latter is what can be reached.
        normalized_entropy, truth_normalized_entropy: likewise.
    """

    n: int
    bias: float | None
    auc: float | None
    truth_auc: float | None
    normalized_entropy: float | None
    truth_normalized_entropy: float | None

    @property
    def share(self) -> float | None:
        """How much of the truth's own AUC beyond 0.5 the predictions reach; None if that has no value."""
        if self.auc is None or self.truth_auc is None or self.truth_auc == 0.5:
            return None
        return (self.auc - 0.5) / (self.truth_auc - 0.5)


class AgainstTruth(msgspec.Struct, frozen=True, kw_only=True):
    """CTR over all closed impressions and CVR over clicks with an OUTCOME, of a stretch of days."""

    ctr: TaskAgainstTruth
    cvr: TaskAgainstTruth


class _Prediction(msgspec.Struct, frozen=True, gc=False):
    impression_id: str
    pctr: float
    pcvr: float


class _Example(msgspec.Struct, frozen=True, gc=False):
    kind: str
    impression_id: str
    converted: bool


def compare_with_truth(log: Path, run: Path, *, from_day: float = 0.0, to_day: float = float("inf")) -> AgainstTruth:
    """Holds a run over a generated log against the log's truth.

    Args:
        log: the generated log. run: a run over it.
        from_day, to_day: the stretch of impressions looked at, in days from the log's first impression; [from, to).

    Raises:
        FileNotFoundError: `log` has no truth.parquet, or `run` no predictions.
    """
    truth = truth_of(log)
    days = (truth.event_time_ms - truth.event_time_ms.min()) / DAY_MS
    row_of = {name: row for row, name in enumerate(truth.impression_id.tolist())}
    pctr, pcvr = (np.full(len(days), np.nan) for _ in range(2))
    for prediction in _lines(run / "predictions.jsonl.zst", _Prediction):
        row = row_of.get(prediction.impression_id)
        if row is not None:
            pctr[row], pcvr[row] = prediction.pctr, prediction.pcvr
    clicked, converted = (np.full(len(days), np.nan) for _ in range(2))
    for example in _lines(run / "examples.jsonl.zst", _Example):
        row = row_of.get(example.impression_id)
        if row is None:
            continue
        if example.kind in ("UNCLICKED", "CLICKED"):
            clicked[row] = example.kind == "CLICKED"
        elif example.kind == "OUTCOME":
            converted[row] = example.converted
    wanted = (days >= from_day) & (days < to_day)
    closed, outcome = wanted & ~np.isnan(clicked), wanted & ~np.isnan(converted)
    return AgainstTruth(
        ctr=_task(pctr[closed], truth.pctr[closed], clicked[closed]),
        cvr=_task(pcvr[outcome], truth.pcvr[outcome], converted[outcome]),
    )


def _task(predicted: Floats, true: Floats, labels: Floats) -> TaskAgainstTruth:
    return TaskAgainstTruth(
        n=len(labels),
        bias=float(predicted.sum() / true.sum()) if len(labels) else None,
        auc=auc(predicted, labels),
        truth_auc=auc(true, labels),
        normalized_entropy=normalized_entropy(Sums.of(predicted, labels)),
        truth_normalized_entropy=normalized_entropy(Sums.of(true, labels)),
    )


def _lines(path: Path, form: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(form)
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
        rest = b""
        while chunk := stream.read(1 << 20):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            yield from map(decoder.decode, lines)
