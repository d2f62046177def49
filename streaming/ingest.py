"""The first half of the line, from records to batches, and its half of a cut. Must not know what is learned, written or published.

    bytes --decode--> Event --join--> JoinedImpression --label--> Example --collate--> Group

All before the batches is kept apart by join partition; batches are of all of them together, in order of due time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from models.delay import method_of
from streaming.batching import Batcher, Collator, Group
from streaming.counting import copy_figures, count_leaving
from streaming.deliveries import Delivery, IngestState
from streaming.examples import Examples
from streaming.label import Outcome
from streaming.log_file import Place
from streaming.metrics import IngestFigures, PartitionFigures
from streaming.outputs import side_line
from streaming.partitions import PARTITION_FIGURES, Partition, join_partition, policy_of
from streaming.ports import Source
from streaming.set_aside import SetAside
from streaming.settings import Settings

HOUR_MS = 3_600_000


class Ingest:
    """Reads a source, joins, labels, and makes batches.

    Args:
        settings: of the run. source: see `ports`; a source of several join partitions says which.
        outcomes: method `oracle` only: what a first pass over the same log found.
        partition_of: what a join partition is, by its number; None: a join and a policy.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        outcomes: Mapping[tuple[str, int], Outcome] | None = None,
        *,
        partition_of: Callable[[int], Partition] | None = None,
    ) -> None:
        batching = settings.batching
        self._settings, self._source = settings, source
        made = partition_of or (lambda p: join_partition(settings, p, outcomes))
        self._partitions: dict[int, Partition] = {p: made(p) for p in source.partitions}
        self._batcher = Batcher(
            batch_size=batching.batch_size,
            batch_interval_ms=batching.batch_interval_ms,
            # A partition that was idle may come back with what was due before others went on.
            is_ordered=len(self._partitions) == 1,
        )
        self._collator = collator_of(settings)
        self._watermark_ms: int | None = None
        self._at_ms = self._read_bytes = 0
        self._figures = IngestFigures()
        self._open_since: tuple[int, int] | None = None  # live: which batch is open, and since when, in processing time
        self._look_ms: int | None = None  # live: processing time of the look that is being worked off
        self._is_changed = False  # since the last cut
        self._cut_places: dict[str, Place] | None = None  # how far the source had been read at it
        self._is_closed = False

    def deliveries(self, *, close_at_end: bool = False) -> Iterator[Delivery]:
        """Reads the source to its end.

        Args:
            close_at_end: the log is complete: label what is still open instead of keeping it. Nothing can follow then.
        """
        if self._look_ms is not None:  # it was cut within, and ends as if it had not been
            yield from self._to_end_of_look(self._look_ms, None)
        for arrivals in self._source:  # bytes -> Event, in arrival order
            partition = self._partitions[arrivals.p]
            lines = partition.on_arrivals(arrivals, self._figures)
            self._read_bytes = sum(place.start for place in self._source.places().values())
            yield Delivery(arrivals.records, self._read_bytes, lines, [], copy_figures(self._figures))
            yield from self._to_end_of_look(arrivals.now_ms, arrivals.first_watermark_ms)
        if close_at_end:
            self._is_closed = True
            closing_ms = self._closing_ms()
            for partition in self._partitions.values():
                partition.watermark_ms = closing_ms
            yield self._advance(closing_ms)
        # What is open stays in the last cut, a half-filled batch too, for a log that follows; what a run leaves behind has
        # learned that batch.
        if self._is_changed or self._is_closed or dict(self._source.places()) != self._cut_places:
            yield Delivery(0, self._read_bytes, [], [], self._shown(), self._cut())
        yield Delivery(0, self._read_bytes, [], self._collated(self._batcher.flush()), self._shown())

    def _to_end_of_look(self, now_ms: int | None, first_watermark_ms: int | None) -> Iterator[Delivery]:
        """What comes due by the watermark that a look has brought."""
        self._look_ms = now_ms
        if (reached_ms := self._reached_ms()) is not None:
            for watermark_ms, is_cut in self._stops(first_watermark_ms, reached_ms):
                yield self._advance(watermark_ms, is_cut=is_cut)
        if now_ms is not None and self._has_lingered(now_ms):
            yield Delivery(0, self._read_bytes, [], self._collated(self._batcher.flush()), self._shown())
        self._look_ms = None

    def _has_lingered(self, now_ms: int) -> bool:
        """Live: whether the batch that is open has been so for longer than anybody wants to wait."""
        if not self._batcher.is_open:
            self._open_since = None
        elif self._open_since is None or self._open_since[0] != self._batcher.taken:
            self._open_since = self._batcher.taken, now_ms
        elif now_ms - self._open_since[1] >= self._settings.batching.linger_ms:
            return True
        return False

    def _reached_ms(self) -> int | None:
        """The watermark of all: the least of those that are not idle; where all are, the largest. It never falls."""
        live = [partition.watermark_ms for partition in self._partitions.values() if not partition.is_idle]
        if not live:
            idle = (partition.watermark_ms for partition in self._partitions.values())
            reached_ms = max((ms for ms in idle if ms is not None), default=None)
        elif None in live:
            reached_ms = None
        else:
            reached_ms = min(ms for ms in live if ms is not None)
        if reached_ms is None or self._watermark_ms is None:
            return self._watermark_ms if reached_ms is None else reached_ms
        return max(reached_ms, self._watermark_ms)

    def _stops(self, first_ms: int | None, watermark_ms: int) -> Iterator[tuple[int, bool]]:
        """The watermarks to halt at on the way to a new one, and whether a cut is due there: multiples of `cut_interval_ms` by
        which something happened, and the end.
        """
        reached_ms, interval_ms = self._watermark_ms, self._settings.cuts.cut_interval_ms
        if reached_ms is None:
            reached_ms = watermark_ms if first_ms is None else first_ms
        while True:
            if not self._is_changed:  # a log may have gaps of years, and the interval may be a millisecond
                next_ms = self._next_ms()
                reached_ms = watermark_ms if next_ms is None else max(reached_ms, next_ms)
            reached_ms = (reached_ms // interval_ms + 1) * interval_ms
            if reached_ms > watermark_ms:
                break
            yield reached_ms, True
        yield watermark_ms, False

    def _next_ms(self) -> int | None:
        nexts = (partition.next_ms for partition in self._partitions.values())
        return min((ms for ms in nexts if ms is not None), default=None)

    def _advance(self, watermark_ms: int, *, is_cut: bool = False) -> Delivery:
        """The way of every record, once the watermark has passed it."""
        parts: list[Examples] = []
        lines: list[tuple[str, bytes]] = []
        for partition in self._partitions.values():
            # Event -> JoinedImpression -> Example
            examples, sides, is_due = partition.advance(watermark_ms, is_halt=is_cut)
            self._is_changed = self._is_changed or is_due or bool(sides)
            count_leaving(self._figures, examples, sides)
            parts.append(examples)
            lines += [(f"{side.door}.jsonl", side_line(side)) for side in sides]
        examples = Examples.merged(parts)
        groups = chain(self._batcher.on_examples(examples), self._batcher.on_watermark(watermark_ms))
        collated = self._collated(groups)  # -> Batch
        self._watermark_ms = watermark_ms
        cut = self._cut() if is_cut and self._is_changed else None
        return Delivery(0, self._read_bytes, lines, collated, self._shown(), cut)

    def _collated(self, groups: Iterable[Examples]) -> list[Group]:
        found = []
        for examples in groups:
            # Time does not go back for the learner, whatever a partition that was idle comes back with.
            self._at_ms = max(self._at_ms, int(examples.due_ms.max()))
            found.append(self._collator.collate(examples, at_ms=self._at_ms))
        return found

    def _closing_ms(self) -> int:
        """A watermark by which everything is due that has been read, and every hour complete."""
        windows = self._settings.windows
        longest_ms = windows.click_window_ms + windows.attribution_window_ms + self._settings.orphan_hold_ms + HOUR_MS
        return max(self._watermark_ms or 0, (self._figures.max_event_time_ms or 0) + longest_ms + 1)

    def _shown(self) -> IngestFigures:
        figures = self._figures
        figures.watermark_ms = self._watermark_ms
        figures.feature_faults = dict(self._collator.faults)
        for name in PARTITION_FIGURES:
            setattr(figures, name, sum(partition.figure(name) for partition in self._partitions.values()))
        figures.partitions = {
            p: PartitionFigures(watermark_ms=own.watermark_ms, is_idle=own.is_idle, held_ms=own.held_ms)
            for p, own in self._partitions.items()
        }
        return copy_figures(figures)

    def _cut(self) -> IngestState:
        self._is_changed = False
        self._cut_places = dict(self._source.places())
        since = self._open_since
        return IngestState(
            places=self._cut_places,
            source=self._source.snapshot(),
            partitions={p: partition.snapshot() for p, partition in self._partitions.items()},
            watermark_ms=self._watermark_ms,
            at_ms=self._at_ms,
            batch=self._batcher.snapshot(),
            figures=self._shown(),
            is_closed=self._is_closed,
            open_since_ms=since[1] if since is not None and since[0] == self._batcher.taken else None,
            look_ms=self._look_ms,
        )

    def restore(self, state: IngestState) -> None:
        """Takes up where a cut was taken; the source must have been brought there."""
        for p, partition in self._partitions.items():
            partition.restore(state.partitions[p])
        self._watermark_ms, self._at_ms = state.watermark_ms, state.at_ms
        self._batcher.restore(state.batch)
        self._figures = copy_figures(state.figures)
        self._collator.faults.update(state.figures.feature_faults)
        self._open_since = None if state.open_since_ms is None else (self._batcher.taken, state.open_since_ms)
        self._cut_places, self._look_ms = state.places, state.look_ms


def collator_of(settings: Settings) -> Collator:
    """What makes batches of examples under these settings."""
    method = method_of(settings.labels.method)
    looks_ms = 0 if method.observes_at_click else settings.windows.observation_window_ms
    return Collator(
        settings.features,
        edges_ms=policy_of(settings, {} if settings.labels.method == "oracle" else None).edges_ms,
        heads_window_ms=looks_ms if settings.labels.delay_model == "heads" else None,
        set_aside=SetAside.of(settings.gate),
    )
