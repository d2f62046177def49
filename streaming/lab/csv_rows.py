"""The rows of somebody's CSV file, with the place and text of each, so that a bad one can be named; must not know what they mean."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

CSV_SUFFIXES = (".csv", ".csv.gz")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SourceError(ValueError):
    """A data set, or a row of it, cannot be used; the message names the file or column, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a CSV file.

    Args:
        number: the line it starts on; the header is line 1.
        text: as it stood, bytes that are not UTF-8 as surrogate escapes.
        cells: by column name; empty where there is a `fault`.
        fault: why it is no row of this table, None if it is one.
    """

    number: int
    text: str
    cells: dict[str, str]
    fault: str | None = None


def rows_of(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a `.csv` or `.csv.gz` file, blank ones left out.

    Args:
        file: where they stand.
        columns: those that must be there, in any order and among others.

    Raises:
        SourceError: the file cannot be read to its end, lacks a column, or has one twice.
    """
    read: list[str] = []

    def remembered(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield line

    opener = gzip.open if file.name.endswith(".gz") else open
    header: list[str] = []
    number = 0
    try:
        with opener(file, "rt", encoding="utf-8", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(remembered(iter(lines)))
            while True:
                read.clear()
                number = reader.line_num + 1
                fault: str | None = None
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    cells, fault = [], f"is no CSV: {error}"
                if cells is None:
                    break
                if not header:
                    header = _header(file, cells, columns)
                    continue
                text = "".join(read).rstrip("\r\n")
                if not text:
                    continue
                if fault is None and len(cells) != len(header):
                    fault = f"has {len(cells)} cells (rule: {len(header)}, as the header)"
                if fault is None and not is_utf8(text):
                    fault = "is not UTF-8"
                yield Row(number, text, {} if fault else dict(zip(header, cells, strict=True)), fault)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{file} cannot be read beyond line {max(number - 1, 0)}: {error}; fetch it again") from error
    if not header:
        wanted = f" with {', '.join(columns)}" if columns else ""
        raise SourceError(f"{file} is empty: its first line must be a header{wanted}")


def _header(file: Path, cells: Sequence[str], columns: Sequence[str]) -> list[str]:
    # Some copies carry a byte order mark or dots before the first name ("..ip").
    header = [cell.strip().lstrip("\ufeff.") for cell in cells]
    missing = [column for column in columns if column not in header]
    if missing:
        has = ", ".join(header[:10])
        raise SourceError(f"{file}:1 lacks the column {', '.join(missing)} (it has {has}): is this the right file?")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SourceError(f"{file}:1 has the column {twice[0]!r} twice: which one counts cannot be told")
    return header


def file_in(source: Path, name: str) -> Path:
    """The one CSV file that is meant: `source` itself, or the only one in it; item contexts do not count.

    Args:
        source: a file or a directory.
        name: what the data set is called, for errors.

    Raises:
        SourceError: there is none, or more than one.
    """
    if source.is_file():
        if not source.name.endswith(CSV_SUFFIXES):
            raise SourceError(f"SRC {source} must end in .csv or .csv.gz: give the {name} file, or its directory")
        return source
    if not source.is_dir():
        raise SourceError(f"SRC {source} does not exist: give the {name} .csv or .csv.gz file, or its directory")
    found = [entry.name for entry in sorted(source.iterdir()) if entry.name.endswith(CSV_SUFFIXES)]
    found = [entry for entry in found if "item_context" not in entry]
    if not found:
        raise SourceError(f"SRC {source} holds no .csv or .csv.gz file: give the {name} file, or its directory")
    if len(found) > 1:
        raise SourceError(f"SRC {source} holds {' and '.join(found)}: give one of them, as {source / found[0]}")
    return source / found[0]


def time_ms(column: str, text: str) -> int:
    """A time as UTC epoch milliseconds, microseconds rounded down; without a zone it is UTC.

    Raises:
        SourceError: it is no time.

    Example:
        >>> time_ms("timestamp", "2019-11-24 00:01:29.788335+00:00")
        1574553689788
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SourceError(f"{column} must be a time such as 2017-11-07 09:30:38 (got {text!r})") from None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


def flag(column: str, text: str) -> bool:
    """0 or 1.

    Raises:
        SourceError: it is neither.
    """
    if text not in ("0", "1"):
        raise SourceError(f"{column} must be 0 or 1 (got {text!r})")
    return text == "1"


def number(column: str, text: str) -> float:
    """A finite number.

    Raises:
        SourceError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value - value != 0:
        raise SourceError(f"{column} must be a finite number (got {text!r})")
    return value


def whole(column: str, text: str) -> int:
    """A whole number of 0 or more, in ASCII digits.

    Raises:
        SourceError: it is none.
    """
    if not (text.isascii() and text.isdecimal()):
        raise SourceError(f"{column} must be a whole number without sign (got {text!r})")
    return int(text)


def is_utf8(text: str) -> bool:
    """Whether a text that was read with surrogate escapes held no bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
