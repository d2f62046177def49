"""The sums of one task by impression hour, and in total over the hours that are complete; must not know impressions.

Rows of unclicked impressions are known early, those of their clicked neighbours late. A total that took rows as they come
would hold the ones without the others, and the predictions of a perfect model would look far too high:

    impressions    c known                     v known
    [---hour---)---|- click window -|----------|- click window + attribution window -|
                                    CTR of the hour is complete                      CVR and CTCVR of the hour are
"""

from __future__ import annotations

import msgspec
import numpy as np

from models import evaluate
from models.batch import Float64, Int64
from models.sums import Rows, Sums, add_in_order
from streaming.metrics import TaskMetrics

HOUR_MS = 3_600_000
FOLD_LAG_MS = HOUR_MS
"""Event time after an hour's last due time for which its score buckets are kept, as partitions do not come in step."""


class HourlyState(msgspec.Struct, frozen=True):
    """`HourlySums` to be kept: packed sums, and (hour, n, sum of p, of y, of log losses) of folded hours."""

    total: bytes
    open: list[tuple[int, bytes]]
    folded: list[tuple[int, float, float, float, float]]


class HourlySums:
    """The sums of one task over one kind of prediction: by impression hour, and in total over the complete hours.

    An hour keeps score buckets until it is folded into the total, its four figures for ever. The total is the sum of
    the complete hours in their order, whenever they were folded.

    Args:
        settles_after_ms: event time from the end of an hour to where its labels are all known.
        enters_at_once: rows need not wait for their hour: positives and negatives come after the same wait.
    """

    def __init__(self, *, settles_after_ms: int, enters_at_once: bool) -> None:
        self._settles_after_ms = settles_after_ms
        self._enters_at_once = enters_at_once
        self._total = Sums()
        self._open: dict[int, Sums] = {}
        self._folded: dict[int, Float64] = {}  # hour -> (4,)

    def add(self, hours: Int64, rows: Rows) -> None:
        """Adds rows to their hours; (B,) `hours` says where each impression's hour starts."""
        entering = np.zeros(len(hours), np.bool_)
        first, last = int(hours.min()), int(hours.max())
        for hour in [first] if first == last else np.unique(hours).tolist():  # mostly one: the sort is saved
            chosen = hours == hour
            if (
                self._enters_at_once or hour in self._folded
            ):  # a row that follows its folded hour enters the total itself
                start = self._folded.get(hour, np.zeros(4))
                self._folded[hour] = add_in_order(start, rows.figures[:, chosen])
                entering |= chosen
            else:
                self._open.setdefault(hour, Sums()).add(rows.where(chosen))
        if entering.any():
            self._total.add(rows.where(entering))

    def is_complete(self, hour_ms: int, watermark_ms: int | None) -> bool:
        """Whether every label of the hour's impressions was due before the watermark."""
        return watermark_ms is not None and watermark_ms > hour_ms + HOUR_MS + self._settles_after_ms

    def fold(self, due_ms: int) -> None:
        """Lets go of the buckets of hours that were complete a while before `due_ms`."""
        for hour in sorted(hour for hour in self._open if self.is_complete(hour, due_ms - FOLD_LAG_MS)):
            sums = self._open.pop(hour)
            self._total += sums
            self._folded[hour] = sums.figures

    def total(self, watermark_ms: int | None) -> Sums:
        """The sums over the hours complete at the watermark."""
        total = self._total
        for hour in sorted(self._open):
            if self.is_complete(hour, watermark_ms):
                total = total + self._open[hour]
        return total

    def figures(self) -> dict[int, Float64]:
        """By hour, (4,) n, sum of p, of y, of log losses; complete or not."""
        return self._folded | {hour: sums.figures for hour, sums in self._open.items()}

    def snapshot(self) -> HourlyState:
        """Everything there is, bit for bit."""
        return HourlyState(
            total=self._total.pack(),
            open=[(hour, sums.pack()) for hour, sums in self._open.items()],
            folded=[(hour, *figures.tolist()) for hour, figures in self._folded.items()],
        )

    def restore(self, state: HourlyState) -> None:
        """Takes up what `snapshot` gave."""
        self._total = Sums.unpack(state.total)
        self._open = {hour: Sums.unpack(packed) for hour, packed in state.open}
        self._folded = {hour: np.array(figures) for hour, *figures in state.folded}


def task_metrics(sums: Sums) -> TaskMetrics:
    """The ratios of some sums."""
    ranked = evaluate.bucketed_auc(sums)
    return TaskMetrics(
        n=round(sums.n),
        sum_p=sums.sum_p,
        sum_y=sums.sum_y,
        sum_log_loss=sums.sum_log_loss,
        calibration=evaluate.calibration(sums),
        log_loss=evaluate.log_loss(sums),
        normalized_entropy=evaluate.normalized_entropy(sums),
        ece=evaluate.ece(sums),
        auc=None if ranked is None else ranked.auc,
        auc_error=None if ranked is None else ranked.error,
        reliability=[(mean_p, mean_y, round(n)) for mean_p, mean_y, n in evaluate.reliability(sums)],
    )
