"""The lines of a file up to where it is damaged, and then the damage; must not know what is in a line.

The reader of a run may stop at damage, and with it lose up to a block of good lines before. A look at what is wrong with a log
has to get to the very place. It has to notice a compressed file that was cut off, too: gzip's own file reader throws
away what it unpacked last, and zstandard's takes the cut for the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import zstandard

from streaming.adapters.files import LogError, read_lines
from streaming.log_file import Lines, Place

CHUNK_BYTES = 1 << 18
LINE_BYTES = 1 << 24  # 16 MiB without a line's end is no file of JSON lines


def raw_lines(path: Path, *, start: int = 0) -> Iterator[Lines]:
    """The lines of one file, in blocks. A last line without an end counts, unless the file is damaged there.

    Args:
        path: plain text, `.gz` (members) or `.zst` (frames; any number of either is one text), or `.parquet`, a line a row.
        start: bytes of a plain file to leave out; lines are then numbered from there.

    Raises:
        LogError: it cannot be read, or not on from the lines that were handed out.
    """
    if path.name.endswith(".parquet"):
        yield from read_lines(path, Place())
        return
    texts = _chunks(path, start)
    if path.name.endswith(".gz"):
        texts = _unpacked(texts, lambda: zlib.decompressobj(wbits=31))
    elif path.name.endswith(".zst"):
        texts = _unpacked(texts, lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj())
    number, tail = 1, b""
    try:
        for text in texts:
            lines = (tail + text).split(b"\n")
            tail = lines.pop()
            if lines:
                yield Lines(number, lines, start)
            number += len(lines)
            if len(tail) > LINE_BYTES:
                raise LogError(f"{path}:{number} has no end within 16 MiB: this is no file of JSON lines")
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise LogError(
            f"{path} is damaged or cut off after line {number - 1} ({error}): fetch or write it again"
        ) from error
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error}") from error
    if tail:
        yield Lines(number, [tail], start)


def _chunks(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _Unpacker(Protocol):
    """What zlib and zstandard have in common: one member, or frame, of a compressed file."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _unpacked(chunks: Iterator[bytes], fresh: Callable[[], _Unpacker]) -> Iterator[bytes]:
    """The text of all members one behind the other.

    Raises:
        EOFError: the last member is cut off.
    """
    member: _Unpacker | None = None
    for chunk in chunks:
        left = chunk
        while left:
            member = member or fresh()
            yield member.decompress(left)
            left = b""
            if member.eof:
                left, member = member.unused_data, None
    if member is not None:
        raise EOFError("it ends in the middle")
