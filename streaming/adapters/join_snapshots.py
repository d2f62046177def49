"""Snapshots of join partitions in a directory or in Redis: immutable, hashed, there whole or not at all. Decides nothing about what is in one.

A snapshot is named by the model, p, the offset up to which `examples[p]` is known, the offsets of the three streams, and the hash of its bytes:

    MODEL / P / EXAMPLES-IMPRESSIONS-CLICKS-CONVERSIONS-SHA256

so that nobody can overwrite one, a worker that wakes up late neither. The newest that is at or past given offsets is the one to go on from.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
import redis
import redis.exceptions
import zstandard

from streaming.joiner import JoinerSnapshot
from streaming.settings import SettingsError

_CHUNK_BYTES = 8_388_608
"""8 MiB: Redis answers nobody else while it takes in a value."""

_INDEX = "snapshots"
_PASSWORD = "AFTERCLICK_REDIS__PASSWORD"


class SnapshotError(Exception):
    """A snapshot cannot be written, read or found; the message names it, what is wrong and what to do."""


class Name(NamedTuple):
    """What a snapshot is called: how far it is, and the hash of its bytes."""

    examples_end: int
    offsets: tuple[int, ...]
    sha256: str

    def __str__(self) -> str:
        return "-".join([f"{number:019d}" for number in (self.examples_end, *self.offsets)] + [self.sha256])

    @property
    def order(self) -> tuple[int, int]:
        """Of two snapshots of a partition, the one that holds more blocks of `examples[p]` is the newer one."""
        return self.examples_end, sum(self.offsets)


def _parse(text: str) -> Name | None:
    numbers = text.split("-")
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers[:-1]) or len(numbers[-1]) != 64:
        return None
    end, *offsets = map(int, numbers[:-1])
    return Name(end, tuple(offsets), numbers[-1])


class Shelf(Protocol):
    """Keeps byte strings by model, p and name."""

    def names(self, model: str, p: int) -> list[str]:
        """The names of those that are there whole."""

    def read(self, model: str, p: int, name: str) -> bytes:
        """One of them."""

    def write(self, model: str, p: int, name: str, data: bytes) -> None:
        """Puts one there, durably, whole or not at all."""

    def delete(self, model: str, p: int, name: str) -> None:
        """Takes one away; no error if it is not there."""


class JoinSnapshots:
    """The snapshots of a model's join partitions.

    Args:
        shelf: where they are. model: whose. kept: how many of each partition.
    """

    def __init__(self, shelf: Shelf, model: str, *, kept: int) -> None:
        self._shelf, self._model, self._kept = shelf, model, kept

    def write(self, snapshot: JoinerSnapshot, names: Iterable[str]) -> str:
        """Makes a snapshot durable, then deletes all but the newest few; what it is called.

        Args:
            snapshot: of a partition. names: its streams, in their order.

        Raises:
            SnapshotError: it could not be written; those before it are as they were.
        """
        data = zstandard.compress(msgspec.msgpack.encode(snapshot), 1)
        offsets = tuple(snapshot.places[name].line for name in names)
        name = Name(snapshot.examples_end, offsets, hashlib.sha256(data).hexdigest())
        self._shelf.write(self._model, snapshot.p, str(name), data)
        for old in self._all(snapshot.p)[self._kept :]:
            if old != name:
                self._shelf.delete(self._model, snapshot.p, str(old))
        return str(name)

    def newest(self, p: int, committed: Mapping[str, int | None], names: Iterable[str]) -> JoinerSnapshot | None:
        """The newest snapshot of a partition that is at or past what its group has committed; None if nothing was, and there is none.

        Raises:
            SnapshotError: something was committed and there is no such snapshot, or it is damaged.
        """
        least = tuple(committed[name] or 0 for name in names)
        found = self._all(p)
        wrong: list[str] = []
        for name in found:
            if all(offset >= at for offset, at in zip(name.offsets, least, strict=True)):
                try:
                    return self._read(p, name)
                except SnapshotError as error:
                    wrong.append(str(error))
        if not found and not any(least):
            return None
        told = ", ".join(f"{name} at {at}" for name, at in committed.items())
        why = "; ".join(wrong) or f"of {len(found)} there, none is that far"
        raise SnapshotError(
            f"join partition {p} of {self._model} cannot be taken over: its group has committed {told}, and there is no whole snapshot at or past that "
            f"({why}). Give --store the place where the workers before kept them; if that is lost, begin anew: stop the workers, "
            f"delete the group (kafka-consumer-groups --delete --group {self._model}.join), and what is left of the snapshots; what is emitted again is learned once"
        )

    def _read(self, p: int, name: Name) -> JoinerSnapshot:
        data = self._shelf.read(self._model, p, str(name))
        if hashlib.sha256(data).hexdigest() != name.sha256:
            raise SnapshotError(f"snapshot {name} is damaged: its sha256 is another")
        try:
            return msgspec.msgpack.decode(zstandard.decompress(data), type=JoinerSnapshot)
        except (msgspec.DecodeError, zstandard.ZstdError) as error:
            raise SnapshotError(
                f"snapshot {name} is whole but cannot be understood ({error}): join on with the version that wrote it"
            ) from error

    def _all(self, p: int) -> list[Name]:
        """Newest first."""
        names = (_parse(text) for text in self._shelf.names(self._model, p))
        return sorted((name for name in names if name is not None), key=lambda name: name.order, reverse=True)


class DirectoryShelf:
    """A directory that all workers share; a file each.

    Args:
        path: made when it is first written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _folder(self, model: str, p: int) -> Path:
        return self._path / model / str(p)

    def names(self, model: str, p: int) -> list[str]:
        """The names of those that are there whole."""
        folder = self._folder(model, p)
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []

    def read(self, model: str, p: int, name: str) -> bytes:
        """One of them."""
        try:
            return (self._folder(model, p) / name).read_bytes()
        except OSError as error:
            raise SnapshotError(f"snapshot {name} cannot be read: {error}") from error

    def write(self, model: str, p: int, name: str, data: bytes) -> None:
        """Writes a file under another name, makes it durable, renames it."""
        folder = self._folder(model, p)
        partial = folder / f".{os.getpid()}.{name}"  # `_parse` takes it for nothing
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(folder / name)
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise SnapshotError(
                f"snapshot {folder / name} cannot be written ({error}): free space or grant the right, then start the worker again"
            ) from error

    def delete(self, model: str, p: int, name: str) -> None:
        """Takes one away."""
        (self._folder(model, p) / name).unlink(missing_ok=True)


class RedisShelf:
    """Redis: chunks first, then the name into an index, which makes it one that is there.

    Args:
        client: of a Redis that keeps what it has acknowledged (appendonly).
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client

    def _key(self, model: str, p: int, name: str) -> str:
        return f"{{{model}:join:{p}}}:{name}"  # braces: one slot of a cluster for a partition

    def _ask(self, command: str, *arguments: str | int | bytes) -> Any:
        try:
            client: Any = self._client  # redis-py leaves this untyped
            return client.execute_command(command, *arguments)
        except redis.exceptions.RedisError as error:
            raise SnapshotError(
                f"--store: Redis did not do {command} {arguments[0]!r} ({error}): look at it, then start the worker again"
            ) from error

    def names(self, model: str, p: int) -> list[str]:
        """The names of those that are there whole."""
        return [name.decode() for name in self._ask("HKEYS", self._key(model, p, _INDEX))]

    def read(self, model: str, p: int, name: str) -> bytes:
        """One of them."""
        count = int(self._ask("HGET", self._key(model, p, _INDEX), name) or 0)
        chunks = [self._ask("GET", self._key(model, p, f"{name}:{number}")) for number in range(count)]
        if not chunks or None in chunks:
            raise SnapshotError(f"snapshot {name} is damaged: a part of it is gone")
        return b"".join(chunks)

    def write(self, model: str, p: int, name: str, data: bytes) -> None:
        """Writes the chunks, then the name."""
        chunks = [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self._ask("SET", self._key(model, p, f"{name}:{number}"), chunk)
        self._ask("HSET", self._key(model, p, _INDEX), name, len(chunks))

    def delete(self, model: str, p: int, name: str) -> None:
        """Takes the name away, then the chunks."""
        index = self._key(model, p, _INDEX)
        count = int(self._ask("HGET", index, name) or 0)
        self._ask("HDEL", index, name)
        for number in range(count):
            self._ask("DEL", self._key(model, p, f"{name}:{number}"))


def open_shelf(where: str, environ: Mapping[str, str]) -> Shelf:
    """What `--store` names: a directory, or `redis://host:port/db` (`rediss://` with TLS).

    Raises:
        SettingsError: it holds a password.
    """
    if not where.startswith(("redis://", "rediss://")):
        return DirectoryShelf(Path(where))
    if urlsplit(where).password:
        raise SettingsError(
            f"--store must hold no password: command lines are seen by others; set {_PASSWORD} in the environment"
        )
    return RedisShelf(redis.Redis.from_url(where, password=environ.get(_PASSWORD), socket_timeout=30))
