"""What was polled, kept in a directory, and polls from it again. Decides nothing about what a look at the outside showed.

tape/
    tape.json                     how many partitions, and where each stream was read from
    000001.polled.zst, ...        looks in order: msgpack, a length of 4 bytes before each, in zstandard frames
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard

from streaming.adapters.run_directory import OutputFile
from streaming.live import Polled
from streaming.log_file import Place

FORMAT = 1
TAPE = "tape.json"
_ROLLED_BYTES = 256 << 20
"""Packed bytes after which a sync begins another file: some ten million records, an hour at 3,000 a second."""

_LENGTH_BYTES = 4
_READ_BYTES = 1 << 18
"""Packed bytes unpacked at a time: a few megabytes of looks."""


class TapeError(Exception):
    """A tape cannot be written or read; the message names the path, what is wrong and what to do."""


class Tape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tape is of.

    Args:
        partitions: how many each topic has. starts: offset at which each `topic[partition]` begins.
    """

    format: int
    partitions: int
    starts: dict[str, int]

    def places(self) -> dict[str, Place]:
        """Where each stream begins."""
        return {name: Place(line=offset) for name, offset in self.starts.items()}


class TapeWriter:
    """Appends looks to a tape.

    Args:
        path: its directory; made if it is not there.
        partitions, starts: what it is of; one that is there already must be of the same.
        rolled_bytes: how long a file may be before the next begins.

    Raises:
        TapeError: another tape lies there.
    """

    def __init__(
        self, path: Path, *, partitions: int, starts: Mapping[str, Place], rolled_bytes: int = _ROLLED_BYTES
    ) -> None:
        self._path, self._rolled_bytes = path, rolled_bytes
        offsets = {name: place.line for name, place in sorted(starts.items())}
        path.mkdir(parents=True, exist_ok=True)
        if not (path / TAPE).exists():
            data = msgspec.json.format(msgspec.json.encode(Tape(FORMAT, partitions, offsets)))
            partial = path / (TAPE + ".partial")
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path / TAPE)
        elif (there := read_tape(path)).partitions != partitions or set(there.starts) != set(offsets):
            raise TapeError(
                f"--record {path} holds a tape of {there.partitions} partitions of {', '.join(sorted(there.starts))}: give another directory"
            )
        self._files = {file.name: OutputFile(file) for file in _files(path)}
        self._encoder = msgspec.msgpack.Encoder()

    def append(self, polled: Polled) -> None:
        """Adds a look; it is on disk after `sync`."""
        data = self._encoder.encode(polled)
        self._newest().append(len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def _newest(self) -> OutputFile:
        if not self._files:
            self._begin(1)
        return self._files[max(self._files)]

    def _begin(self, number: int) -> None:
        name = f"{number:06d}.polled.zst"
        self._files[name] = OutputFile(self._path / name)

    def sync(self) -> dict[str, int]:
        """Makes all looks durable; the length of each file in bytes."""
        lengths = {name: file.sync() for name, file in self._files.items()}
        newest = max(lengths, default=None)
        if newest is not None and lengths[newest] >= self._rolled_bytes:
            self._files[newest].close()
            self._begin(int(newest.partition(".")[0]) + 1)
        return lengths

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        """Brings the tape back to where `sync` gave these lengths.

        Raises:
            RunDirectoryError: a file is shorter than that.
        """
        for name in lengths:
            self._files.setdefault(name, OutputFile(self._path / name))
        for name in sorted(self._files):
            self._files[name].cut_back(lengths.get(name, 0))
            if name not in lengths:
                (self._path / name).unlink(missing_ok=True)
                del self._files[name]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class TapePolls:
    """The looks of a tape, in order, as polls.

    The end of a tape whose run was killed is where its last whole look ends.

    Args:
        path: its directory.

    Raises:
        TapeError: there is no tape, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.tape = read_tape(path)
        self._looks = _looks(path)

    def poll(self, paused: frozenset[str]) -> Polled | None:
        """The next look, None at the end. What was paused then was not read then."""
        return next(self._looks, None)


def read_tape(path: Path) -> Tape:
    """What a tape is of.

    Raises:
        TapeError: there is none, or another version's.
    """
    try:
        tape = msgspec.json.decode((path / TAPE).read_bytes(), type=Tape)
    except FileNotFoundError:
        raise TapeError(
            f"{path} holds no tape ({TAPE} is not there): give the directory that --record was given"
        ) from None
    except msgspec.DecodeError as error:
        raise TapeError(f"{path / TAPE} cannot be read ({error}): put it back as it was") from error
    if tape.format != FORMAT:
        raise TapeError(
            f"{path} has format {tape.format}, this version reads {FORMAT}: replay it with the version that recorded it"
        )
    return tape


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.polled.zst"))


def _looks(path: Path) -> Iterator[Polled]:
    decode = msgspec.msgpack.Decoder(Polled).decode
    files = _files(path)
    for file in files:
        try:
            with file.open("rb") as packed:
                for data in _messages(packed, is_last=file == files[-1]):
                    yield decode(data)
        except (EOFError, zstandard.ZstdError, msgspec.DecodeError) as error:
            raise TapeError(
                f"{file} is damaged ({error}): put it back as it was; what stands before was replayed"
            ) from error


def _messages(packed: BinaryIO, *, is_last: bool) -> Iterator[bytes]:
    """What has its length before it. The last file may end anywhere: its writer was killed."""
    rest = b""
    try:
        for chunk in _unpacked(packed):
            rest += chunk
            start = 0
            while (end := start + _LENGTH_BYTES + int.from_bytes(rest[start : start + _LENGTH_BYTES], "little")) <= len(
                rest
            ):
                yield rest[start + _LENGTH_BYTES : end]
                start = end
            rest = rest[start:]
        if rest:
            raise EOFError("it ends in the middle of a look")
    except EOFError:
        if not is_last:
            raise


def _unpacked(packed: BinaryIO) -> Iterator[bytes]:
    """What is in the frames of a file; a reader of the library would take one that was cut off for whole."""
    frame: zstandard.ZstdDecompressionObj | None = None
    while data := packed.read(_READ_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("it ends in the middle of packed data")
