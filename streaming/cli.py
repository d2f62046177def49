"""The command line. Says what was done and what went wrong; everything else is done elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from streaming.cli_backfill import backfill
from streaming.cli_join import join
from streaming.cli_kafka import produce, topics
from streaming.cli_run import WarmStart, beginning, run, train
from streaming.cli_serve import serve
from streaming.cli_weights import Json, Run, weights
from streaming.console import ERR, OUT, note, print_json, print_rows, print_table, print_whole, progress, warn
from streaming.settings import Settings, SettingsError, load, parse

app = typer.Typer(
    name="afterclick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps click and conversion models fresh from event streams, although conversions come hours or days late.",
)
app.add_typer(weights, name="weights")
app.add_typer(topics, name="topics")
app.command()(backfill)
app.command()(run)
app.command()(train)
app.command()(join)
app.command()(produce)
app.command()(serve)

Log = Annotated[Path, typer.Argument(help="Directory with impressions, clicks and conversions.", metavar="LOG")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings (TOML). Default: LOG/settings.toml, else suggested from a look at LOG."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line (None: this process's own); what a user can mend goes to stderr as a sentence, with exit code 1 or 2."""
    # Read when torch is loaded. Threads that spin while they wait for the next step slow down what goes on between two steps.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app(arguments)
    except SettingsError as error:
        _fail(error, 2)
    except Exception as error:
        from streaming.mendable import mendable

        if not isinstance(error, mendable()):
            raise
        _fail(error, 1)


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
    from streaming.console import print_settings
    from streaming.lab.look import suggest_settings

    print_settings(suggest_settings(log))


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
    days: Annotated[
        float | None, typer.Option(help="Days over which they are shown. Default: 14, or Criteo's 60.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and dials give the same bytes.")] = 0,
    form: Annotated[str, typer.Option("--format", help="log, or criteo-delayed: a data.txt as Criteo's.")] = "log",
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
    from streaming.lab.simulate import simulation

    world = simulation(form, impressions=impressions, days=days, seed=seed, dials=dials or [], clean=clean)
    with progress(f"writing {out}", world.impressions) as done:
        summary, rows = world.write(out, done)
    print_json(summary) if as_json else print_rows(f"A world in {out}", rows)


@app.command("import")
def import_log(
    name: Annotated[
        str, typer.Argument(help="criteo-delayed, talkingdata, open-bandit, or table: any other.", metavar="NAME")
    ],
    source: Annotated[Path, typer.Argument(help="The data set's file, or the directory that holds it.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Directory for the log.", metavar="OUT")],
    mapping: Annotated[Path | None, typer.Option("--mapping", help="What a table's columns are (TOML).")] = None,
    as_json: Json = False,
) -> None:
    """Turn a public data set, or any flat table, into an event log, sorted by event time, with settings to replay it."""
    from streaming.lab.imports import import_named

    with progress(f"importing {source}", None):
        summary = import_named(name, source, out, mapping)
    print_json(summary) if as_json else print_rows(f"Imported {name}", summary.rows())


@app.command()
def replay(
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="Directory of the run; made if it is not there.")],
    config: Config = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole cut in --out.")] = False,
    warm_start: WarmStart = None,
    speed: Annotated[
        str, typer.Option(help="Seconds of event time a second (60: an hour in a minute), or max.")
    ] = "max",
    close_at_end: Annotated[
        bool,
        typer.Option(
            "--close-at-end", help="LOG is complete: label what is still open at its end. Nothing can follow then."
        ),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            help="2 reads records in a process of its own. Default: 2 where there are two cores. The result is the same.",
        ),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address to serve them on; 0.0.0.0 is every one.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics at http://HOST:PORT/metrics while it runs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay LOG into a run: join, label, learn, score, cut and publish."""
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
        used, own = processes or _processes(), beginning(warm_start, settings, resume=resume)
        run = Replay(
            log, out, settings, resume=resume, speed=pace, processes=used, environ=os.environ, tell=warn, warm_start=own
        )
        note(run.begun_with)
        for reason in run.passed_over:
            warn(f"{reason}; the cut before it is used")
        with progress(f"replaying {log}", run.size_bytes) as done:
            records = 0
            for count in run.run(close_at_end=close_at_end):
                records += count
                done(run.read_bytes if run.size_bytes is not None else records)
                if server is not None:
                    latest = run.pipeline.live_metrics()
    except KeyboardInterrupt:
        _fail("stopped; what was done up to the last cut is kept: go on with --resume", 1)
    finally:
        if server is not None:
            server.close()
    metrics = run.pipeline.metrics()
    print_json(metrics) if as_json else print_rows(f"Replayed {log} into {out}", run_rows(metrics, out))
    for warning in run_warnings(metrics, out):
        warn(warning)
    None if metrics.events.get("impression") else sys.exit(1)


def _processes() -> int:
    """Two, where this process may use two cores."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 2)


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
    """Tell all that RUN knows of an impression: its facts, examples, weights, prediction, side outputs, and what backfills taught."""
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
def compare(
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="Directory of the comparison; made if it is not there.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Delayed-feedback methods, with commas; pretrained, window and oracle are always among them."
        ),
    ] = "window,fnw,es_dfm,defer,defuse,ddfm,survival,mature",
    config: Config = None,
    seeds: Annotated[int, typer.Option(help="Random starts of the network; every method runs with each.")] = 1,
    pretrain_days: Annotated[
        float | None, typer.Option(help="Days of the first part, that all start from. Default: half of the log.")
    ] = None,
    close_at_end: Annotated[
        bool, typer.Option("--close-at-end", help="LOG is complete: a click without conversion by its end has none.")
    ] = False,
    processes: Annotated[int | None, typer.Option(help="Runs at a time. Default: one for each core.")] = None,
    as_json: Json = False,
) -> None:
    """Run delayed-feedback methods side by side on LOG: what each would have done, hour by hour, between window and oracle."""
    from streaming.lab.compare.command import compare as compare_methods
    from streaming.lab.compare.page import write_page
    from streaming.lab.compare.results import results, write_results
    from streaming.lab.compare.table import table
    from streaming.lab.compare.words import notes

    settings = _settings_of(log, config)
    with progress(f"comparing on {log}", 1000) as done:
        compare_methods(
            log,
            settings,
            out,
            methods=[name.strip() for name in methods.split(",") if name.strip()],
            seeds=range(settings.network.seed, settings.network.seed + seeds),
            pretrain_days=pretrain_days,
            close_at_end=close_at_end,
            processes=processes,
            progress=lambda what, share: done(round(1000 * share)),
        )
    found = results(out)
    write_results(found, out / "compare.json")
    page = write_page(found, out / "compare.html")
    if as_json:
        print_json(found)
        return
    print_whole(table(found))
    for told in notes(found):
        OUT.print(told, markup=False, style="dim")
    print_rows("Where things are", [("the page", str(page)), ("the figures", str(out / "compare.json"))])


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
