"""The part of the command line that makes topics, looks at them and feeds them. Says what was done; everything else is done elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.connection import credentials
from streaming.console import print_json, print_rows, print_table, progress, warn
from streaming.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from streaming.adapters.kafka_topics import Topic
    from streaming.log_file import Place

topics = typer.Typer(no_args_is_help=True, help="Make the topics of a model, and look at them.")

Config = Annotated[
    Path | None, typer.Option("--config", help="Settings (TOML); \\[kafka] says which brokers and topics.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")]


@topics.command("create")
def topics_create(config: Config = None, as_json: Json = False) -> None:
    """Make the topics that are not there: partitions, replication, how long records are kept. Those that are there stay as they are."""
    from streaming.adapters.kafka_topics import create_topics

    settings = load(config)
    made = create_topics(settings, credentials(os.environ))
    if as_json:
        print_json(made)
    else:
        rows = [
            [topic.topic, str(topic.partitions), _kept(topic.configs), "made" if topic.is_new else "was there"]
            for topic in made
        ]
        print_table(f"Topics of {settings.kafka.model}", ["topic", "partitions", "kept", ""], rows)
    for topic in made:
        for fault in topic.faults:
            warn(f"{topic.topic} {fault}")


@topics.command("describe")
def topics_describe(
    config: Config = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run: how far its newest cut is behind the ends of the topics.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the topics as they are: partitions, offsets, how long records are kept, how far RUN is behind, what is wrong. Exit code 1 on a fault."""
    from streaming.adapters.kafka_topics import describe_topics

    settings = load(run / "settings.toml" if config is None and run is not None else config)
    found = describe_topics(settings, credentials(os.environ), None if run is None else _places(run))
    if as_json:
        print_json(found)
    else:
        head = ["topic", "partition", "first", "end", *(["cut at", "lag"] if run is not None else []), "copies", "kept"]
        print_table(
            f"Topics of {settings.kafka.model} on {', '.join(settings.kafka.bootstrap_servers)}",
            head,
            [row for topic in found for row in _rows(topic, has_run=run is not None)],
        )
    faults = [(topic.topic, fault) for topic in found for fault in topic.faults]
    for name, fault in faults:
        warn(f"{name} {fault}")
    if faults:
        raise typer.Exit(1)


def _rows(topic: Topic, *, has_run: bool) -> list[list[str]]:
    rows = []
    for partition in topic.partitions:
        behind = [
            "" if partition.at is None else f"{partition.at:,}",
            "" if partition.lag is None else f"{partition.lag:,}",
        ]
        is_first = partition.p == 0
        rows.append(
            [
                topic.topic if is_first else "",
                str(partition.p),
                f"{partition.first:,}",
                f"{partition.end:,}",
                *(behind if has_run else []),
                str(topic.replication) if is_first else "",
                _kept(topic.configs) if is_first else "",
            ]
        )
    return rows


def _kept(configs: dict[str, str]) -> str:
    from streaming.lab.durations import in_words

    if configs.get("cleanup.policy") == "compact":
        return "newest of each key"
    kept_ms = int(configs.get("retention.ms", -1))
    return "for ever" if kept_ms < 0 else in_words(kept_ms)


def _places(run: Path) -> dict[str, Place]:
    """Where the newest cut of a run stands."""
    from streaming.adapters.cut_directory import CutDirectory
    from streaming.adapters.run_directory import RunDirectoryError

    cut, _, passed_over = CutDirectory(run / "cuts", load(run / "settings.toml", {})).newest()
    for reason in passed_over:
        warn(f"{reason}; the cut before it is used")
    if cut is None:
        raise RunDirectoryError(f"--run {run} has no cut yet: leave --run out, or wait for the first")
    return cut.ingest.places


def produce(
    log: Annotated[Path, typer.Argument(help="Directory with impressions, clicks and conversions.", metavar="LOG")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings (TOML). Default: LOG/settings.toml, else the defaults.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="Seconds of event time a second (60: an hour in a minute), or max.")
    ] = "max",
    as_json: Json = False,
) -> None:
    """Feed LOG into the topics, each record under its join key, in the order and with the gaps in which it was logged."""
    from streaming.adapters.files import BLOCK_BYTES
    from streaming.adapters.kafka_feed import KafkaFeed
    from streaming.adapters.kafka_sink import KafkaSink
    from streaming.adapters.pace import Paced
    from streaming.log_source import LogSource

    settings = _settings_of(log, config)
    source = LogSource(log, settings, block_bytes=BLOCK_BYTES if speed == "max" else 4096)
    try:
        paced = source if speed == "max" else Paced(source, _speed(speed))
        sink = KafkaSink(settings.kafka, credentials(os.environ))
        try:
            feed = KafkaFeed(sink, settings.kafka)
            with progress(f"producing {log}", source.size_bytes) as done:
                for arrivals in paced:
                    feed.produce(arrivals)
                    done(source.read_bytes if source.size_bytes is not None else sum(feed.produced.values()))
                sink.flush()
        finally:
            sink.close()
    finally:
        source.close()
    counts = {kind.stem: count for kind, count in feed.produced.items()}
    if as_json:
        print_json(counts)
    else:
        rows = [(settings.kafka.topic(stem), f"{count:,}") for stem, count in counts.items()]
        print_rows(f"Produced {log}", rows)


def _settings_of(log: Path, config: Path | None) -> Settings:
    if config is None and (log / "settings.toml").is_file():
        config = log / "settings.toml"
    return load(config)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise SettingsError(f"--speed must be a number above 0, or max (got {text!r})")
    return speed
