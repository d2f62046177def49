"""What an ingest is told to do, as a value that can go to another process, and the doing of it. Must not know in which one it is."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from streaming.adapters.files import BLOCK_BYTES
from streaming.adapters.kafka import KafkaPolls, parse_beginning
from streaming.adapters.pace import Paced
from streaming.adapters.tape import TapePolls, TapeWriter
from streaming.arrivals import Arrivals
from streaming.connection import credentials
from streaming.deliveries import Delivery, IngestState
from streaming.ingest import Ingest
from streaming.label import Outcome
from streaming.live import LiveSource, Polled, Polls
from streaming.log_file import Place
from streaming.log_source import LogSource
from streaming.partitions import ExamplePartition, find_outcomes
from streaming.polled_blocks import BlockSource
from streaming.settings import Settings

PACED_BLOCK_BYTES = 4096
"""Read at a time where records come no faster than they were logged."""


class LogJob(msgspec.Struct, frozen=True, tag="log"):
    """Ingest the files of a log.

    Args:
        log: directory. settings: of the run. speed: see `Paced`; None is as fast as can be.
        state: where to go on. close_at_end: see `Ingest.deliveries`.
    """

    log: str
    settings: Settings
    speed: float | None
    state: IngestState | None
    close_at_end: bool


class TapeJob(msgspec.Struct, frozen=True, tag="tape"):
    """Ingest a tape: what an earlier run polled."""

    tape: str
    settings: Settings
    state: IngestState | None
    close_at_end: bool


class KafkaJob(msgspec.Struct, frozen=True, tag="kafka"):
    """Ingest the topics of a model, until somebody asks to stop. Who asks the brokers is told by the environment.

    Args:
        begin: where to start without a state, see `parse_beginning`. record: directory of a tape of what is polled.
    """

    settings: Settings
    begin: str
    record: str | None
    state: IngestState | None


class ExamplesJob(msgspec.Struct, frozen=True, tag="examples"):
    """Ingest what joiners have sent, until somebody asks to stop."""

    settings: Settings
    begin: str
    state: IngestState | None


Job = LogJob | TapeJob | KafkaJob | ExamplesJob


def deliveries_of(job: Job, stop: threading.Event | None = None) -> Iterator[Delivery]:
    """Does a job; once `stop` is set a live one comes to its end."""
    if isinstance(job, LogJob):
        return _of_log(job)
    if isinstance(job, TapeJob):
        return _of_tape(job)
    if isinstance(job, ExamplesJob):
        return _of_examples(job, stop or threading.Event())
    return _of_kafka(job, stop or threading.Event())


def _of_log(job: LogJob) -> Iterator[Delivery]:
    settings, places = job.settings, None if job.state is None else job.state.places
    outcomes: dict[tuple[str, int], Outcome] | None = None
    if settings.labels.method == "oracle":
        outcomes = find_outcomes(LogSource(Path(job.log), settings), settings)
    block_bytes = BLOCK_BYTES if job.speed is None else PACED_BLOCK_BYTES
    source = LogSource(Path(job.log), settings, places, block_bytes=block_bytes)
    ingest = Ingest(settings, source if job.speed is None else Paced(source, job.speed), outcomes)
    if job.state is not None:
        ingest.restore(job.state)
    try:
        yield from ingest.deliveries(close_at_end=job.close_at_end)
    finally:
        source.close()


def _of_tape(job: TapeJob) -> Iterator[Delivery]:
    polls = TapePolls(Path(job.tape))
    source = _Live(polls, job.settings, partitions=polls.tape.partitions, places=polls.tape.places(), state=job.state)
    yield from source.ingest(job.settings, close_at_end=job.close_at_end)


def _of_kafka(job: KafkaJob, stop: threading.Event) -> Iterator[Delivery]:
    places = None if job.state is None else job.state.places
    polls = KafkaPolls(
        job.settings, credentials(os.environ), begin=parse_beginning(job.begin), places=places, tell=_tell
    )
    tape: TapeWriter | None = None
    try:
        if job.record is not None:
            tape = TapeWriter(Path(job.record), partitions=polls.partitions, starts=polls.starts)
        source = _Live(
            _Until(polls, stop),
            job.settings,
            partitions=polls.partitions,
            places=polls.starts,
            state=job.state,
            tape=tape,
        )
        yield from source.ingest(job.settings, close_at_end=False)
    finally:
        if tape is not None:
            tape.close()
        polls.close()


def _of_examples(job: ExamplesJob, stop: threading.Event) -> Iterator[Delivery]:
    settings, places = job.settings, None if job.state is None else job.state.places
    begin, who = parse_beginning(job.begin), credentials(os.environ)
    polls = KafkaPolls(settings, who, stems=("examples",), begin=begin, places=places, tell=_tell)
    try:
        source = BlockSource(_Until(polls, stop), settings, partitions=polls.partitions, places=polls.starts)
        ingest = Ingest(settings, source, partition_of=lambda p: ExamplePartition())
        if job.state is not None:
            ingest.restore(job.state)
        yield from ingest.deliveries()
    finally:
        polls.close()


def _tell(text: str) -> None:
    print(f"afterclick: warning: {text}", file=sys.stderr, flush=True)


class _Until:
    """Polls that end once somebody asks to stop."""

    def __init__(self, polls: Polls, stop: threading.Event) -> None:
        self._polls, self._stop = polls, stop

    def poll(self, paused: frozenset[str]) -> Polled | None:
        return None if self._stop.is_set() else self._polls.poll(paused)


class _LiveState(msgspec.Struct, frozen=True):
    """What a live source must know beside its places: its clocks, and how long the files of its tape are."""

    clocks: Any
    tape: dict[str, int]


class _Live:
    """A live source, with a tape of it if one is wanted: both go into a cut together."""

    def __init__(
        self,
        polls: Polls,
        settings: Settings,
        *,
        partitions: int,
        places: dict[str, Place],
        state: IngestState | None,
        tape: TapeWriter | None = None,
    ) -> None:
        self._tape, self._state = tape, state
        tap: Callable[[Polled], None] = (lambda polled: None) if tape is None else tape.append
        started = places if state is None else state.places
        self._source = LiveSource(polls, settings, partitions=partitions, places=started, tap=tap)
        if state is not None:
            known = msgspec.convert(state.source, _LiveState)
            self._source.restore(known.clocks)
        if tape is not None:
            tape.cut_back({} if state is None else known.tape)

    @property
    def partitions(self) -> tuple[int, ...]:
        return self._source.partitions

    def __iter__(self) -> Iterator[Arrivals]:
        return iter(self._source)

    def places(self) -> dict[str, Place]:
        return self._source.places()

    def snapshot(self) -> Any:
        lengths = {} if self._tape is None else self._tape.sync()
        return msgspec.to_builtins(_LiveState(self._source.snapshot(), lengths))

    def ingest(self, settings: Settings, *, close_at_end: bool) -> Iterator[Delivery]:
        ingest = Ingest(settings, self)
        if self._state is not None:
            ingest.restore(self._state)
        return ingest.deliveries(close_at_end=close_at_end)


class IngestHere:
    """A `Feed` that does its job in this process.

    Args:
        job: of where to go on and whether to close at the end.
    """

    def __init__(self, job: Callable[[IngestState | None, bool], Job]) -> None:
        self._job = job
        self._state: IngestState | None = None

    def restore(self, state: IngestState) -> None:
        """Takes up where a cut was taken."""
        self._state = state

    def deliveries(self, *, close_at_end: bool = False) -> Iterator[Delivery]:
        """What comes of the job, to its end."""
        return deliveries_of(self._job(self._state, close_at_end))
