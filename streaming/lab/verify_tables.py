"""What `verify` compares, as tables: the raw log, and what a run left behind. Must not know how a log is joined.

The log is decoded here once more, with another JSON parser than the pipeline's, so that what is called malformed is a
second opinion too.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from streaming.settings import Fields, Log, TimeUnit

STEMS = ("impressions", "clicks", "conversions")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

KINDS = ("impression", "click", "conversion")
"""By the stem a record was read from, in the order of `STEMS`; a record's `kind` in the tables is the index."""

DOORS = ("dead_letters", "future", "duplicates", "late", "out_of_window", "orphans")
"""The side outputs of a run, `DOOR.jsonl` each."""

CHUNK_ROWS = 100_000  # rows handed to the database at once: bounds what Python holds of a log to some 100 MB

EARLIEST_MS, LATEST_MS = 10**11, 10**14
"""Event times outside are refused: below it looks like seconds (1e11 ms is 1973), above like microseconds (1e14 ms is 5138)."""

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


class VerifyError(ValueError):
    """A run cannot be verified; the message names what is missing or unreadable and what to do."""


class Refused(ValueError):  # noqa: N818 - what became of the line, not a fault of ours
    """A line is no record of its kind; the message says why."""


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


class Envelope:
    """Reads what the join needs from a line: identity, event time, and what a conversion was worth.

    Args:
        kind: index into `KINDS`.
        fields: where the log keeps the envelope.
        is_text: whether the line was written as JSON. A row of a Parquet file was not: a NaN among its features is no
            broken line, and a column of JSON text counts as the object that it spells.

    Example:
        >>> click = Envelope(1, Fields())
        >>> click.read(b'{"impression_id": "a", "event_time_ms": 1700000000000}')
        ('a', 1700000000000, None)
        >>> click.read(b'{"impression_id": "a", "event_time_ms": 1700000000}')
        Traceback (most recent call last):
        ...
        streaming.lab.verify_tables.Refused: event_time_ms: 1700000000 looks like seconds
    """

    def __init__(self, kind: int, fields: Fields, *, is_text: bool = True) -> None:
        self.kind = kind
        self.fields = fields
        self._is_text = is_text
        self._id_path = fields.impression_id.split(".")
        self._time_path = fields.event_time.split(".")
        self._features_path = fields.features.split(".")
        self._served_path = fields.served.split(".")
        self._value_path = fields.value.split(".")
        self._decode = json.JSONDecoder(parse_constant=_no_constant if is_text else None).decode

    def read(self, line: bytes) -> tuple[str, int, float | None]:
        """(impression_id, event time in ms, value) of a line.

        Raises:
            Refused: the line is malformed.
        """
        try:
            record = self._decode(line.decode())
        except UnicodeDecodeError as error:
            raise Refused(f"not UTF-8: {error}") from None
        except (ValueError, RecursionError) as error:
            raise Refused(f"not JSON: {error}") from None
        if type(record) is not dict:
            raise Refused(f"not an object but {type(record).__name__}")
        identity = _descend(record, self._id_path)
        if type(identity) is not str or not identity or not _is_unicode(identity):
            raise Refused(f"{self.fields.impression_id}: {identity!r} is no id (a string that is not empty)")
        time_ms = _milliseconds(_descend(record, self._time_path), self.fields.event_time, self.fields.time_unit)
        if self.kind == 0:
            if type(self._spelled(_descend(record, self._features_path))) is not dict:
                raise Refused(f"{self.fields.features}: no object")
            served = self._spelled(_descend(record, self._served_path))
            if served is not None and not _is_served(served):
                raise Refused(f"{self.fields.served}: {served!r} is no prediction (pctr, pcvr, weights_version)")
        value = _descend(record, self._value_path) if self.kind == 2 else None
        return identity, time_ms, None if value is None else _number(value, self.fields.value)

    def _spelled(self, value: Any) -> Any:
        if self._is_text or type(value) is not str:
            return value
        try:
            return self._decode(value)
        except (ValueError, RecursionError):
            return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _descend(record: Any, path: list[str]) -> Any:
    if len(path) > 1 and type(record) is dict and ".".join(path) in record:  # a name with dots in it
        return record[".".join(path)]
    for key in path:
        if type(record) is not dict:
            return None
        record = record.get(key)
    return record


def _is_unicode(text: str) -> bool:
    """Whether there is no lone surrogate in it, which JSON can escape but UTF-8 cannot say."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refused(f"{name}: {value!r} is no number")
    return number


def _is_served(served: Any) -> bool:
    if type(served) is not dict or type(served.get("weights_version")) not in (int, type(None)):
        return False
    return all(type(served.get(name)) in (int, float) for name in ("pctr", "pcvr"))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _from_iso8601(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


# What is finer than a millisecond is cut off, but seconds are rounded: .123 has no exact double, and must not become .122.
_TO_MS: dict[TimeUnit, tuple[tuple[type, ...], Callable[[Any], int]]] = {
    "ms": ((int,), int),
    "us": ((int,), lambda value: value // 1000),
    "s": ((int, float), lambda value: round(value * 1000)),
    "iso8601": ((str,), _from_iso8601),
}


def _milliseconds(value: Any, name: str, unit: TimeUnit) -> int:
    types, to_ms = _TO_MS[unit]
    if type(value) not in types:
        raise Refused(f"{name}: {value!r} is no time in {unit}")
    try:
        time_ms = to_ms(value)
    except (ValueError, OverflowError):
        raise Refused(f"{name}: {value!r} is no time in {unit}") from None
    if time_ms < EARLIEST_MS:
        raise Refused(f"{name}: {value!r} looks like seconds")
    if time_ms > LATEST_MS:
        raise Refused(f"{name}: {value!r} looks like microseconds")
    return time_ms


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
        for line, raw in _numbered(path):
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


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; the rows of a Parquet file as JSON text."""
    line = 0
    try:
        for line, raw in enumerate(_rows(path) if path.suffix == ".parquet" else _lines(path), 1):
            if raw and not raw.isspace():
                yield line, raw
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, duckdb.Error) as error:
        raise VerifyError(f"{path} breaks off after line {line}: {error}; fetch or write the file again") from error


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        lines: Iterable[bytes] = file
        if path.suffix == ".gz":
            lines = gzip.GzipFile(fileobj=file)
        elif path.suffix == ".zst":
            frames = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(file, read_across_frames=True)
            lines = io.BufferedReader(frames, 1 << 20)
        for line in lines:
            yield line.removesuffix(b"\n")


def _rows(path: Path) -> Iterator[bytes]:
    with duckdb.connect() as database:
        rows = database.execute("SELECT to_json(row)::VARCHAR FROM read_parquet(?) AS row", [str(path)])
        while block := rows.fetchmany(CHUNK_ROWS // 10):
            yield from (text.encode() for (text,) in block)


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
    for line, raw in _numbered(path):
        try:
            yield line, decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise VerifyError(
                f"{path.name}:{line} is not as docs/formats.md says: {error}; replay the log again"
            ) from error
