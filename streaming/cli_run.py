"""The part of the command line that runs a model live. Says what was done and what went wrong; everything else is done elsewhere."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.console import note, print_json, print_rows, progress, warn
from streaming.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from models.weights import Weights
    from streaming.live_run import Of


Out = Annotated[Path, typer.Option("--out", help="Directory of the run; gone on from its newest cut if there is one.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Settings (TOML); \\[kafka] says which brokers and topics. Default: OUT/settings.toml."
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from", help="Where a new run begins to read: earliest, latest, or a time (ISO 8601, or UTC epoch ms)."
    ),
]
WarmStart = Annotated[
    str | None,
    typer.Option(
        "--warm-start",
        help="Published weights that a new run begins with, of other features perhaps: a run or its weights, redis://HOST:PORT, or redis or "
        "kafka as the settings say; :EPOCH-VERSION behind it asks for another version than the current one.",
    ),
]
MetricsHost = Annotated[str, typer.Option(help="Address to serve them on; 0.0.0.0 is every one.")]
MetricsPort = Annotated[
    int | None, typer.Option(help="Serve Prometheus metrics at http://HOST:PORT/metrics while it runs.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")]


def run(
    out: Out,
    config: Config = None,
    begin: From = "earliest",
    warm_start: WarmStart = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", help="Directory for a tape of all that is read; `afterclick replay` takes it as a log."
        ),
    ] = None,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    as_json: Json = False,
) -> None:
    """Join, label, learn, score, cut and publish what comes by Kafka, until it is told to stop (Ctrl-C, SIGTERM).

    The same command starts a run and goes on with it. Stopped, or killed at any moment, it loses nothing and learns nothing twice.
    """
    _go(out, config, begin, "events", warm_start, record=record, host=metrics_host, port=metrics_port, as_json=as_json)


def train(
    out: Out,
    config: Config = None,
    begin: From = "earliest",
    warm_start: WarmStart = None,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    as_json: Json = False,
) -> None:
    """Learn, score, cut and publish what `afterclick join` workers make of events, until it is told to stop (Ctrl-C, SIGTERM).

    Each example is learned once, however often a worker that was killed has sent it. The same command starts it and goes on with it.
    """
    _go(out, config, begin, "examples", warm_start, record=None, host=metrics_host, port=metrics_port, as_json=as_json)


def beginning(warm_start: str | None, settings: Settings, *, resume: bool = False) -> Callable[[], Weights] | None:
    """Reads the weights that a new run is to begin with; None if it begins cold."""
    if warm_start is None:
        return None
    from streaming.warm_start import weights_named

    if resume:
        raise SettingsError(
            f"--warm-start {warm_start} and --resume do not go together: the one begins a run, the other goes on with what is in --out; "
            "leave one of them out"
        )
    return weights_named(warm_start, settings, os.environ)


def _go(
    out: Path,
    config: Path | None,
    begin: str,
    of: Of,
    warm_start: str | None,
    *,
    record: Path | None,
    host: str,
    port: int | None,
    as_json: bool,
) -> None:
    from streaming.adapters.prometheus import RunCollector
    from streaming.adapters.prometheus import serve as serve_metrics
    from streaming.lab.summary import run_rows, run_warnings
    from streaming.live_run import LiveRun
    from streaming.metrics import RunMetrics

    settings = load(out / "settings.toml" if config is None and (out / "settings.toml").is_file() else config)
    latest = RunMetrics()
    server = None
    if port is not None:
        collector = RunCollector(lambda: latest, clock=lambda: time.time_ns() // 1_000_000)
        server = serve_metrics(collector, port, host=host)
    try:
        first = beginning(warm_start, settings)
        live = LiveRun(
            out, settings, begin=begin, record=record, environ=os.environ, of=of, tell=warn, warm_start=first
        )
        note(live.begun_with)
        for reason in live.passed_over:
            warn(f"{reason}; the cut before it is used")
        before = {number: signal.signal(number, _stopping(live.stop)) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with progress(f"learning from the {of} of {settings.kafka.model}", None) as done:
                records, shown = 0, 0.0
                for count in live.run():
                    records += count
                    done(records)
                    if server is not None and time.monotonic() - shown > 1.0:
                        latest, shown = live.pipeline.live_metrics(), time.monotonic()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            live.close()
    finally:
        if server is not None:
            server.close()
    metrics = live.pipeline.metrics()
    print_json(metrics) if as_json else print_rows(f"Stopped; {out} can be gone on with", run_rows(metrics, out))
    for warning in run_warnings(metrics, out):
        warn(warning)


def _stopping(stop: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    """A signal handler that asks to stop; asked again a second later, nobody waits any longer."""
    asked: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked and time.monotonic() - asked[0] > 1.0:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked.append(time.monotonic())
        stop()

    return handle
