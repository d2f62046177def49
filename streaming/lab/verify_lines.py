"""The lines of a log, and what the join needs from each, read a second time; must not know how a log is joined.

Another JSON parser than the pipeline's decides here what is malformed, so that this too is a second opinion.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import zstandard

from streaming.settings import Fields, TimeUnit

ROWS_AT_ONCE = 10_000  # of a Parquet file: some 10 MB of text

EARLIEST_MS, LATEST_MS = 10**11, 10**14
"""Event times outside are refused: below it looks like seconds (1e11 ms is 1973), above like microseconds (1e14 ms is 5138)."""


class VerifyError(ValueError):
    """A run cannot be verified; the message names what is missing or unreadable and what to do."""


class Refused(ValueError):  # noqa: N818 - what became of the line, not a fault of ours
    """A line is no record of its kind; the message says why."""


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
        streaming.lab.verify_lines.Refused: event_time_ms: 1700000000 looks like seconds
    """

    def __init__(self, kind: int, fields: Fields, *, is_text: bool = True) -> None:
        self.kind = kind
        self.fields = fields
        self._is_text = is_text
        self._id_path = fields.impression_id.split(".")
        self._time_path = fields.event_time.split(".")
        self._features_path = fields.features.split(".") if fields.features else []  # none: the whole record
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


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
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
        while block := rows.fetchmany(ROWS_AT_ONCE):
            yield from (text.encode() for (text,) in block)
