"""The part of the command line that looks at published weights, and puts older ones back. Says what was found; everything else is done elsewhere."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from streaming.console import print_json, print_table, warn

weights = typer.Typer(no_args_is_help=True, help="Look at published weights, and put older ones back.")

Run = Annotated[Path, typer.Argument(help="Directory of a run, or its weights.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")]


def _run_of(run: Path) -> Path:
    """The run that is meant: itself, or its weights. A directory that is neither is refused before anything is read or written."""
    from streaming.adapters.directory_source import DirectoryError

    if run.resolve().name == "weights" and (run / "epochs").is_dir():
        return run.resolve().parent
    if not ((run / "weights").is_dir() or (run / "run.json").is_file()):
        raise DirectoryError(
            f"RUN {run} holds no weights: name the directory that `afterclick replay`, `run` or `train` wrote"
        )
    return run


@weights.command("list")
def weights_list(run: Run, as_json: Json = False) -> None:
    """List the versions that RUN has published, the newest last."""
    from streaming.adapters.directory import DirectoryPublisher
    from streaming.adapters.directory_source import DirectoryError, list_versions
    from streaming.lab.durations import utc

    run = _run_of(run)
    versions = list_versions(run / "weights")
    if not versions:
        raise DirectoryError(f"RUN {run} has published no weights yet")
    if as_json:
        print_json(versions)
        return
    rows: list[list[str]] = []
    for version in versions:
        manifest, state = version.manifest, "current" if version.is_current else version.damage or ""
        if manifest is None:
            rows.append([version.name, "", "", "", "", state])
            continue
        when = "" if manifest.watermark_ms is None else utc(manifest.watermark_ms)
        embedded = sum(entry.shape[0] for name, entry in manifest.tensors.items() if name.endswith(".ids"))
        size = sum(part.size for part in manifest.parts.values())
        kind = manifest.kind if manifest.base_version is None else f"delta to {manifest.base_version}"
        if manifest.republishes is not None:
            kind += f", {manifest.republishes} anew"
        rows.append([version.name, when, kind, f"{embedded:,}", f"{size:,}", state])
    print_table(f"Weights in {run}", ["version", "event time", "kind", "embedding rows", "bytes", ""], rows)
    if (held := DirectoryPublisher(run / "weights", versions_kept=1).held()) is not None:
        warn(f"publishing is held: {held}; `afterclick weights release {run}` lets it go on")


@weights.command("show")
def weights_show(
    run: Run,
    name: Annotated[
        str | None,
        typer.Argument(
            help="EPOCH-VERSION as listed, or the number alone; default: the current one.", metavar="VERSION"
        ),
    ] = None,
) -> None:
    """Show what a version was made of, as JSON; every byte of it is verified first."""
    from streaming.adapters.directory_source import read_version

    published = read_version(_run_of(run) / "weights", name)
    typer.echo(msgspec.json.format(msgspec.json.encode(published.manifest), indent=2).decode())


@weights.command("diff")
def weights_diff(
    run: Run,
    one: Annotated[str, typer.Argument(help="The earlier version, as listed, or its number.", metavar="A")],
    other: Annotated[str, typer.Argument(help="The later version, likewise.", metavar="B")],
    as_json: Json = False,
) -> None:
    """Say what changed from one version to another: rows added, gone and moved most, dense layers."""
    from models.weights import difference
    from streaming.adapters.directory_source import DirectorySource, parse_version
    from streaming.whole import read_whole

    path = _run_of(run) / "weights"
    source = DirectorySource(path)
    before, after = (read_whole(source, *parse_version(path, name)) for name in (one, other))
    found = difference(before, after)
    print_json(found) if as_json else typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


@weights.command("rollback")
def weights_rollback(
    run: Run,
    name: Annotated[str, typer.Argument(help="EPOCH-VERSION as listed, or the number alone.", metavar="VERSION")],
) -> None:
    """Publish an older version anew, wherever RUN publishes, and hold publishing until `weights release`.

    The run may go on meanwhile: it learns, and what it would publish is refused.
    """
    from models.manifest import version_name
    from streaming.adapters.directory_source import DirectorySource, parse_version
    from streaming.rollback import roll_back
    from streaming.settings import load
    from streaming.target_choice import every_target, source_of

    run = _run_of(run)
    name = version_name(*parse_version(run / "weights", name))
    settings = load(run / "settings.toml", os.environ)
    with ExitStack() as opened:
        targets = every_target(run, settings, os.environ)
        for target in targets.values():
            opened.callback(target.close)
        sources = [source_of(target, run, settings, os.environ) for target in settings.publishing.targets]
        for source in sources:
            opened.callback(source.close)
        now = roll_back(targets, sources, DirectorySource(run / "weights"), name)
    typer.echo(f"{name} is current again, as {now}; publishing is held until `afterclick weights release {run}`")


@weights.command("release")
def weights_release(run: Run) -> None:
    """Let RUN publish again, after a rollback; its next version is a snapshot."""
    from streaming.rollback import release
    from streaming.settings import load
    from streaming.target_choice import every_target

    run = _run_of(run)
    targets = every_target(run, load(run / "settings.toml", os.environ), os.environ)
    try:
        release(targets)
    finally:
        for target in targets.values():
            target.close()
    typer.echo(f"publishing of {run} goes on with its next version")
