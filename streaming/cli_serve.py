"""The part of the command line that serves scores. Picks where weights are read and how it is asked; everything else is done elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.connection import API_KEY
from streaming.console import ERR, warn
from streaming.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from streaming.ports import WeightsSource

_GRACE_S = 10  # what is being answered when a stop is asked for may take so long
_KEEP_ALIVE_S = (
    75  # longer than the minute after which load balancers let go of a silent connection: they should be first
)
_SWITCH_S = 0.0005  # how long the thread that loads weights may hold the interpreter while a request waits; Python's own is 5 ms


class ServeError(OSError):
    """The scorer cannot be started; the message says why and what to do."""


def serve(
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            help="Where weights are published: a directory (RUN or RUN/weights), redis://HOST:PORT, or redis or kafka as the settings say.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings (TOML), of which \\[serving] counts. Default: settings.toml beside the weights, else the defaults.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 lets the system choose.")] = 8080,
    poll_ms: Annotated[
        int, typer.Option(min=10, max=3_600_000, help="Milliseconds between two looks for a newer version.")
    ] = 1_000,
) -> None:
    """Score over HTTP with the newest published weights: POST /score, /healthz, /readyz, /metrics, /docs.

    AFTERCLICK_SERVING__API_KEY, where set, must come with every request for scores, in x-api-key.
    """
    try:
        import uvicorn

        from streaming.adapters.http import scorer
    except ModuleNotFoundError as error:
        raise ServeError(f"{error.name} is not installed: pip install 'afterclick[serve]'") from error
    import torch

    from streaming.reader import WeightsReader, following
    from streaming.readiness import not_ready

    source, settings = _source(weights, config)
    torch.set_num_threads(settings.serving.threads)
    sys.setswitchinterval(_SWITCH_S)
    api_key = os.environ.get(API_KEY)
    if api_key == "":
        raise SettingsError(f"{API_KEY} must not be empty: set it to a key, or unset it to ask for none")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise SettingsError(
            f"{API_KEY} must be printable ASCII without a space at either end: clients write other characters in other ways"
        )
    reader = WeightsReader(source)
    with closing(_listen(host, port)) as listener, following(reader, poll_ms=poll_ms):
        for reason in not_ready(reader, settings.serving):
            warn(f"not ready yet; {reason}")
        at = listener.getsockname()
        shown = f"[{at[0]}]" if ":" in at[0] else at[0]
        ERR.print(f"serving scores from {weights} on http://{shown}:{at[1]} (Ctrl-C stops)", markup=False, style="dim")
        server = uvicorn.Server(
            uvicorn.Config(
                scorer(reader, settings.serving, api_key=api_key),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop asked for in either way ends well
        with suppress(KeyboardInterrupt):  # raised once all that was being answered is answered
            server.run(sockets=[listener])


def _source(weights: str, config: Path | None) -> tuple[WeightsSource, Settings]:
    """Where weights are read, and the settings that go with them."""
    from streaming.target_choice import source_at

    path = Path(weights)
    beside = (path if (path / "weights").is_dir() else path.resolve().parent) / "settings.toml"
    settings = load(beside if config is None and path.is_dir() and beside.is_file() else config)
    return source_at(weights, settings, os.environ, option="--weights"), settings


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise ServeError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror or error}): choose another port, or stop who holds it"
        ) from error
