"""The command line. Says what was done and what went wrong; everything else is done elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from streaming.console import ERR, OUT, print_json, print_rows, print_table, progress, warn
from streaming.settings import Settings, SettingsError, load, parse

app = typer.Typer(
    name="afterclick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps click and conversion models fresh from event streams, although conversions come hours or days late.",
)
weights_app = typer.Typer(no_args_is_help=True, help="Look at published weights.")
app.add_typer(weights_app, name="weights")

Log = Annotated[Path, typer.Argument(help="Directory with impressions, clicks and conversions.", metavar="LOG")]
Run = Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings (TOML). Default: LOG/settings.toml, else suggested from a look at LOG."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line instead.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line (None: this process's own); what a user can mend goes to stderr as a sentence, with exit code 1 or 2."""
    try:
        app(arguments)
    except SettingsError as error:
        _fail(error, 2)
    except Exception as error:
        if not isinstance(error, _mendable()):
            raise
        _fail(error, 1)


def _mendable() -> tuple[type[Exception], ...]:
    """The errors whose message says what to do; anything else is a fault of ours and keeps its traceback."""
    from models.manifest import DamagedWeightsError
    from streaming.adapters.directory import DirectoryError
    from streaming.adapters.files import LogError
    from streaming.adapters.run_directory import RunDirectoryError
    from streaming.checkpoint import CutError
    from streaming.lab.explain import ExplainError
    from streaming.lab.importers import SourceError
    from streaming.lab.report.files import RunFilesError
    from streaming.lab.verify import VerifyError
    from streaming.pipeline import RunEndedError

    return (
        DamagedWeightsError, DirectoryError, LogError, RunDirectoryError, CutError, ExplainError, RunFilesError, SourceError,
        VerifyError, RunEndedError, OSError,
    )  # fmt: skip


def _fail(error: object, code: int) -> NoReturn:
    ERR.print(f"afterclick: error: {error}", style="red", markup=False)
    sys.exit(code)


def _settings_of(log: Path, config: Path | None) -> Settings:
    from streaming.lab.look import suggest_settings

    if config is None and (log / "settings.toml").is_file():
        config = log / "settings.toml"
    if config is not None:
        return load(config)
    ERR.print(f"no --config and no {log / 'settings.toml'}: settings are suggested from a look at the log", style="dim")
    return parse(suggest_settings(log), os.environ, source="suggested settings")


@app.command()
def init(log: Log) -> None:
    """Print commented settings (TOML) from a look at LOG: features and their kinds, windows, rates.

    afterclick init LOG > settings.toml
    """
    from streaming.lab.look import suggest_settings

    typer.echo(suggest_settings(log), nl=False)


@app.command()
def check(log: Log, config: Config = None, as_json: Json = False) -> None:
    """Say what is in LOG and what is wrong with it: disorder, delays, rates, suggested windows. Exit code 1 on an error in it."""
    from streaming.lab.check import check_log

    with progress(f"checking {log}", None):
        findings = check_log(log, _settings_of(log, config))
    if as_json:
        print_json(findings)
    else:
        print_rows(f"What is in {log}", findings.rows())
        colours = {"error": "red", "warning": "yellow", "note": "dim"}
        for problem in findings.problems:
            OUT.print(
                f"{problem.severity}: {problem.what}. {problem.remedy}", style=colours[problem.severity], markup=False
            )
        if not findings.problems:
            OUT.print("Nothing is wrong with it.", style="green")
    if any(problem.severity == "error" for problem in findings.problems):
        raise typer.Exit(1)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="Directory for the log; made if it is not there.", metavar="OUT")],
    impressions: Annotated[int, typer.Option(help="Impressions to show.")] = 200_000,
    days: Annotated[float, typer.Option(help="Days over which they are shown; conversions follow after that.")] = 14.0,
    seed: Annotated[int, typer.Option(help="The same seed and dials give the same bytes.")] = 0,
    dials: Annotated[
        list[str] | None,
        typer.Option(
            "--dial", help="NAME=VALUE, any dial of the world (streaming/lab/dials.py tells each); may be repeated."
        ),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Nothing goes wrong on the way: no late, lost or broken records.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a simulated log whose truth is known: users, items, late conversions, and everything that goes wrong on the way."""
    from streaming.lab.dials import parse_dials
    from streaming.lab.summary import world_rows
    from streaming.lab.world import World
    from streaming.lab.world import generate as generate_world

    try:
        values = {"impressions": impressions, "days": days, "seed": seed} | parse_dials(dials or [])
        world = World.clean(**values) if clean else World(**values)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    with progress(f"writing {out}", world.impressions) as done:
        summary = generate_world(out, world, lambda shown, of: done(shown))
    if as_json:
        print_json(summary)
        return
    print_rows(f"A world in {out}", world_rows(summary))


@app.command("import")
def import_log(
    name: Annotated[str, typer.Argument(help="talkingdata or open-bandit.", metavar="NAME")],
    source: Annotated[Path, typer.Argument(help="The data set's file, or the directory that holds it.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Directory for the log.", metavar="OUT")],
    as_json: Json = False,
) -> None:
    """Turn a public data set into an event log, sorted by event time, with settings to replay it."""
    from streaming.lab.importers import import_open_bandit, import_talkingdata

    importers = {"talkingdata": import_talkingdata, "open-bandit": import_open_bandit}
    if name not in importers:
        raise SettingsError(f"NAME must be one of {', '.join(importers)} (got {name!r})")
    with progress(f"importing {source}", None):
        summary = importers[name](source, out)
    print_json(summary) if as_json else print_rows(f"Imported {name}", summary.rows())


@app.command()
def replay(
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="Directory of the run; made if it is not there.")],
    config: Config = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole cut in --out.")] = False,
    speed: Annotated[
        str, typer.Option(help="Seconds of event time a second (60: an hour in a minute), or max.")
    ] = "max",
    close_at_end: Annotated[
        bool,
        typer.Option(
            "--close-at-end", help="LOG is complete: label what is still open at its end. Nothing can follow then."
        ),
    ] = False,
    metrics_host: Annotated[str, typer.Option(help="Address to serve them on; 0.0.0.0 is every one.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics at http://HOST:PORT/metrics while it runs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay LOG into a run: join, label, learn, score, cut and publish, in one process."""
    from streaming.adapters.prometheus import RunCollector
    from streaming.adapters.prometheus import serve as serve_metrics
    from streaming.lab.summary import run_rows, run_warnings
    from streaming.metrics import RunMetrics
    from streaming.replay import Replay

    if speed != "max" and not _is_positive(speed):
        raise SettingsError(f"--speed must be a number above 0, or max (got {speed!r})")
    settings = _run_settings(log, out, config, resume=resume)
    pace = None if speed == "max" else float(speed)
    latest = RunMetrics()
    # A port that is taken is told of before anything is written to --out.
    server = (
        None if metrics_port is None else serve_metrics(RunCollector(lambda: latest), metrics_port, host=metrics_host)
    )
    try:
        run = Replay(log, out, settings, resume=resume, speed=pace, environ=os.environ)
        for reason in run.passed_over:
            warn(f"{reason}; the cut before it is used")
        with progress(f"replaying {log}", run.source.size_bytes) as done:
            records = 0
            for count in run.run(close_at_end=close_at_end):
                records += count
                done(run.source.read_bytes if run.source.size_bytes is not None else records)
                if server is not None:
                    latest = run.pipeline.metrics()
    except KeyboardInterrupt:
        _fail("stopped; what was done up to the last cut is kept: go on with --resume", 1)
    finally:
        if server is not None:
            server.close()
    metrics = run.pipeline.metrics()
    print_json(metrics) if as_json else print_rows(f"Replayed {log} into {out}", run_rows(metrics, out))
    for warning in run_warnings(metrics, out):
        warn(warning)


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _run_settings(log: Path, out: Path, config: Path | None, *, resume: bool) -> Settings:
    """Those of the run that is resumed, if none are named; else as for any other command."""
    if resume and config is None and (out / "settings.toml").is_file():
        return load(out / "settings.toml")
    return _settings_of(log, config)


@app.command()
def verify(log: Log, run: Run, as_json: Json = False) -> None:
    """Join LOG again, in another way, and compare every example and every record of RUN. Exit code 1 if they differ."""
    from streaming.lab.verify import verify as verify_run

    with progress(f"verifying {run}", None):
        verdict = verify_run(log, run)
    if as_json:
        print_json(verdict)
    else:
        for line in verdict.lines():
            OUT.print(line, markup=False, style="red" if line.startswith("DIFFERS") else None)
        differ = "the run and the log DIFFER" if verdict.is_finished else "not agreed: see the first line"
        OUT.print("agreed on everything" if verdict.agreed else differ, style="green" if verdict.agreed else "red")
    if not verdict.agreed:
        raise typer.Exit(1)


@app.command()
def explain(
    run: Run,
    impression_id: Annotated[str, typer.Argument(metavar="IMPRESSION_ID")],
    log: Annotated[
        Path | None, typer.Option("--log", help="The log, to show the impression's raw records too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell all that RUN knows of an impression: its facts, examples, weights, prediction, side outputs."""
    from streaming.lab.explain import explain as explain_impression

    explanation = explain_impression(run, impression_id, log)
    print_json(explanation) if as_json else print_rows(impression_id, explanation.rows())


@app.command()
def report(
    run: Run,
    log: Annotated[
        Path | None, typer.Option("--log", help="A generated log: its truth is drawn beside the figures.")
    ] = None,
) -> None:
    """Write RUN/report.html: calibration, entropy, reliability, delays and volumes on one page."""
    from streaming.lab.report import write_report

    with progress(f"drawing {run}", None):
        page = write_report(run, log=log)
    typer.echo(page)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory for the demo; made if it is not there.")] = Path("demo"),
    impressions: Annotated[int, typer.Option(help="Impressions to simulate.")] = 200_000,
) -> None:
    """Show the whole line on simulated traffic: generate two weeks of it, replay, verify, compare with the truth, draw a report."""
    from streaming.lab.against_truth import compare_with_truth
    from streaming.lab.report import write_report
    from streaming.lab.summary import TRUTH_HEAD, truth_rows

    log, run = out / "log", out / "run"
    for old, mark in ((log, "world.json"), (run, "settings.toml")):
        if old.exists() and not (old / mark).is_file():
            raise SettingsError(f"--out {out} holds {old.name}, which is not of a demo: choose another directory")
    for old in (log, run):
        shutil.rmtree(old, ignore_errors=True)
    OUT.print("1. Two weeks of simulated traffic, with everything that goes wrong on the way to a log", style="bold")
    generate(log, impressions=impressions)
    OUT.print("\n2. Replay: join by event time, label when labels are final, learn ESMM, score, publish", style="bold")
    replay(log, run)
    OUT.print("\n3. Verify: the same join written a second time, in SQL, compared record by record", style="bold")
    verify(log, run)
    OUT.print(
        "\n4. What the model says beside the probabilities that the traffic was drawn with, impressions of the second week",
        style="bold",
    )
    against = compare_with_truth(log, run, from_day=7)
    print_table("Predictions made before their labels were known", TRUTH_HEAD, truth_rows(against))
    with progress("drawing the report", None):
        page = write_report(run, log=log)
    print_rows(
        "\nWhere things are",
        [
            ("the report", str(page)),
            ("the weights", str(run / "weights")),
            ("every file's form", "docs/formats.md"),
        ],
    )
    print_rows(
        "\nGo on with your own logs",
        [
            ("look at them", "afterclick check LOG"),
            ("settings from a look", "afterclick init LOG > settings.toml"),
            ("replay", "afterclick replay LOG --config settings.toml --out RUN"),
            ("one impression's story", "afterclick explain RUN IMPRESSION_ID"),
        ],
    )


@weights_app.command("list")
def weights_list(run: Run, as_json: Json = False) -> None:
    """List the versions that RUN has published, the newest last."""
    from streaming.adapters.directory import DirectoryError, list_versions
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


@weights_app.command("show")
def weights_show(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(help="EPOCH-VERSION as listed; default: the current one.", metavar="VERSION")
    ] = None,
) -> None:
    """Show what a version was made of, as JSON; every byte of it is verified first."""
    from streaming.adapters.directory import read_version

    published = read_version(run / "weights", name)
    typer.echo(msgspec.json.format(msgspec.json.encode(published.manifest), indent=2).decode())


@weights_app.command("diff")
def weights_diff(
    run: Run,
    one: Annotated[str, typer.Argument(help="The earlier version.", metavar="A")],
    other: Annotated[str, typer.Argument(help="The later version.", metavar="B")],
    as_json: Json = False,
) -> None:
    """Say what changed from one version to another: rows added, gone and moved most, dense layers."""
    from models.weights import decode, difference
    from streaming.adapters.directory import read_version

    found = difference(decode(read_version(run / "weights", one)), decode(read_version(run / "weights", other)))
    print_json(found) if as_json else typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
