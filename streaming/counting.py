"""Counts what comes in and by which door it leaves; must not know what a count is for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from models.batch import Batch, Event
from streaming.arrivals import Arrivals
from streaming.events import RecordKind
from streaming.examples import Examples, Kind
from streaming.joined import Side
from streaming.metrics import SIDE_OUTPUTS, IngestFigures, RunMetrics
from streaming.outputs import door_of

if TYPE_CHECKING:  # no torch where nothing is learned
    from models.trainer import StepReport

_RECORDS = (*(kind.name.lower() for kind in RecordKind), "malformed", "block")


def count_arrivals(counts: IngestFigures, arrivals: Arrivals) -> None:
    """Counts records that were read, those refused among them."""
    for kind, count in zip(*np.unique(arrivals.kinds, return_counts=True), strict=True):
        _add(counts.events, RecordKind(int(kind)).name.lower(), int(count))
    if len(arrivals.times):
        counts.max_event_time_ms = max(counts.max_event_time_ms or 0, int(arrivals.times.max()))
    counts.is_broker_away = arrivals.is_away
    for refused in arrivals.refused:
        _add(counts.events, refused.kind.name.lower() if refused.is_future else "malformed", 1)
        _count_side(counts, door_of(refused), refused.kind)


def count_duplicates(counts: IngestFigures, number: int) -> None:
    """Counts examples that had come before."""
    counts.duplicate_examples += number


def count_unread(counts: IngestFigures, number: int) -> None:
    """Counts records that are no blocks of examples."""
    if number:
        _add(counts.events, "malformed", number)
        _add(counts.side_outputs.setdefault("dead_letters", {}), "block", number)


def count_leaving(counts: IngestFigures, examples: Examples, sides: Iterable[Side]) -> None:
    """Counts what left the join: examples by kind, records by side door and kind."""
    per_kind = np.bincount(examples.kinds)
    for kind in np.flatnonzero(per_kind).tolist():
        _add(counts.examples, Kind(kind).name, int(per_kind[kind]))
    for side in sides:
        _count_side(counts, side.door, side.record.kind)


def count_taught(counts: RunMetrics, batch: Batch, report: StepReport) -> None:
    """Counts what a batch taught, if it was learned."""
    if report.refusal is not None:
        return
    counts.taught += int(np.count_nonzero(batch.events != Event.HELD_OUT))
    weights = (np.abs(report.positive) + np.abs(report.negative))[batch.click_ms >= 0]
    weights = weights[weights > 0]
    counts.conversion_rows += len(weights)
    counts.conversion_weight += float(weights.sum())
    counts.conversion_weight_square += float((weights**2).sum())
    if counts.conversion_weight_square > 0:
        counts.effective_sample_size = counts.conversion_weight**2 / counts.conversion_weight_square


def copy_figures(figures: IngestFigures) -> IngestFigures:
    """A copy that later counting does not reach, its counts in the order of their kinds and not in that in which each was met."""
    sides = figures.side_outputs
    return msgspec.structs.replace(
        figures,
        events=_in_order(figures.events, _RECORDS),
        side_outputs={door: _in_order(sides[door], _RECORDS) for door in SIDE_OUTPUTS if door in sides},
        feature_faults=dict(figures.feature_faults),
        examples=_in_order(figures.examples, Kind.__members__),
    )


def with_figures(counts: RunMetrics, figures: IngestFigures) -> RunMetrics:
    """The counts of learning and those of ingest in one value, which later counting does not reach."""
    own = msgspec.structs.replace(
        counts, refused_batches=dict(counts.refused_batches), refused_versions=dict(counts.refused_versions)
    )
    return msgspec.structs.replace(own, **msgspec.structs.asdict(figures))


def _in_order(counts: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    return {name: counts[name] for name in names if name in counts}


def _count_side(counts: IngestFigures, door: str, kind: RecordKind) -> None:
    _add(counts.side_outputs.setdefault(door, {}), kind.name.lower(), 1)


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
