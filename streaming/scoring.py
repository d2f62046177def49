"""Scores each impression's one prediction once its labels are final; must not know the model, nor teach it anything."""

from __future__ import annotations

from bisect import bisect_right
from itertools import compress
from operator import attrgetter
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.batch import Bool, Float64, Int64
from models.sums import Rows
from streaming.events import Impression, Served
from streaming.examples import Example, Examples, Kind
from streaming.hourly import HOUR_MS, HourlyState, HourlySums, task_metrics
from streaming.metrics import HourMetrics, RunMetrics

_served = attrgetter("served")
_event_time_ms = attrgetter("event_time_ms")

Whose = Literal["model", "served"]
WHOSE: tuple[Whose, Whose] = ("model", "served")
TASKS = ("ctr", "cvr", "ctcvr")
CTR, CVR, CTCVR = range(3)


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The one prediction an impression is scored with; a line of predictions.jsonl."""

    impression_id: str
    event_time_ms: int
    pctr: float
    pcvr: float
    whose: Whose


class Predicted(NamedTuple):
    """Predictions as columns, each (n,)."""

    impressions: list[Impression]
    event_time_ms: Int64
    pctr: Float64
    pcvr: Float64
    is_served: Bool

    def each(self) -> list[Prediction]:
        """One by one."""
        figures = zip(self.pctr.tolist(), self.pcvr.tolist(), self.is_served.tolist(), strict=True)
        return [
            Prediction(shown.impression_id, shown.event_time_ms, pctr, pcvr, WHOSE[served])
            for shown, (pctr, pcvr, served) in zip(self.impressions, figures, strict=True)
        ]


class OpenPrediction(msgspec.Struct, frozen=True, gc=False):
    """A clicked impression's prediction that waits for labels; `converted` is None until the OUTCOME came."""

    pctr: float
    pcvr: float
    is_served: bool
    click_came: bool = False
    converted: bool | None = None


class ScoreboardState(msgspec.Struct, frozen=True):
    """A `Scoreboard` to be kept, as JSON or msgpack: `msgspec.msgpack.decode(data, type=ScoreboardState)` gives every bit back."""

    open: dict[str, OpenPrediction]
    sums: list[tuple[str, Whose, HourlyState]]
    delay_counts: list[int]
    outcomes: int
    positive_outcomes: int
    due_ms: int | None


class Scoreboard:
    """Holds predictions until their labels are final, and what came of them.

    Args:
        click_window_ms, attribution_window_ms: as in the settings.

    Example:
        >>> from streaming.events import Impression
        >>> shown = Impression("i-1", 1_700_000_000_000, msgspec.Raw(b"{}"))
        >>> due = shown.event_time_ms + 900_000
        >>> board = Scoreboard(click_window_ms=900_000, attribution_window_ms=3_600_000)
        >>> unclicked = Examples.of([Example(due, Kind.UNCLICKED, 0, 0, shown)])
        >>> board.predict(unclicked, [0.04], [0.1]).each()[0].pctr
        0.04
        >>> board.metrics(due).tasks["ctr"]["model"].n    # the hour is not complete
        0
        >>> board.metrics(due + 7_200_000).tasks["ctr"]["model"].sum_p
        0.04
    """

    def __init__(self, *, click_window_ms: int, attribution_window_ms: int) -> None:
        self._click_window_ms = click_window_ms
        self._sums: dict[tuple[int, Whose], HourlySums] = {}
        self._settles_after_ms = (click_window_ms, *[click_window_ms + attribution_window_ms] * 2)  # by task
        self._open: dict[str, OpenPrediction] = {}
        self._delay_edges_ms = delay_edges(attribution_window_ms)
        self._delay_counts = [0] * len(self._delay_edges_ms)
        self._due_ms: int | None = None
        self.outcomes = 0
        self.positive_outcomes = 0

    def predict(self, examples: Examples, rows_pctr: npt.ArrayLike, rows_pcvr: npt.ArrayLike) -> Predicted:
        """Takes the model's predictions for a batch, before the batch is learned, and scores the labels that came with it.

        Only the first example of an impression decides its prediction: what was served, if it was logged, else the
        model's. What the model says of it later is ignored. `outcomes` and `positive_outcomes` count on.

        Args:
            examples: the B rows of the batch, OUTCOMEs included, in the order in which they left the join.
            rows_pctr: (B,) probabilities of a click.
            rows_pcvr: (B,) probabilities of a conversion after a click.

        Returns:
            The predictions that are new, in the order of `examples`.

        Raises:
            ValueError: a shape or a value is wrong; nothing was changed.
        """
        pctr = _probabilities(rows_pctr, "rows_pctr", len(examples))
        pcvr = _probabilities(rows_pcvr, "rows_pcvr", len(examples))
        event_time_ms = np.fromiter(map(_event_time_ms, examples.impressions), np.int64, len(examples))
        is_new, is_served = np.ones(len(examples), np.bool_), np.zeros(len(examples), np.bool_)
        if not len(examples):
            return Predicted([], event_time_ms, pctr, pcvr, is_served)
        labels = np.zeros((3, len(examples)))  # (task, B) as of unclicked rows; NaN is not scored by this row
        labels[CVR] = np.nan
        # An unclicked row is its impression's first and last, and nearly all are: only the others are looked at one by one.
        if any(map(_served, examples.impressions)):
            unclicked = np.flatnonzero(examples.kinds == Kind.UNCLICKED).tolist()
            for row in unclicked:
                served = examples.impressions[row].served
                if served is not None and _is_probable(served):
                    pctr[row], pcvr[row], is_served[row] = served.pctr, served.pcvr, True
        labels[:, examples.places] = np.nan
        for row, example in zip(examples.places.tolist(), examples.others, strict=True):
            name = example.impression.impression_id
            held = self._open.get(name)
            if held is None:
                served = example.impression.served
                if served is not None and _is_probable(served):
                    held = OpenPrediction(served.pctr, served.pcvr, True)
                else:
                    held = OpenPrediction(float(pctr[row]), float(pcvr[row]), False)
            else:
                is_new[row] = False
            pctr[row], pcvr[row], is_served[row] = held.pctr, held.pcvr, held.is_served
            for task, label in self._settle(name, example, held):
                labels[task, row] = label
        self._add(event_time_ms, pctr, pcvr, labels, is_served)
        self._due_ms = max(int(examples.due_ms[-1]), self._due_ms or 0)
        for sums in self._sums.values():
            sums.fold(self._due_ms)
        new = examples.impressions if is_new.all() else list(compress(examples.impressions, is_new.tolist()))
        return Predicted(new, event_time_ms[is_new], pctr[is_new], pcvr[is_new], is_served[is_new])

    def held(self, impression_id: str) -> OpenPrediction | None:
        """The prediction of a clicked impression whose labels are still open; None if there is none (any more)."""
        return self._open.get(impression_id)

    def _settle(self, name: str, example: Example, held: OpenPrediction) -> list[tuple[int, float]]:
        """The (task, label) that this example of a clicked impression settles; holds on to what is still open."""
        settled: list[tuple[int, float]] = []
        click_came, converted = held.click_came, held.converted
        if example.kind == Kind.CLICKED:
            click_came = True
            settled.append((CTR, 1.0))
        elif example.kind == Kind.OUTCOME:
            converted = example.converted
            settled.append((CVR, float(converted)))
            self._count_outcome(example)
        if click_came and converted is not None:
            settled.append((CTCVR, float(converted)))
            self._open.pop(name, None)
        elif converted is not None and example.due_ms >= example.impression.event_time_ms + self._click_window_ms:
            # Its CLICKED left before this run began, and so did the unclicked rows beside it: no CTCVR of one side alone.
            self._open.pop(name, None)
        else:
            self._open[name] = OpenPrediction(held.pctr, held.pcvr, held.is_served, click_came, converted)
        return settled

    def _count_outcome(self, example: Example) -> None:
        self.outcomes += 1
        self.positive_outcomes += example.converted
        if example.click_ms is not None and example.conversion_ms is not None:
            delay_ms = max(example.conversion_ms - example.click_ms, 0)  # clocks may disagree by a forgiven skew
            self._delay_counts[bisect_right(self._delay_edges_ms, delay_ms) - 1] += 1

    def _add(self, times: Int64, pctr: Float64, pcvr: Float64, labels: Float64, is_served: Bool) -> None:
        hours = times // HOUR_MS * HOUR_MS
        for task, p in ((CTR, pctr), (CVR, pcvr), (CTCVR, pctr * pcvr)):
            scored = ~np.isnan(labels[task])
            if not scored.any():
                continue
            rows, whose_rows, hour_rows = Rows.of(p[scored], labels[task, scored]), is_served[scored], hours[scored]
            for whose, chosen in zip(WHOSE, (~whose_rows, whose_rows), strict=True):
                if chosen.any():
                    self._sums_of(task, whose).add(hour_rows[chosen], rows.where(chosen))

    def _sums_of(self, task: int, whose: Whose) -> HourlySums:
        if (task, whose) not in self._sums:
            settles_after_ms = self._settles_after_ms[task]
            self._sums[task, whose] = HourlySums(settles_after_ms=settles_after_ms, enters_at_once=task == CVR)
        return self._sums[task, whose]

    def metrics(self, watermark_ms: int | None) -> RunMetrics:
        """The figures so far: `tasks`, `hours`, the delay histogram and `open_predictions`; the rest is left at its defaults.

        Changes nothing, so that it may be asked at any time.

        Args:
            watermark_ms: everything due before it has been given to `predict`; None before the first record.
        """
        metrics = RunMetrics(
            open_predictions=len(self._open),
            delay_edges_ms=list(self._delay_edges_ms),
            delay_counts=list(self._delay_counts),
            hours=[],
            tasks={},
        )
        for (task, whose), sums in sorted(self._sums.items()):
            metrics.tasks.setdefault(TASKS[task], {})[whose] = task_metrics(sums.total(watermark_ms))
            metrics.hours += [
                HourMetrics(
                    hour_ms=hour,
                    task=TASKS[task],
                    whose=whose,
                    n=round(n),
                    sum_p=sum_p,
                    sum_y=sum_y,
                    sum_log_loss=sum_log_loss,
                    is_complete=sums.is_complete(hour, watermark_ms),
                )
                for hour, (n, sum_p, sum_y, sum_log_loss) in sorted(
                    (hour, figures.tolist()) for hour, figures in sums.figures().items()
                )
            ]
        return metrics

    def snapshot(self) -> ScoreboardState:
        """Everything there is, bit for bit; later scoring does not reach into it."""
        return ScoreboardState(
            open=dict(self._open),
            sums=[(TASKS[task], whose, sums.snapshot()) for (task, whose), sums in self._sums.items()],
            delay_counts=list(self._delay_counts),
            outcomes=self.outcomes,
            positive_outcomes=self.positive_outcomes,
            due_ms=self._due_ms,
        )

    def restore(self, state: ScoreboardState) -> None:
        """Takes up what `snapshot` gave, in place of all there was.

        Raises:
            ValueError: it was taken under another attribution window.
        """
        if len(state.delay_counts) != len(self._delay_edges_ms):
            raise ValueError(
                f"the snapshot counts delays in {len(state.delay_counts)} bins, this attribution_window_ms asks for "
                f"{len(self._delay_edges_ms)}: take it up under the settings it was made with"
            )
        self._open = dict(state.open)
        self._sums = {}
        for task, whose, hourly in state.sums:
            self._sums_of(TASKS.index(task), whose).restore(hourly)
        self._delay_counts = list(state.delay_counts)
        self.outcomes, self.positive_outcomes = state.outcomes, state.positive_outcomes
        self._due_ms = state.due_ms


def delay_edges(attribution_window_ms: int) -> list[int]:
    """Where the bins of click-to-conversion delays start: at 0, at 1 s, and at every doubling within the window.

    Example:
        >>> delay_edges(5_000)
        [0, 1000, 2000, 4000]
    """
    edges = [0, 1_000]
    while edges[-1] * 2 < attribution_window_ms:
        edges.append(edges[-1] * 2)
    return edges


def whose_of(impression: Impression) -> Whose:
    """Whose prediction an impression is scored with: what was served, if it was logged, else the model's."""
    return "served" if impression.served is not None and _is_probable(impression.served) else "model"


def _is_probable(served: Served) -> bool:
    """Whether it can be scored: others logged it, and what is no probability must not reach the sums."""
    return 0.0 <= served.pctr <= 1.0 and 0.0 <= served.pcvr <= 1.0


def _probabilities(values: npt.ArrayLike, name: str, rows: int) -> Float64:
    """(B,) a copy in float64."""
    p = np.array(values, np.float64)
    if p.shape != (rows,):
        raise ValueError(f"{name} must hold one probability for each of the {rows} examples (got shape {p.shape})")
    outside = ~((p >= 0.0) & (p <= 1.0))  # NaN compares false, and is outside
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"{name}[{row}] must be a probability, 0 to 1 (got {p[row]}): the model has exploded; "
            "take up the last cut with smaller learning rates"
        )
    return p
