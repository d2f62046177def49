"""The lines of a run's file between two places that a cut speaks of. Decides nothing about what is in a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from streaming.adapters.run_directory import RunDirectoryError


def lines_between(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines of an output file from byte `start` on, up to byte `end`; both are lengths that a cut told of it.

    Args:
        path: plain, or zstandard frames (`.zst`). One that is not there is empty.
        start, end: in bytes of the file as it lies there.

    Raises:
        RunDirectoryError: the file is shorter than that, or damaged.
    """
    if end <= start:
        return
    try:
        if path.stat().st_size < end:
            raise RunDirectoryError(
                f"{path} is shorter than the {end} bytes that the newest cut speaks of: put it back as it was"
            )
        with path.open("rb") as file:
            file.seek(start)
            portion: BinaryIO = io.BufferedReader(_Portion(file, end - start))
            if path.suffix == ".zst":
                unpacked = zstandard.ZstdDecompressor().stream_reader(portion, read_across_frames=True)
                portion = io.BufferedReader(unpacked)
            for line in portion:
                yield line.rstrip(b"\n")
    except zstandard.ZstdError as error:
        raise RunDirectoryError(f"{path} is damaged ({error}): put it back as it was") from error
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror or error}") from error


class _Portion(io.RawIOBase):
    """What is left of a file up to a length."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)
