"""Joins a raw log once more, by brute force, and holds a run to the result; must not know the pipeline it judges.

Of `streaming` it imports the settings, to read those of the run, and the files as they lie on disk: no clock, join or label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from streaming import settings as settings_of_run
from streaming.lab import verify_checks as checks
from streaming.lab import verify_sql as sql
from streaming.lab.verdict import UNFINISHED, Check, ClickCoverage, Verdict, difference
from streaming.lab.verify_ages import edges_of, looks_of
from streaming.lab.verify_labels import Labels, ages, expected_examples, labels_of
from streaming.lab.verify_lines import VerifyError
from streaming.lab.verify_tables import DOORS, TABLES, read_log, read_run
from streaming.settings import Settings

__all__ = ["Verdict", "VerifyError", "verify"]

DIFFERENCES = 10  # told per check: enough to see a pattern, few enough to read

MEMORY_LIMIT = "5GB"  # of the database, which goes to a temporary directory beyond it

KNOWN_SHARE = (
    0.01  # of the impression ids of the examples; with fewer in the log, it is not the one the run was made from
)

FOREVER_MS = 1 << 62  # the final watermark where the log is known to be complete; no sum with a window overflows


def verify(
    log: Path, run: Path, progress: Callable[[str], None] | None = None, *, close_at_end: bool = False
) -> Verdict:
    """Re-joins a log and compares the run's examples and side outputs with it, record by record.

    Args:
        log: directory of the raw log. run: directory of the run; its `settings.toml` says how to join.
        progress: called with what is about to be done.
        close_at_end: the run took the log for complete. A `close_at_end` in the run's `run.json`, if there, says so too.

    Returns:
        The verdict. A run whose `run.json` says that it did not come to the end is compared all the same.

    Raises:
        VerifyError: there is no run, the log cannot be read, the run has no examples, its files are not in the documented
            form (or break off, where it did not come to the end), or its labels cannot be verified.
        SettingsError: the run's settings cannot be read.
    """
    say = progress or _say_nothing
    if not (run / "settings.toml").is_file():
        raise VerifyError(f"RUN {run} is no run: it has no settings.toml")
    told = _told(run)
    is_finished = told.get("is_finished") is not False  # a run that does not say is taken for finished
    settings = settings_of_run.load(run / "settings.toml", {})
    labels = labels_of(settings.labels.method)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as database:
        database.execute("SET memory_limit = $limit", {"limit": MEMORY_LIMIT})
        database.execute("SET temp_directory = $spill", {"spill": spill})
        database.execute(TABLES)
        read_log(database, log, settings.log, say)
        try:
            read_run(database, run, say)
        except VerifyError as error:
            if is_finished:
                raise
            raise VerifyError(f"{UNFINISHED} ({error})") from error
        say("joining by brute force")
        _join(database, settings, is_complete=close_at_end or told.get("close_at_end") is True)
        _label(database, settings, labels)
        say("comparing")
        database.execute(checks.VIEWS)
        return _judge(database, run, is_finished=is_finished)


def _say_nothing(doing: str) -> None:
    pass


def _told(run: Path) -> dict[str, Any]:
    """What the run says of itself."""
    path = run / "run.json"
    try:
        told = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    except msgspec.DecodeError as error:
        raise VerifyError(f"RUN {path} is not JSON: {error}; replay the log again") from error
    return told if isinstance(told, dict) else {}


def _join(database: duckdb.DuckDBPyConnection, settings: Settings, *, is_complete: bool) -> None:
    for name, milliseconds in {
        "click_window": settings.windows.click_window_ms,
        "attribution_window": settings.windows.attribution_window_ms,
        "out_of_orderness": settings.event_time.out_of_orderness_ms,
        "clock_skew": settings.event_time.clock_skew_ms,
        "future_skew": settings.event_time.future_skew_ms,
        "hold": settings.orphan_hold_ms,
    }.items():
        database.execute(f"CREATE MACRO {name}() AS {milliseconds}::BIGINT")
    database.execute(sql.ARRIVAL)
    reached = _one(database, sql.FINAL_WATERMARK)
    final = FOREVER_MS if is_complete else reached or 0
    database.execute(f"CREATE MACRO reached_watermark() AS {reached or 0}::BIGINT")
    database.execute(f"CREATE MACRO final_watermark() AS {final}::BIGINT")
    database.execute(sql.EFFECTS)
    generation = 0
    while _one(database, "SELECT count(*) FROM waiting"):
        database.execute(sql.ROUND, {"round": generation})
        database.execute(sql.NEXT_ROUND, {"round": generation})
        generation += 1
    database.execute(sql.FATES)


def _label(database: duckdb.DuckDBPyConnection, settings: Settings, labels: Labels) -> None:
    observation_ms = 0 if labels.observes_at_click else settings.windows.observation_window_ms
    windows_ms = observation_ms, settings.windows.attribution_window_ms
    database.execute(f"CREATE MACRO observation_window() AS {observation_ms}::BIGINT")
    looks, edges = (ages_of(*windows_ms, settings.labels.horizons) for ages_of in (looks_of, edges_of))
    database.execute(ages("look", enumerate(looks[1:-1], 1)))
    database.execute(ages("edge", enumerate(edges[1:], 1)))
    database.execute(expected_examples(labels))


def _judge(database: duckdb.DuckDBPyConnection, run: Path, *, is_finished: bool) -> Verdict:
    def count(query: str, **parameters: Any) -> int:
        return int(_one(database, f"SELECT count(*) FROM {query}", **parameters))

    def check(name: str, query: str, expected: int = 0, got: int | None = None, **parameters: Any) -> Check:
        broken = count(f"({query})", **parameters)
        rows = database.execute(f"{query} LIMIT {DIFFERENCES}", parameters or None).fetchall() if broken else []
        differences = tuple(difference(*row) for row in rows)
        return Check(
            name=name, expected=expected, got=broken if got is None else got, broken=broken, differences=differences
        )

    found = [check("examples", checks.EXAMPLES, count("expected"), count("example"))]
    for door in DOORS:
        wanted, got = (count(f"{side} WHERE door = $door", door=door) for side in ("want_side", "got_side"))
        found.append(check(door, checks.SIDE_OUTPUT, wanted, got, door=door))
    found += [
        check("one door for every record", checks.ONE_DOOR),
        check("doors named as their file", checks.DOOR_NAMES),
        check("no fact after due_ms", checks.NO_LEAK),
        check("one example a slot", checks.UNIQUE),
        check("in order of due_ms", checks.DUE_ORDER),
    ]
    still_open = {
        "open_impressions": count("shown WHERE leaves >= final_watermark()"),
        "open_clicks": count("shown WHERE leaves >= final_watermark() AND click_n IS NOT NULL"),
        "pending_records": count("arrival ANTI JOIN effect USING (n)"),
        "held_facts": count("fate JOIN effect USING (n) WHERE fate = 'open'"),
    }
    found += _figures(run, still_open)
    clicked = count("example WHERE kind = 'CLICKED'")
    elsewhere = {door: count("got_side WHERE door = $door AND kind = 'click'", door=door) for door in DOORS[1:]}
    elsewhere["open"] = count(checks.OPEN_CLICKS)
    logged = count("record WHERE kind = 1")
    left = logged - clicked - sum(elsewhere.values())
    elsewhere["unaccounted"] = max(left, 0)
    shown = int(_one(database, "SELECT count(DISTINCT impression_id) FROM example"))
    known = shown - count(checks.STRANGERS)
    return Verdict(
        records=count("source"),
        checks=tuple(found),
        clicks=ClickCoverage(logged=logged, clicked=clicked, elsewhere=elsewhere, surplus=max(-left, 0)),
        open=still_open,
        is_finished=is_finished,
        is_of_another_log=known < KNOWN_SHARE * shown,
    )


def _figures(run: Path, still_open: dict[str, int]) -> list[Check]:
    """What the run itself says is open, if it got so far as to write its figures."""
    path = run / "metrics.json"
    if not path.exists():
        return []
    try:
        figures = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise VerifyError(f"RUN {path} is not JSON: {error}; replay the log again") from error
    return [
        Check(name=f"metrics.json {name}", expected=expected, got=figures[name])
        for name, expected in still_open.items()
        if isinstance(figures.get(name), int)
    ]


def _one(database: duckdb.DuckDBPyConnection, query: str, **parameters: Any) -> Any:
    row = database.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]
