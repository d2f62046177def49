"""Logs in files: finds a log's parts and hands out their lines in blocks. Decides nothing about what is in a line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import duckdb
import zstandard

from streaming.events import RecordKind
from streaming.log_file import Lines, Place

BLOCK_BYTES = 1 << 20
"""Read at a time: some 4,000 impressions; larger blocks gain nothing and cost memory."""

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


def read_lines(path: Path, place: Place, block_bytes: int = BLOCK_BYTES) -> Iterator[Lines]:
    """The lines of one file from a place on, in blocks. A last line without an end counts.

    Raises:
        LogError: it cannot be read, or its compression is damaged; what was readable has been handed out before.
    """
    if path.name.endswith(".parquet"):
        yield from _read_parquet(path, place)
        return
    try:
        with path.open("rb") as raw:
            if path.name.endswith(".gz"):
                # The gzip reader seeks by unpacking again from the start: right, and as cheap as can be had.
                stream: BinaryIO = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
            elif path.name.endswith(".zst"):
                stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
            else:
                stream = raw
            yield from _split(stream, place, block_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise LogError(
            f"{path} is damaged or cut off ({error}): repair or remove it; records before the damage were read"
        ) from error
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error}") from error


def _split(stream: BinaryIO, place: Place, block_bytes: int) -> Iterator[Lines]:
    stream.seek(place.start)
    number, start, rest = place.line, place.start, b""
    while chunk := stream.read(block_bytes):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if lines:
            yield Lines(number, lines, start)
            number += len(lines)
            start += sum(map(len, lines)) + len(lines)
    if rest:
        yield Lines(number, [rest], start)


def _read_parquet(path: Path, place: Place) -> Iterator[Lines]:
    """Rows as JSON lines; a column `features` that holds JSON text is taken for the object that it spells."""
    try:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; SET preserve_insertion_order = true")
            columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            picked = ", ".join(
                f'"{name}" := "{name}"::JSON'
                if name in ("features", "served") and kind == "VARCHAR"
                else f'"{name}" := "{name}"'
                for name, kind, *_ in columns
            )
            rows = connection.execute(
                f"SELECT to_json(struct_pack({picked}))::VARCHAR FROM read_parquet(?) OFFSET {place.line - 1}",
                [str(path)],
            )
            number = place.line
            while block := rows.fetchmany(4096):
                lines = [row[0].encode() for row in block]
                yield Lines(number, lines, 0)
                number += len(lines)
    except duckdb.Error as error:
        raise LogError(f"{path} cannot be read as Parquet: {error}") from error
