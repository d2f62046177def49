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
from streaming.lab.verify_tables import DOORS, TABLES, VerifyError, read_log, read_run
from streaming.settings import Settings

DIFFERENCES = 10  # told per check: enough to see a pattern, few enough to read

MEMORY_LIMIT = "5GB"  # of the database, which goes to a temporary directory beyond it

FOREVER_MS = 1 << 62  # the final watermark where the log is known to be complete; no sum with a window overflows


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One promise, and whether the run keeps it.

    Args:
        name: `examples`, a side output, or a law.
        expected, got: how many there must be, and how many there are; for a law that forbids, 0 and the breaches.
        broken: places where the two sides differ. differences: the first of them, in words.
    """

    name: str
    expected: int
    got: int
    broken: int = 0
    differences: tuple[str, ...] = ()

    @property
    def agreed(self) -> bool:
        """Whether nothing differs."""
        return self.expected == self.got and not self.broken


class ClickCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the clicks of the log went in the run.

    Args:
        logged: well-formed clicks in the log. clicked: CLICKED examples of the run.
        elsewhere: clicks by the side output they left by; `open` for those that may still come to something, and
            `unaccounted` for what is left over (0 where every check agrees).
    """

    logged: int
    clicked: int
    elsewhere: dict[str, int]

    @property
    def share(self) -> float | None:
        """Of the clicks logged, how many made a CLICKED example; None if there were none."""
        return self.clicked / self.logged if self.logged else None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of verifying a run.

    Args:
        records: read from the log, malformed ones included. checks: every promise looked at.
        clicks: where the clicks went. open: what must still be open at the end, as `RunMetrics` calls it.
    """

    records: int
    checks: tuple[Check, ...]
    clicks: ClickCoverage
    open: dict[str, int]

    @property
    def agreed(self) -> bool:
        """Whether every check agrees."""
        return all(check.agreed for check in self.checks)

    def lines(self) -> list[str]:
        """The verdict in words, a line a check, differences below it."""
        told = []
        for check in self.checks:
            state = "agreed" if check.agreed else "DIFFERS"
            told.append(f"{state:8}{check.name:28}expected {check.expected:>10,}   got {check.got:>10,}")
            told += [f"          {difference}" for difference in check.differences]
            if check.broken > len(check.differences):
                told.append(f"          and {check.broken - len(check.differences):,} more")
        share = (
            "no clicks" if self.clicks.share is None else f"{self.clicks.share:.2%} of {self.clicks.logged:,} clicks"
        )
        where = ", ".join(f"{count:,} {place}" for place, count in self.clicks.elsewhere.items() if count)
        told.append(f"clicks: {share} ended in a CLICKED example" + (f"; else {where}" if where else ""))
        told.append("open at the end: " + ", ".join(f"{count:,} {what}" for what, count in self.open.items()))
        return told


def verify(
    log: Path, run: Path, progress: Callable[[str], None] | None = None, *, close_at_end: bool = False
) -> Verdict:
    """Re-joins a log and compares the run's examples and side outputs with it, record by record.

    Args:
        log: directory of the raw log. run: directory of the run; its `settings.toml` says how to join.
        progress: called with what is about to be done.
        close_at_end: the run took the log for complete. A `close_at_end` in the run's `run.json`, if there, says so too.

    Raises:
        VerifyError: the log cannot be read, the run has no examples, its files are not in the documented form, or its
            labels cannot be verified.
        SettingsError: the run's settings cannot be read.
    """
    say = progress or _say_nothing
    settings = settings_of_run.load(run / "settings.toml", {})
    if settings.labels.method not in sql.METHODS:
        raise VerifyError(
            f"labels.method {settings.labels.method!r} cannot be verified (can be: {', '.join(sql.METHODS)}): "
            "replay the log with one of these; the joined facts are the same under every method"
        )
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as database:
        database.execute("SET memory_limit = $limit", {"limit": MEMORY_LIMIT})
        database.execute("SET temp_directory = $spill", {"spill": spill})
        database.execute(TABLES)
        read_log(database, log, settings.log, say)
        read_run(database, run, say)
        say("joining by brute force")
        _join(database, settings, is_complete=close_at_end or _was_closed(run))
        say("comparing")
        database.execute(checks.VIEWS)
        return _judge(database, run)


def _say_nothing(doing: str) -> None:
    pass


def _was_closed(run: Path) -> bool:
    path = run / "run.json"
    try:
        told = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    except msgspec.DecodeError as error:
        raise VerifyError(f"RUN {path} is not JSON: {error}; replay the log again") from error
    return isinstance(told, dict) and told.get("close_at_end") is True


def _join(database: duckdb.DuckDBPyConnection, settings: Settings, *, is_complete: bool) -> None:
    for name, milliseconds in {
        "click_window": settings.windows.click_window_ms,
        "observation_window": settings.windows.observation_window_ms,
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
    database.execute(f"CREATE MACRO final_watermark() AS {final}::BIGINT")
    database.execute(sql.EFFECTS)
    generation = 0
    while _one(database, "SELECT count(*) FROM waiting"):
        database.execute(sql.ROUND, {"round": generation})
        database.execute(sql.NEXT_ROUND, {"round": generation})
        generation += 1
    database.execute(sql.FATES)
    database.execute(sql.expected_examples(settings.labels.method))


def _judge(database: duckdb.DuckDBPyConnection, run: Path) -> Verdict:
    def count(query: str, **parameters: Any) -> int:
        return int(_one(database, f"SELECT count(*) FROM {query}", **parameters))

    def check(name: str, query: str, expected: int = 0, got: int | None = None, **parameters: Any) -> Check:
        broken = count(f"({query})", **parameters)
        rows = database.execute(f"{query} LIMIT {DIFFERENCES}", parameters or None).fetchall() if broken else []
        differences = tuple(_difference(*row) for row in rows)
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
    elsewhere["unaccounted"] = logged - clicked - sum(elsewhere.values())
    return Verdict(
        records=count("source"),
        checks=tuple(found),
        clicks=ClickCoverage(logged=logged, clicked=clicked, elsewhere=elsewhere),
        open=still_open,
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


def _difference(what: str, want: Any, got: Any) -> str:
    """One difference in words.

    Example:
        >>> _difference("a click", {"due_ms": 5, "kind": "CLICKED"}, {"due_ms": 6, "kind": "CLICKED"})
        'a click: due_ms expected 5, got 6'
        >>> _difference("a click", None, {"due_ms": 6, "click_ms": None})
        'a click: not expected, got due_ms 6'
    """
    if want is None:
        return f"{what}: not expected, got {_short(got)}"
    if got is None:
        return f"{what}: missing, expected {_short(want)}"
    if isinstance(want, dict) and isinstance(got, dict):
        unequal = [name for name in want if want[name] != got[name]]
        return f"{what}: " + "; ".join(
            f"{name} expected {_text(want[name])}, got {_text(got[name])}" for name in unequal
        )
    return f"{what}: expected {want}, got {got}"


def _short(side: Any) -> str:
    if not isinstance(side, dict):
        return _text(side)
    return ", ".join(f"{name} {_text(value)}" for name, value in side.items() if value is not None)


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 120 else text[:120] + "…"
