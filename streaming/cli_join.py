"""The part of the command line that shares out the join. Says what was done and what went wrong; everything else is done elsewhere."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from streaming.console import warn
from streaming.settings import SettingsError, load


def join(
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings (TOML); \\[kafka] says which brokers and topics.")
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            help="Where snapshots of the join are kept: a directory that all workers share, or redis://host:port/db. The password, if there is one, in AFTERCLICK_REDIS__PASSWORD.",
        ),
    ] = "join-snapshots",
    metrics_host: Annotated[str, typer.Option(help="Address to serve metrics on; 0.0.0.0 is every one.")] = "127.0.0.1",
    worker_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics of this worker at http://HOST:PORT/metrics.")
    ] = None,
) -> None:
    """Join and label what comes by Kafka, as one of any number of workers, and append the examples to a topic for `afterclick train`.

    Each worker holds some of the partitions; start as many as there are, at most. Killed at any moment, none loses an example.
    """
    try:
        from streaming.adapters.faust_join import FaustJoin
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("faust", "aiokafka", "mode"):
            raise
        raise SettingsError(
            f"`afterclick join` needs Faust, which is not installed ({error}): pip install 'afterclick[faust]'"
        ) from error
    from streaming.adapters.join_snapshots import JoinSnapshots, open_shelf
    from streaming.adapters.kafka_offsets import KafkaOffsets
    from streaming.adapters.kafka_sink import KafkaSink
    from streaming.adapters.prometheus import JoinCollector
    from streaming.adapters.prometheus import serve as serve_metrics
    from streaming.connection import credentials
    from streaming.crashing import CrashAt
    from streaming.join_worker import JoinWorker

    settings = load(config)
    secret, group = credentials(os.environ), f"{settings.kafka.model}.join"
    snapshots = JoinSnapshots(open_shelf(store, os.environ), settings.kafka.model, kept=settings.kafka.snapshots_kept)
    offsets = KafkaOffsets(settings, secret, group)
    try:
        partitions = offsets.partitions()
        sink = KafkaSink(settings.kafka, secret)
        try:
            for stem in ("examples", "dead-letters", "late"):
                sink.partitions(stem)
            worker = JoinWorker(settings, sink=sink, offsets=offsets, snapshots=snapshots, at_step=CrashAt(os.environ))
            faust = FaustJoin(settings, secret, group, worker, partitions=partitions, tell=warn)
            server = None
            if worker_port is not None:
                collector = JoinCollector(
                    lambda: faust.metrics,
                    clock=lambda: time.time_ns() // 1_000_000,
                    commit_age=lambda: faust.commit_age_s,
                )
                server = serve_metrics(collector, worker_port, host=metrics_host)
            try:
                faust.run()
            finally:
                if server is not None:
                    server.close()
        finally:
            sink.close()
    finally:
        offsets.close()
