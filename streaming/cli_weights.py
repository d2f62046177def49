"""The part of the command line that looks at published weights. Says what was found; everything else is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streaming.console import print_json, print_table

weights = typer.Typer(no_args_is_help=True, help="Look at published weights.")

Run = Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")]


@weights.command("list")
def weights_list(run: Run, as_json: Json = False) -> None:
    """List the versions that RUN has published, the newest last."""
    from streaming.adapters.directory_source import DirectoryError, list_versions
    from streaming.lab.durations import utc

    versions = list_versions(run / "weights")
    if not versions:
        raise DirectoryError(f"{run / 'weights'} holds no weights: name the directory that `afterclick replay` wrote")
    if as_json:
        print_json(versions)
        return
    rows: list[list[str]] = []
    for version in versions:
        manifest, state = version.manifest, "current" if version.is_current else version.damage or ""
        if manifest is None:
            rows.append([version.name, "", "", "", state])
            continue
        when = "" if manifest.watermark_ms is None else utc(manifest.watermark_ms)
        embedded = sum(entry.shape[0] for name, entry in manifest.tensors.items() if name.endswith(".ids"))
        size = sum(part.size for part in manifest.parts.values())
        rows.append([version.name, when, f"{embedded:,}", f"{size:,}", state])
    print_table(f"Weights in {run}", ["version", "event time", "embedding rows", "bytes", ""], rows)


@weights.command("show")
def weights_show(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(help="EPOCH-VERSION as listed; default: the current one.", metavar="VERSION")
    ] = None,
) -> None:
    """Show what a version was made of, as JSON; every byte of it is verified first."""
    from streaming.adapters.directory_source import read_version

    published = read_version(run / "weights", name)
    typer.echo(msgspec.json.format(msgspec.json.encode(published.manifest), indent=2).decode())


@weights.command("diff")
def weights_diff(
    run: Run,
    one: Annotated[str, typer.Argument(help="The earlier version.", metavar="A")],
    other: Annotated[str, typer.Argument(help="The later version.", metavar="B")],
    as_json: Json = False,
) -> None:
    """Say what changed from one version to another: rows added, gone and moved most, dense layers."""
    from models.weights import decode, difference
    from streaming.adapters.directory_source import read_version

    found = difference(decode(read_version(run / "weights", one)), decode(read_version(run / "weights", other)))
    print_json(found) if as_json else typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
