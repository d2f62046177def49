"""A live run put together: topics in, a run directory out, dead letters and late records to topics too. Must not know what is learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from models.weights import Weights
from streaming.adapters.ingest_process import IngestProcess
from streaming.adapters.kafka import parse_beginning
from streaming.adapters.kafka_connection import BrokerError
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.mirrored import Mirrored
from streaming.adapters.run_directory import RunDirectoryError
from streaming.adapters.tape import TapeError
from streaming.connection import credentials
from streaming.deliveries import IngestState
from streaming.ingest_job import ExamplesJob, KafkaJob
from streaming.run import Run, refuse_unusable
from streaming.settings import Settings, SettingsError, dump

Of = Literal["events", "examples"]
MIRRORED = {"dead_letters.jsonl": "dead-letters", "late.jsonl": "late"}
"""Outputs whose lines go to a topic as well."""


class LiveRun(Run):
    """The topics of a model, read by a process of their own and learned in this one: its events, or examples that joiners made of them.

    It goes on from the newest cut in `out` if there is one, so that the same command starts it and starts it again.

    Args:
        begin: where to start reading without a cut: earliest, latest, a time.
        record: directory of a tape of all that is polled; of events alone.
        of: "events" or "examples".
        environ: also holds who asks the brokers, see `credentials`.
        out, settings, tell, warm_start: see `Run`.

    Raises:
        BrokerError: the brokers or topics cannot be used. And what `Run` raises.
    """

    def __init__(
        self,
        out: Path,
        settings: Settings,
        *,
        begin: str,
        record: Path | None,
        environ: Mapping[str, str],
        of: Of = "events",
        tell: Callable[[str], None] = lambda text: None,
        warm_start: Callable[[], Weights] | None = None,
    ) -> None:
        refuse_unusable(settings)
        parse_beginning(begin)
        if settings.labels.method == "oracle":
            raise SettingsError("labels.method = 'oracle' looks into the future: it is for replays of a log alone")
        if out.is_dir() and any(out.iterdir()) and not (out / "settings.toml").is_file():
            raise RunDirectoryError(f"--out {out} holds something that is no run: choose another directory")

        def job(state: IngestState | None, close_at_end: bool) -> bytes:
            if of == "examples":
                return msgspec.msgpack.encode(ExamplesJob(settings, begin, state))
            return msgspec.msgpack.encode(KafkaJob(settings, begin, None if record is None else str(record), state))

        if record is not None and not (record / "settings.toml").is_file():  # a tape is replayed under its own settings
            record.mkdir(parents=True, exist_ok=True)
            (record / "settings.toml").write_bytes(dump(settings).encode())
        errors = {"BrokerError": BrokerError, "TapeError": TapeError, "RunDirectoryError": RunDirectoryError}
        feed = IngestProcess(job, errors)
        self._sink = KafkaSink(settings.kafka, credentials(environ))
        try:
            for stem in MIRRORED.values():
                self._sink.partitions(stem)
            super().__init__(
                out,
                settings,
                feed,
                resume=True,
                environ=environ,
                through=lambda output: Mirrored(output, self._sink, MIRRORED),
                tell=tell,
                warm_start=warm_start,
            )
        except BaseException:
            self._sink.close()
            raise
        self._feed = feed

    def stop(self) -> None:
        """Asks it to come to its end: what has been read is learned, and a cut is taken. May be called from a signal handler."""
        self._feed.stop()

    def close(self) -> None:
        """Lets go of the brokers."""
        self._sink.close()
