"""What an ingest keeps of one join partition: a join, or examples that were joined elsewhere. Must not know other partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from models.delay import method_of
from streaming.arrivals import Arrivals
from streaming.batching import decode_examples, encode_examples
from streaming.counting import count_arrivals, count_duplicates, count_unread
from streaming.deliveries import HeldState, PartitionState
from streaming.example_blocks import Tenure
from streaming.examples import Examples, Kind, Slot
from streaming.join import Join
from streaming.joined import Side, Windows
from streaming.label import Outcome, Policy
from streaming.metrics import IngestFigures
from streaming.outputs import door_of, refused_line, unread_line
from streaming.polled_blocks import BlockArrivals
from streaming.ports import Arriving, Source
from streaming.settings import Settings

Lines = list[tuple[str, bytes]]
"""What goes to outputs, as (name, bytes)."""

PARTITION_FIGURES = ("open_impressions", "open_clicks", "remembered_impressions", "pending_records", "held_facts")
"""Figures of a partition that add up to those of a run."""


class Partition(Protocol):
    """A join partition on its way.

    Attributes:
        watermark_ms: its own; None before there is one. is_idle: whether nobody waits for it. held_ms: see `PartitionFigures`.
    """

    watermark_ms: int | None
    is_idle: bool
    held_ms: int

    def on_arrivals(self, arrivals: Arriving, figures: IngestFigures) -> Lines:
        """Takes in and counts what has arrived; gives what is to be written of it at once."""

    @property
    def next_ms(self) -> int | None:
        """No watermark up to this one (it included) lets anything take effect or leave; None: none does."""

    def advance(self, watermark_ms: int, *, is_halt: bool) -> tuple[Examples, list[Side], bool]:
        """What leaves on the way to the watermark of all, or to its own, if that is the lower one; and whether anything was due."""

    def figure(self, name: str) -> int:
        """One of `PARTITION_FIGURES`."""

    def snapshot(self) -> PartitionState:
        """The whole state, as a value."""

    def restore(self, state: PartitionState) -> None:
        """Takes up where a snapshot was taken."""


class JoinPartition:
    """Records that are joined and labelled here."""

    def __init__(self, join: Join, policy: Policy) -> None:
        self.join, self._policy = join, policy
        self.watermark_ms: int | None = None
        self.is_idle, self.held_ms = False, 0

    def on_arrivals(self, arrivals: Arriving, figures: IngestFigures) -> Lines:
        """Takes in records."""
        assert isinstance(arrivals, Arrivals)
        count_arrivals(figures, arrivals)
        self.join.on_arrivals(arrivals)
        self.is_idle, self.held_ms = arrivals.is_idle, arrivals.held_ms
        if arrivals.watermark_ms is not None:
            self.watermark_ms = arrivals.watermark_ms
        return [(f"{door_of(refused)}.jsonl", refused_line(refused)) for refused in arrivals.refused]

    @property
    def next_ms(self) -> int | None:
        """See `Join.next_ms`."""
        return self.join.next_ms

    def advance(self, watermark_ms: int, *, is_halt: bool) -> tuple[Examples, list[Side], bool]:
        """See `Partition.advance`."""
        own_ms = watermark_ms if self.watermark_ms is None else min(watermark_ms, self.watermark_ms)
        is_halt = is_halt or self.watermark_ms is None or own_ms < self.watermark_ms
        dues, sides = self.join.on_watermark(own_ms, is_halt=is_halt)
        return self._policy.on_due(dues), sides, len(dues) > 0

    def figure(self, name: str) -> int:
        """The join's own."""
        value: int = getattr(self.join, name)
        return value

    def snapshot(self) -> PartitionState:
        """The join's, and how far it has come."""
        return PartitionState(self.watermark_ms, self.is_idle, join=self.join.snapshot())

    def restore(self, state: PartitionState) -> None:
        """Takes up where a snapshot was taken."""
        assert state.join is not None
        self.watermark_ms, self.is_idle = state.watermark_ms, state.is_idle
        self.join.restore(state.join)


class ExamplePartition:
    """Examples that were joined elsewhere; each is let through once.

    What a joiner sends that was asleep and does not know that another has taken its place is void (`example_blocks`). The rest is what one joiner would have sent
    that never died: in order of due time, each once. Where p was begun anew since its snapshots were lost, and only there, there may be more: what is due before the
    newest that was seen has been seen; of those that are due with it, which.
    """

    def __init__(self) -> None:
        self.watermark_ms: int | None = None
        self.is_idle, self.held_ms = False, 0
        self._held: list[Examples] = []  # stretches, none of them empty
        self._mark_ms = -1
        self._at_mark: set[tuple[str, int]] = set()  # looked up, never walked through
        self._tenure = Tenure()

    def on_arrivals(self, arrivals: Arriving, figures: IngestFigures) -> Lines:
        """Takes in blocks."""
        assert isinstance(arrivals, BlockArrivals)
        figures.is_broker_away = arrivals.is_away
        for offset, block, examples in arrivals.blocks:
            if not self._tenure.admits(offset, block.told):
                count_duplicates(figures, len(examples))
                continue
            if block.told.claimed_at is None:
                continue
            fresh = self._fresh(examples)
            count_duplicates(figures, len(examples) - len(fresh))
            if len(fresh):
                self._held.append(fresh)
                figures.max_event_time_ms = max(figures.max_event_time_ms or 0, int(fresh.due_ms.max()))
            if block.watermark_ms is not None and block.watermark_ms >= (self.watermark_ms or 0):
                self.watermark_ms, self.is_idle, self.held_ms = block.watermark_ms, block.is_idle, block.held_ms
            elif self.watermark_ms is None:
                self.is_idle = block.is_idle
        count_unread(figures, len(arrivals.unread))
        return [("dead_letters.jsonl", unread_line(*unread)) for unread in arrivals.unread]

    def _fresh(self, examples: Examples) -> Examples:
        """Those that have not been seen."""
        dues = examples.due_ms
        is_fresh = dues > self._mark_ms
        for number in np.flatnonzero(dues == self._mark_ms).tolist():
            is_fresh[number] = _identity(examples, number) not in self._at_mark
        if not is_fresh.any():
            return examples[:0]
        fresh = examples.where(is_fresh)
        newest_ms = int(fresh.due_ms.max())
        if newest_ms > self._mark_ms:
            self._mark_ms, self._at_mark = newest_ms, set()
        self._at_mark |= {_identity(fresh, number) for number in np.flatnonzero(fresh.due_ms == newest_ms).tolist()}
        return fresh

    @property
    def next_ms(self) -> int | None:
        """When the first that is held is due."""
        return int(self._held[0].due_ms[0]) if self._held else None

    def advance(self, watermark_ms: int, *, is_halt: bool) -> tuple[Examples, list[Side], bool]:
        """See `Partition.advance`; a halt is like any other place on the way."""
        own_ms = watermark_ms if self.watermark_ms is None else min(watermark_ms, self.watermark_ms)
        parts: list[Examples] = []
        while self._held and self._held[0].due_ms[0] < own_ms:
            first = self._held.pop(0)
            count = int(np.searchsorted(first.due_ms, own_ms, "left"))
            parts.append(first[:count])
            if count < len(first):
                self._held.insert(0, first[count:])
        return Examples.joined(parts or [Examples.of([])]), [], bool(parts)

    def figure(self, name: str) -> int:
        """How many examples wait; of all else nothing is known here."""
        return sum(map(len, self._held)) if name == "pending_records" else 0

    def snapshot(self) -> PartitionState:
        """What is held, and by what it is known what was seen."""
        held = encode_examples([example for part in self._held for example in part])
        return PartitionState(
            self.watermark_ms,
            self.is_idle,
            held=HeldState(held, self._mark_ms, sorted(self._at_mark), self._tenure.last),
        )

    def restore(self, state: PartitionState) -> None:
        """Takes up where a snapshot was taken."""
        assert state.held is not None
        self.watermark_ms, self.is_idle = state.watermark_ms, state.is_idle
        held = Examples.of(decode_examples(state.held.examples))
        self._held = [held] if len(held) else []
        self._mark_ms, self._at_mark = state.held.mark_ms, set(state.held.at_mark)
        self._tenure = Tenure(state.held.last)


def _identity(examples: Examples, number: int) -> tuple[str, int]:
    return examples.impressions[number].impression_id, examples[number].slot


def join_partition(settings: Settings, p: int, outcomes: Mapping[tuple[str, int], Outcome] | None) -> JoinPartition:
    """A partition of these settings; `outcomes` for method `oracle` alone."""
    policy = policy_of(settings, outcomes, p=p)
    return JoinPartition(Join(join_windows(settings), policy.schedule), policy)


def join_windows(settings: Settings) -> Windows:
    """How long things may take, as the join wants it said."""
    return Windows(
        click_ms=settings.windows.click_window_ms,
        attribution_ms=settings.windows.attribution_window_ms,
        clock_skew_ms=settings.event_time.clock_skew_ms,
        orphan_hold_ms=settings.orphan_hold_ms,
    )


def policy_of(settings: Settings, outcomes: Mapping[tuple[str, int], Outcome] | None = None, *, p: int = 0) -> Policy:
    """The labelling policy of these settings in a join partition; `outcomes` for method `oracle` alone."""
    method, windows = method_of(settings.labels.method), settings.windows
    return Policy(
        map(Kind, method.sees),
        p=p,
        observation_window_ms=0 if method.observes_at_click else windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
        horizons=settings.labels.horizons,
        outcomes=outcomes,
    )


def first_look_ms(settings: Settings) -> int | None:
    """The age at which a click gets its first label; None if the method draws none before the last."""
    policy = policy_of(settings, {} if settings.labels.method == "oracle" else None)
    return dict(policy.schedule.after_click_ms).get(Slot.OBSERVED)


def find_outcomes(source: Source, settings: Settings) -> dict[tuple[str, int], Outcome]:
    """What finally became of each click whose attribution window the log covers: the first pass for method `oracle`."""
    windows = settings.windows
    policy = Policy(
        (),
        p=0,
        observation_window_ms=windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
    )
    join = Join(join_windows(settings), policy.schedule)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for arrivals in source:
        assert isinstance(arrivals, Arrivals)
        join.on_arrivals(arrivals)
        if arrivals.watermark_ms is not None:
            for example in policy.on_due(join.on_watermark(arrivals.watermark_ms)[0]):
                if example.kind == Kind.OUTCOME:
                    impression = example.impression
                    outcomes[impression.impression_id, impression.event_time_ms] = Outcome(
                        example.conversion_ms, example.value
                    )
    return outcomes
