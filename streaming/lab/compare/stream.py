"""One method's examples out of a log, batch by batch, and a learner led through them; must not know what is compared with what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from streaming.batching import Batcher, is_row
from streaming.examples import Example, Examples, Kind
from streaming.join import Join
from streaming.label import Outcome
from streaming.log_file import Place
from streaming.log_source import LogSource
from streaming.partitions import join_windows, policy_of
from streaming.settings import Settings

HOUR_MS = 3_600_000


class Group(NamedTuple):
    """The examples of one batch.

    Args:
        rows: those that are learned together. aged: those that teach the delay model.
        outcomes: those that tell what finally became of a click.
        at_ms: event time of the batch, the due time of its last example.
    """

    rows: Examples
    aged: list[Example]
    outcomes: list[Example]
    at_ms: int


def as_compared(settings: Settings, method: str, seed: int) -> Settings:
    """The settings that a run of a method has: its name, the seed, batches within an hour, one thread, as runs share the cores."""
    replace = msgspec.structs.replace
    return replace(
        settings,
        labels=replace(settings.labels, method=method),
        network=replace(settings.network, seed=seed, threads=1),
        batching=replace(settings.batching, batch_interval_ms=min(settings.batching.batch_interval_ms, HOUR_MS)),
    )


class Stream:
    """The batches of a log under the method of its settings.

    Args:
        log: directory of the log.
        settings: of the run.
        places: where to start reading; None is the log's start.
        outcomes: `oracle` alone: what finally became of each click.
    """

    def __init__(
        self,
        log: Path,
        settings: Settings,
        *,
        places: Mapping[str, Place] | None = None,
        outcomes: Mapping[tuple[str, int], Outcome] | None = None,
    ) -> None:
        windows, batching = settings.windows, settings.batching
        self.source = LogSource(log, settings, places)
        self._policy = policy_of(settings, outcomes)
        self.edges_ms = self._policy.edges_ms
        self._join = Join(join_windows(settings), self._policy.schedule)
        self._batcher = Batcher(batch_size=batching.batch_size, batch_interval_ms=batching.batch_interval_ms)
        self._longest_ms = windows.click_window_ms + windows.attribution_window_ms + settings.orphan_hold_ms

    def groups(self, *, close_at_end: bool = False) -> Iterator[Group]:
        """The batches in order; with `close_at_end` also those that are due after the log's end, as if nothing more came."""
        latest_ms: int | None = None
        for arrivals in self.source:
            self._join.on_arrivals(arrivals)
            if arrivals.watermark_ms is not None:
                latest_ms = max(latest_ms or 0, int(arrivals.times.max(initial=0)))
                yield from self._until(arrivals.watermark_ms)
        if close_at_end and latest_ms is not None:
            yield from self._until(latest_ms + self._longest_ms + 1)
        yield from map(_group, self._batcher.flush())

    def _until(self, watermark_ms: int) -> Iterator[Group]:
        examples = self._policy.on_due(self._join.on_watermark(watermark_ms)[0])
        groups = chain(self._batcher.on_examples(examples), self._batcher.on_watermark(watermark_ms))
        return map(_group, groups)


def _group(examples: Examples) -> Group:
    return Group(
        rows=examples.where(is_row(examples)),
        aged=examples.of_kind(Kind.AGED),
        outcomes=examples.of_kind(Kind.OUTCOME),
        at_ms=int(examples.due_ms[-1]),
    )
