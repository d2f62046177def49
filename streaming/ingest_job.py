"""What an ingest is told to do, as a value that can go to another process, and the doing of it. Must not know in which one it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from streaming.adapters.files import BLOCK_BYTES
from streaming.adapters.pace import Paced
from streaming.deliveries import Delivery, IngestState
from streaming.ingest import Ingest, find_outcomes
from streaming.label import Outcome
from streaming.log_source import LogSource
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


def deliveries_of(job: LogJob) -> Iterator[Delivery]:
    """Does a job."""
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


class IngestHere:
    """A `Feed` that does its job in this process.

    Args:
        job: of where to go on and whether to close at the end.
    """

    def __init__(self, job: Callable[[IngestState | None, bool], LogJob]) -> None:
        self._job = job
        self._state: IngestState | None = None

    def restore(self, state: IngestState) -> None:
        """Takes up where a cut was taken."""
        self._state = state

    def deliveries(self, *, close_at_end: bool = False) -> Iterator[Delivery]:
        """What the log brings, to its end."""
        return deliveries_of(self._job(self._state, close_at_end))
