"""The files of a run: appends to them, makes them durable, cuts them back. Decides nothing about what they hold."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import zstandard

_LEVEL = 1
"""zstandard level: the fastest of the plain ones; those below it save a fifth of the time and write a half more."""

_THREADS = 1
"""zstandard's own, beside the loop that learns: that hands a line over in .1 us, where packing it would take .5 to .7.
The bytes are the same in whatever portions and however fast they come, and whole once a frame is ended. 6 MB a frame."""


class RunDirectoryError(Exception):
    """A run directory cannot be used; the message names the path, what is wrong and what to do."""


class OutputFile:
    """A file that lines are appended to, plain or as zstandard frames by its suffix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._frame: zstandard.ZstdCompressionObj | None = None
        self._is_compressed = path.suffix == ".zst"

    def append(self, data: bytes) -> None:
        """Adds bytes; they are on disk, and readable, after `sync`."""
        with _naming(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            if self._is_compressed:
                if self._frame is None:
                    self._frame = zstandard.ZstdCompressor(level=_LEVEL, threads=_THREADS).compressobj()
                data = self._frame.compress(data)
            self._file.write(data)

    def sync(self) -> int:
        """Ends the frame, makes all that was appended durable, and returns the length of the file in bytes."""
        if self._file is None:
            return self._length()
        with _naming(self.path):
            if self._frame is not None:
                frame, self._frame = self._frame, None
                self._file.write(frame.flush())
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def cut_back(self, length: int) -> None:
        """Drops what lies beyond a length that `sync` gave.

        Raises:
            RunDirectoryError: the file is shorter than that: somebody took from it.
        """
        self.close()
        there = self._length()
        if there < length:
            raise RunDirectoryError(
                f"{self.path} holds {there} bytes, the cut to go on from speaks of {length}: it was removed or cut short since; "
                "put it back as it was, or start anew in another --out"
            )
        if there > length:
            with _naming(self.path):
                os.truncate(self.path, length)

    def close(self) -> None:
        """Closes the file; what was not synced may be lost with the machine, not with the process."""
        file, frame = self._file, self._frame
        self._file = self._frame = None
        if file is not None:
            with _naming(self.path), file:
                if frame is not None:
                    file.write(frame.flush())

    def _length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


class RunDirectory:
    """The directory of a run, held by one process at a time until it is closed.

    Args:
        path: created if it is not there.
        names: the output files that it appends to, relative to it.

    Raises:
        RunDirectoryError: it cannot be created, or another process holds it.
    """

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"--out {path} cannot be created: {error}") from error
        self._held: int | None = os.open(path, os.O_RDONLY)
        try:
            # The system lets go of it when the process dies, however it dies.
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_go()
            raise RunDirectoryError(
                f"--out {path} is being written by another run: wait for it or end it, or choose another directory"
            ) from None
        self._names = names
        self._files = {name: OutputFile(path / name) for name in names}

    @property
    def is_fresh(self) -> bool:
        """Whether no run has written here."""
        return not any(self.path.iterdir())

    def clear(self) -> None:
        """Removes all that lies here: what a start has left that was refused after it had begun to write."""
        for file in self._files.values():
            file.close()
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def append(self, name: str, data: bytes) -> None:
        """Adds bytes to an output file."""
        if name not in self._files:
            self._files[name] = OutputFile(self.path / name)
        self._files[name].append(data)

    def sync(self) -> dict[str, int]:
        """Makes all output durable; the length of each file in bytes."""
        return {name: file.sync() for name, file in self._files.items()}

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Brings every output file back to a length that `sync` gave; those that were not there then become empty.

        The files that it was made with are there from then on: one that nothing goes to is empty, not missing.
        """
        for name in lengths:
            self._files.setdefault(name, OutputFile(self.path / name))
        for name, file in self._files.items():
            file.cut_back(lengths.get(name, 0))
        for name in self._names:
            with _naming(self.path / name):
                (self.path / name).touch()
        refused = self.path / "batches_refused"
        if refused.is_dir():
            for path in refused.iterdir():
                if f"batches_refused/{path.name}" not in lengths:
                    path.unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Writes a file whole: readers see the old one or the new one."""
        path = self.path / name
        partial = path.with_name(path.name + ".partial")
        with _naming(path):
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)

    def close(self) -> None:
        """Closes all files, also when one of them cannot be written to its end any more, and lets go of the directory."""
        with ExitStack() as stack:
            stack.callback(self._let_go)
            for file in self._files.values():
                stack.callback(file.close)

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says which file an error of the system is about, and what to do."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"{path} cannot be written ({error.strerror or error}): free space or mend its rights, then go on with --resume"
        ) from error
