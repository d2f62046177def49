"""A replay put together: log files, or a tape, in, a run directory out. Must not know what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from models.weights import Weights
from streaming.adapters.files import LogError
from streaming.adapters.ingest_process import IngestProcess
from streaming.adapters.tape import TAPE, TapeError, read_tape
from streaming.deliveries import IngestState
from streaming.ingest_job import IngestHere, Job, LogJob, TapeJob
from streaming.log_source import LogSource
from streaming.ports import Feed
from streaming.run import Run, refuse_unusable
from streaming.settings import Settings, SettingsError

REMOTE_ERRORS: dict[str, type[Exception]] = {"LogError": LogError, "TapeError": TapeError}
_REMEDY = "go on from the last cut with --resume, or use one process with --processes 1"


class Replay(Run):
    """A log replayed into a run directory.

    Args:
        log: directory of the log, or of a tape that `afterclick run --record` wrote.
        speed: event time that passes in a second of processing time, in seconds; None is as fast as can be. Of a log alone.
        processes: 2 to read records in a process of its own while batches are learned in this one; what comes out is the same.
        out, settings, resume, environ, tell, warm_start: see `Run`.

    Raises:
        LogError: the log cannot be read. TapeError: the tape cannot. And what `Run` raises.
    """

    def __init__(
        self,
        log: Path,
        out: Path,
        settings: Settings,
        *,
        resume: bool = False,
        speed: float | None = None,
        processes: int = 1,
        environ: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda text: None,
        warm_start: Callable[[], Weights] | None = None,
    ) -> None:
        refuse_unusable(settings)
        self.size_bytes: int | None = None
        if (log / TAPE).is_file():
            read_tape(log)
            if speed is not None:
                raise SettingsError("--speed is for logs: a tape holds the processing times at which it was polled")
            if settings.labels.method == "oracle":
                raise SettingsError("labels.method = 'oracle' needs a first pass over a log; a tape is read once")
            # Its settings are those of the run that recorded it, and where that one publishes it must not take over.
            here = msgspec.structs.replace(settings.publishing, targets=("directory",))
            settings = msgspec.structs.replace(settings, publishing=here)
        else:  # so that a log that is none is refused before anything is written
            source = LogSource(log, settings)
            self.size_bytes = source.size_bytes
            source.close()
        job = partial(_job, log, settings, speed)
        feed: Feed = (
            IngestHere(job) if processes == 1 else IngestProcess(partial(_encoded, job), REMOTE_ERRORS, remedy=_REMEDY)
        )
        super().__init__(out, settings, feed, resume=resume, environ=environ, tell=tell, warm_start=warm_start)

    @property
    def read_bytes(self) -> int:
        """Of the log, unpacked, as far as it has been learned; `size_bytes` is the most it can be, None where that cannot be known
        beforehand.
        """
        return self.pipeline.read_bytes


def _job(log: Path, settings: Settings, speed: float | None, state: IngestState | None, close_at_end: bool) -> Job:
    if (log / TAPE).is_file():
        return TapeJob(str(log), settings, state, close_at_end)
    return LogJob(str(log), settings, speed, state, close_at_end)


def _encoded(job: partial[Job], state: IngestState | None, close_at_end: bool) -> bytes:
    return msgspec.msgpack.encode(job(state, close_at_end))
