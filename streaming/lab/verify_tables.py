"""What `verify` compares, as tables: the raw log, and what a run left behind. Must not know how a log is joined."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt

from streaming.lab.verify_lines import Envelope, Refused, VerifyError, numbered
from streaming.settings import Log

STEMS = ("impressions", "clicks", "conversions")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

KINDS = ("impression", "click", "conversion")
"""By the stem a record was read from, in the order of `STEMS`; a record's `kind` in the tables is the index."""

DOORS = ("dead_letters", "future", "duplicates", "late", "out_of_window", "orphans")
"""The side outputs of a run, `DOOR.jsonl` each."""

CHUNK_ROWS = 100_000  # rows handed to the database at once: bounds what Python holds of a log to some 100 MB

TABLES = """
CREATE TABLE file (file INTEGER, kind TINYINT, name VARCHAR, is_text BOOLEAN);
CREATE TABLE record (n BIGINT, file INTEGER, kind TINYINT, line BIGINT, id VARCHAR, t BIGINT, value DOUBLE, raw BLOB);
CREATE TABLE malformed (n BIGINT, file INTEGER, kind TINYINT, line BIGINT, reason VARCHAR, raw BLOB);
CREATE TABLE example (
    line BIGINT, kind VARCHAR, slot VARCHAR, p BIGINT, due_ms BIGINT, impression_id VARCHAR, impression_ms BIGINT,
    click_ms BIGINT, conversion_ms BIGINT, converted BOOLEAN, value DOUBLE);
CREATE TABLE side_output (
    file VARCHAR, line BIGINT, door VARCHAR, kind VARCHAR, place VARCHAR, impression_id VARCHAR, event_time_ms BIGINT,
    watermark_ms BIGINT, record BLOB);
"""
"""`record` and `malformed` share the numbers `n`, which ascend by file (kinds, then parts) and by line."""

Row = TypeVar("Row")

Progress = Callable[[str], None]
"""Called with what is about to be done, in words."""


class _ExampleRow(msgspec.Struct, frozen=True, gc=False):
    kind: str
    slot: str
    p: int
    due_ms: int
    impression_id: str
    impression_ms: int
    click_ms: int | None
    conversion_ms: int | None
    converted: bool
    value: float | None


class _SideRow(msgspec.Struct, frozen=True, gc=False):
    door: str
    kind: str
    at: str
    impression_id: str | None
    event_time_ms: int | None
    watermark_ms: int | None
    record: str | None = None
    record_base64: str | None = None


class _Rows:
    """Rows on their way into a table, handed over in chunks of columns: row by row the database takes 100 times as long."""

    def __init__(self, database: duckdb.DuckDBPyConnection, table: str) -> None:
        self._database = database
        self._table = table
        columns = database.execute(f"DESCRIBE {table}").fetchall()
        self._types = [(name, kind) for name, kind, *_ in columns]
        self._rows: list[tuple[Any, ...]] = []

    def append(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            columns = zip(self._types, zip(*self._rows, strict=True), strict=True)
            chunk = {name: _column(values, kind) for (name, kind), values in columns}
            self._database.register("chunk", chunk)
            self._database.execute(f"INSERT INTO {self._table} SELECT * FROM chunk")
            self._database.unregister("chunk")
        self._rows = []


def _column(values: Iterable[Any], kind: str) -> npt.NDArray[Any]:
    if kind in ("VARCHAR", "BLOB"):
        return np.array(values, dtype=object)
    dtype = {"DOUBLE": np.float64, "BOOLEAN": np.bool_}.get(kind, np.int64)
    missing = [value is None for value in values]
    filled = [0 if value is None else value for value in values] if any(missing) else values
    return np.ma.masked_array(np.array(filled, dtype=dtype), mask=missing)


def read_log(database: duckdb.DuckDBPyConnection, log: Path, fields: Log, progress: Progress) -> None:
    """Fills `file`, `record` and `malformed`. Blank lines are no records, but count as lines.

    Raises:
        VerifyError: there is no such log, a stem stands twice, or a file breaks off.
    """
    records, malformed = _Rows(database, "record"), _Rows(database, "malformed")
    n = 0
    for file, (kind, path) in enumerate(_parts(log)):
        name = path.relative_to(log).as_posix()
        is_text = path.suffix != ".parquet"
        progress(f"reading {name}")
        database.execute("INSERT INTO file VALUES (?, ?, ?, ?)", [file, kind, name, is_text])
        read = Envelope(kind, getattr(fields, STEMS[kind]), is_text=is_text).read
        for line, raw in numbered(path):
            n += 1
            try:
                records.append((n, file, kind, line, *read(raw), raw))
            except Refused as refused:
                malformed.append((n, file, kind, line, str(refused), raw))
    records.flush()
    malformed.flush()


def _parts(log: Path) -> list[tuple[int, Path]]:
    """(kind, file) of every file of a log, in the order in which ties between them are broken."""
    parts: list[tuple[int, Path]] = []
    for kind, stem in enumerate(STEMS):
        found = [path for path in (log / stem, *(log / (stem + suffix) for suffix in SUFFIXES)) if path.exists()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise VerifyError(f"LOG {log} holds {stem} twice ({names}): keep the one that the run was made from")
        if found and found[0].is_dir():
            found = [path for path in sorted(found[0].iterdir()) if path.name.endswith(SUFFIXES)]
        parts += [(kind, path) for path in found]
    if not parts:
        raise VerifyError(
            f"LOG {log} holds no impressions, clicks or conversions: give the directory the run was made from"
        )
    return parts


def read_run(database: duckdb.DuckDBPyConnection, run: Path, progress: Progress) -> None:
    """Fills `example` and `side_output`. A side output that is not there is an empty one.

    Raises:
        VerifyError: there are no examples, or a line is not what docs/formats.md promises.
    """
    path = run / "examples.jsonl.zst"
    if not path.exists():
        raise VerifyError(
            f"RUN {run} holds no {path.name}: give the directory that `afterclick replay` wrote with --out"
        )
    progress(f"reading {path.name}")
    examples = _Rows(database, "example")
    for line, example in _decoded(path, msgspec.json.Decoder(_ExampleRow)):
        examples.append((line, *msgspec.structs.astuple(example)))
    examples.flush()
    side_outputs = _Rows(database, "side_output")
    for door in DOORS:
        path = run / f"{door}.jsonl"
        for line, row in _decoded(path, msgspec.json.Decoder(_SideRow)) if path.exists() else ():
            *envelope, record, in_base64 = msgspec.structs.astuple(row)
            raw = (
                base64.b64decode(in_base64)
                if in_base64 is not None
                else record.encode()
                if record is not None
                else None
            )
            side_outputs.append((door, line, *envelope, raw))
    side_outputs.flush()


def _decoded(path: Path, decoder: msgspec.json.Decoder[Row]) -> Iterator[tuple[int, Row]]:
    for line, raw in numbered(path):
        try:
            yield line, decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise VerifyError(
                f"{path.name}:{line} is not as docs/formats.md says: {error}; replay the log again"
            ) from error
