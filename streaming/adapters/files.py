"""Logs in files: finds a log's parts and hands out their lines in blocks. Decides nothing about what is in a line."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import duckdb
import zstandard

from streaming.events import RecordKind
from streaming.log_file import Lines, Place

BLOCK_BYTES = 1 << 20
"""Read at a time: some 4,000 impressions; larger blocks gain nothing and cost memory."""

_PACKING = 16
"""Bytes of JSON that a packed byte may stand for (10 to 15 are usual): what is unpacked at a time is about a block."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


class LogError(Exception):
    """A log cannot be read; the message names the path, what is wrong and what to do."""


def find_parts(log: Path) -> dict[RecordKind, list[Path]]:
    """The files of each stream of a log, in the order in which ties are broken.

    Raises:
        LogError: no such directory, nothing of a log in it, or a stream that stands there twice.
    """
    if not log.exists():
        raise LogError(
            f"LOG {log} does not exist: give a directory with impressions, clicks and conversions ({', '.join(SUFFIXES)})"
        )
    if not log.is_dir():
        raise LogError(f"LOG {log} is a file: give the directory that holds impressions, clicks and conversions")
    parts: dict[RecordKind, list[Path]] = {}
    for kind in RecordKind:
        found = [log / f"{kind.stem}{suffix}" for suffix in SUFFIXES if (log / f"{kind.stem}{suffix}").is_file()]
        folder = log / kind.stem
        if folder.is_dir():
            found.append(folder)
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise LogError(f"LOG {log} holds {kind.stem} twice ({names}): keep one, records would be read double")
        parts[kind] = (
            [path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES)] if found == [folder] else found
        )
    if not any(parts.values()):
        raise LogError(f"LOG {log} holds neither impressions nor clicks nor conversions ({', '.join(SUFFIXES)})")
    return parts


def read_lines(path: Path, place: Place, block_bytes: int = BLOCK_BYTES) -> Generator[Lines, None, None]:
    """The lines of one file from a place on, in blocks. A last line without an end counts.

    Raises:
        LogError: it cannot be read, or its compression is damaged; what was readable has been handed out before.
    """
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, place)
        return
    try:
        with path.open("rb") as raw:
            skipped = place.start
            if not path.name.endswith((".gz", ".zst")):
                skipped = min(place.start, 1)  # the end of the line before
                if raw.seek(0, os.SEEK_END) < raw.seek(place.start - skipped):
                    raise _OtherFileError
                chunks = iter(lambda: raw.read(block_bytes), b"")
            else:
                begin = _begin_gzip if path.name.endswith(".gz") else _begin_zstandard
                chunks = _unpack(raw, begin, max(block_bytes // _PACKING, 1))
            yield from _split(_after(chunks, skipped), place)
    except _OtherFileError:
        raise _not_the_file_that_was_read(path, place) from None
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise LogError(
            f"{path} is damaged or cut off ({error}): repair or remove it; records before the damage were read"
        ) from error
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror or error}") from error


class _Frame(Protocol):
    """One frame (zstandard) or member (gzip) of a packed file while it is unpacked."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _begin_gzip() -> _Frame:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header and checksum


def _begin_zstandard() -> _Frame:
    return zstandard.ZstdDecompressor().decompressobj()


def _unpack(raw: BinaryIO, begin: Callable[[], _Frame], packed_bytes: int) -> Iterator[bytes]:
    """What is in a packed file, frame after frame. The readers of both libraries would take a file that was cut off for whole,
    or throw away what comes before the damage.
    """
    frame: _Frame | None = None
    while packed := raw.read(packed_bytes):
        while packed:
            frame = frame or begin()
            yield frame.decompress(packed)
            packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("it ends in the middle of packed data")


def _after(chunks: Iterator[bytes], start: int) -> Iterator[bytes]:
    """Chunks without their first `start` bytes, the last of which must end a line: packed files cannot be read from the middle.

    Where only one byte is missing, the file ends there with a line that has no end.
    """
    for chunk in chunks:
        if 0 < start <= len(chunk) and chunk[start - 1 : start] != b"\n":
            raise _OtherFileError
        yield chunk[start:]
        start = max(start - len(chunk), 0)
    if start > 1:
        raise _OtherFileError


class _OtherFileError(Exception):
    """No line starts where a file was read to before."""


def _not_the_file_that_was_read(path: Path, place: Place) -> LogError:
    return LogError(
        f"{path} is not the file that was read up to line {place.line - 1} before: put that back, or start anew in another --out. "
        "A log that follows on one is read if its parts have other names, or stand behind what was read"
    )


def _split(chunks: Iterator[bytes], place: Place) -> Iterator[Lines]:
    number, start = place.line, place.start
    rest: list[bytes] = []  # of a line that has no end yet; joined once, however many chunks it runs over
    for chunk in chunks:
        lines = chunk.split(b"\n")  # as it is: a copy with the rest before it would cost as much as all else here
        tail = lines.pop()
        if not lines:
            rest.append(tail)
            continue
        size = sum(map(len, rest)) + len(chunk) - len(tail)
        lines[0] = b"".join([*rest, lines[0]])
        rest = [tail]
        yield Lines(number, lines, start)
        number += len(lines)
        start += size
    if last := b"".join(rest):
        yield Lines(number, [last], start)


def _read_parquet(path: Path, place: Place) -> Iterator[Lines]:
    """Rows as JSON lines; a column `features` that holds JSON text is taken for the object that it spells."""
    try:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; SET preserve_insertion_order = true")
            rows_there = connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone()
            if rows_there is None or rows_there[0] < place.line - 1:
                raise _not_the_file_that_was_read(path, place)
            columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            picked = ", ".join(_picked(name, kind) for name, kind, *_ in columns)
            rows = connection.execute(
                f"SELECT to_json(struct_pack({picked}))::VARCHAR FROM read_parquet(?) OFFSET {place.line - 1}",
                [str(path)],
            )
            number = place.line
            while block := rows.fetchmany(4096):
                lines = [_json_line(row[0]) for row in block]
                yield Lines(number, lines, 0)
                number += len(lines)
    except duckdb.Error as error:
        raise LogError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _picked(name: str, kind: str) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if name in ("features", "served") and kind == "VARCHAR":
        # Text that is no JSON stays text, so that this row alone is malformed and not the file.
        return f"{column} := CASE WHEN json_valid({column}) THEN {column}::JSON ELSE to_json({column}) END"
    return f"{column} := {column}"


def _json_line(row: str) -> bytes:
    """A row as JSON; NaN and the infinities, which JSON has no word for, are missing values."""
    if "NaN" in row or "Infinity" in row:
        row = json.dumps(json.loads(row, parse_constant=lambda _: None), ensure_ascii=False, separators=(",", ":"))
    return row.encode()
