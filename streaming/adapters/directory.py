"""Published weights in a directory: writes whole versions, moves `current`, reads them back. Decides nothing about weights.

weights/
    current                      the name of the version to serve
    000001-0000000012/           a version: there whole, or not at all
        manifest.json            what it is; sizes and digests of the parts
        manifest.sha256          the digest of manifest.json, as `sha256sum -c` reads it
        dense.safetensors, rows.safetensors
    epochs/000001                one empty file for every run that ever began
    lock                         held while `current` moves
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.manifest import (
    DamagedWeightsError,
    Manifest,
    Published,
    decode_manifest,
    encode_manifest,
    verify,
    version_name,
)

MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
_NAME = re.compile(r"[0-9]{6}-[0-9]{10}")
_WRITING, _DELETING = ".writing-", ".deleting-"


class DirectoryError(Exception):
    """Weights cannot be written or read; the message names the path, what is wrong and what to do."""


class StaleVersionError(DirectoryError):
    """A version was refused because a newer one stands there: another run has taken over."""


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version that lies in the directory.

    Args:
        name: epoch and version, as its folder is called.
        is_current: whether it is the one to serve.
        manifest: what it says of itself; None if that cannot be read. damage: why; None if it can. Parts are not looked at.
    """

    name: str
    is_current: bool
    manifest: Manifest | None
    damage: str | None


class DirectoryPublisher:
    """Publishes versions into a directory.

    A version appears whole or not at all, and `current` never goes back: not after a crash, and not when a run that
    was thought dead goes on publishing beside its successor.

    Args:
        path: the directory; made if it is not there.
        versions_kept: how many of the newest versions stay; the current one stays in any case.

    Raises:
        DirectoryError: the directory cannot be made.
        ValueError: `versions_kept` is below 1.
    """

    def __init__(self, path: Path, *, versions_kept: int) -> None:
        if versions_kept < 1:
            raise ValueError(
                f"versions_kept must be 1 or more (got {versions_kept}): the newest version is the one to serve"
            )
        self._path = path
        self._versions_kept = versions_kept
        with _naming(path, "make the directory"):
            (path / "epochs").mkdir(parents=True, exist_ok=True)

    def issue_epoch(self) -> int:
        """A new epoch, greater than any that was issued or published here; asked once by every start of a run."""
        epochs = self._path / "epochs"
        with _naming(epochs, "issue an epoch"):
            issued = [int(path.name) for path in epochs.iterdir() if path.name.isdigit()]
            published = [int(name.partition("-")[0]) for name in _names(self._path)]
            epoch = max([0, *issued, *published]) + 1
            while True:
                try:
                    os.close(os.open(epochs / f"{epoch:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                except FileExistsError:  # another run began between the look and the grasp
                    epoch += 1
                else:
                    _sync(epochs)
                    return epoch

    def publish(self, published: Published) -> str:
        """Writes a version, makes it the current one, deletes what is too old.

        The same version with the same bytes may be published again: that is what follows a crash.

        Returns:
            The name of the version.

        Raises:
            StaleVersionError: a newer one is current; nothing was changed.
            DirectoryError: other bytes have this name already, or something could not be written (a full disk, say):
                then nothing of the version is to be seen, and `current` stands where it stood.
            DamagedWeightsError: the bytes are not those the manifest speaks of.
        """
        verify(published)
        name = published.manifest.name
        self._refuse_stale(name)
        manifest = encode_manifest(published.manifest)
        files = {**published.parts, MANIFEST: manifest, DIGEST: _digest_line(manifest)}
        with _naming(self._path / name, "write the version"):
            self._remove_leftovers(name)
            if (self._path / name).exists():
                self._refuse_other_bytes(name, files)
            else:
                self._write(name, files)
        with self._locked():
            self._refuse_stale(name)
            with _naming(self._path / "current", f"point to version {name}"):
                if current_name(self._path) != name:
                    _write_file(self._path / ".current", f"{name}\n".encode())
                    (self._path / ".current").replace(self._path / "current")
                    _sync(self._path)
            with _naming(self._path, "delete old versions"):
                for old in _names(self._path)[: -self._versions_kept]:
                    if old < name:
                        _delete(self._path, old)
        return name

    def _write(self, name: str, files: dict[str, bytes]) -> None:
        writing = self._path / f"{_WRITING}{name}"
        try:
            writing.mkdir()
            for file, data in files.items():
                _write_file(writing / file, data)
            _sync(writing)
            writing.rename(self._path / name)
            _sync(self._path)
        except OSError:
            shutil.rmtree(writing, ignore_errors=True)  # room for whoever filled the disk; hidden from readers anyway
            raise

    def _remove_leftovers(self, name: str) -> None:
        """Removes what crashed runs left half done; a run with a greater epoch may be writing, and is left alone."""
        for path in self._path.iterdir():
            for prefix in (_WRITING, _DELETING):
                if path.name.startswith(prefix) and path.name.removeprefix(prefix) <= name:
                    shutil.rmtree(path)

    def _refuse_stale(self, name: str) -> None:
        current = current_name(self._path)
        if current is not None and name < current:
            raise StaleVersionError(
                f"{self._path}: version {name} was refused, {current} is current: a newer run publishes here; "
                "end this one, or give it a directory of its own"
            )

    def _refuse_other_bytes(self, name: str, files: dict[str, bytes]) -> None:
        for file, data in files.items():
            path = self._path / name / file
            if not path.is_file() or path.read_bytes() != data:
                raise DirectoryError(
                    f"{path} holds other bytes than version {name} has now: a version never changes; "
                    "publish under the next version, or remove this folder if it is damaged"
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time between the look at `current` and its move; the lock ends with its holder."""
        with _naming(self._path / "lock", "take the lock"):
            lock = (self._path / "lock").open("wb")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class DirectoryWeights:
    """Published versions as scorers read them: `ports.WeightsSource`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def current(self) -> tuple[int, int] | None:
        """The version to serve; None if none was published."""
        name = current_name(self._path)
        if name is None:
            return None
        epoch, _, version = name.partition("-")
        return int(epoch), int(version)

    def fetch(self, epoch: int, version: int) -> Published:
        """A version, every byte of it verified; the errors of `read_version`."""
        return read_version(self._path, version_name(epoch, version))


def current_name(path: Path) -> str | None:
    """The name of the version to serve; None if none was published.

    Raises:
        DirectoryError: `current` holds no name.
    """
    with _naming(path / "current", "read the pointer"):
        try:
            name = (path / "current").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
    if not _NAME.fullmatch(name):
        raise DirectoryError(
            f"{path / 'current'} holds {name[:40]!r}, which is no version: write the name of one of {_names(path)[-3:]} into it"
        )
    return name


def list_versions(path: Path) -> list[ListedVersion]:
    """The versions in a directory, oldest first; none if it is not there."""
    current = current_name(path)
    listed = []
    for name in _names(path):
        try:
            listed.append(ListedVersion(name, name == current, _read_manifest(path, name), None))
        except (DamagedWeightsError, DirectoryError) as error:
            listed.append(ListedVersion(name, name == current, None, str(error)))
    return listed


def read_version(path: Path, name: str | None = None) -> Published:
    """A version, every byte of it verified.

    Args:
        path: the directory.
        name: which one; None is the current one.

    Raises:
        DirectoryError: there is no such version, or it cannot be read.
        DamagedWeightsError: it is damaged; the message names version and part.
    """
    if name is None:
        name = current_name(path)
        if name is None:
            raise DirectoryError(f"{path} has no current version: nothing was published there yet")
    if name not in _names(path):
        raise DirectoryError(f"{path} has no version {name!r}; it has {', '.join(_names(path)) or 'none'}")
    manifest = _read_manifest(path, name)
    parts = {}
    for part in manifest.parts:
        if "/" in part or part.startswith("."):
            raise DamagedWeightsError(f"{MANIFEST} of version {name} names a part {part!r} outside of its folder")
        with _naming(path / name / part, "read the part"):
            if (path / name / part).is_file():
                parts[part] = (path / name / part).read_bytes()
    published = Published(manifest, parts)
    verify(published)
    return published


def _read_manifest(path: Path, name: str) -> Manifest:
    with _naming(path / name, "read the version"):
        data, digest = (path / name / MANIFEST).read_bytes(), (path / name / DIGEST).read_bytes()
    if digest != _digest_line(data):
        raise DamagedWeightsError(f"{MANIFEST} of version {name} is damaged: its digest is not the one in {DIGEST}")
    manifest = decode_manifest(data)
    if manifest.name != name:
        raise DamagedWeightsError(f"{MANIFEST} of version {name} is that of version {manifest.name}")
    return manifest


def _digest_line(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _names(path: Path) -> list[str]:
    """The versions that lie there, oldest first."""
    if not path.is_dir():
        return []
    with _naming(path, "list the versions"):
        return sorted(entry.name for entry in path.iterdir() if _NAME.fullmatch(entry.name))


def _delete(path: Path, name: str) -> None:
    """Takes a version out of sight first, so that nobody finds half of it."""
    gone = path / f"{_DELETING}{name}"
    (path / name).rename(gone)
    shutil.rmtree(gone)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Makes the names in a directory outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path, intent: str) -> Iterator[None]:
    """Says which path an error of the system is about, and what was to be done there."""
    try:
        yield
    except OSError as error:
        raise DirectoryError(
            f"{path}: could not {intent} ({error.strerror or error}): look at the disk's free space and rights, then try again"
        ) from error
