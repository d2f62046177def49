"""Reads published weights from a directory, every byte verified. Decides nothing about weights, and changes nothing; see `directory.py`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.manifest import (
    DamagedWeightsError,
    Manifest,
    MissingWeightsError,
    Published,
    decode_manifest,
    parse_name,
    verify,
    version_name,
)
from streaming.ports import TargetError

MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
_NAME = re.compile(r"[0-9]{6}-[0-9]{10}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_TOLD = 5  # versions that a refusal names


class DirectoryError(TargetError):
    """Weights cannot be written or read; the message names the path, what is wrong and what to do."""


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


def current_name(path: Path) -> str | None:
    """The name of the version to serve; None if none was published.

    Raises:
        DirectoryError: `current` holds no name.
    """
    with naming(path / "current", "read the pointer"):
        try:
            name = (path / "current").read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
    if not _NAME.fullmatch(name):
        raise DirectoryError(
            f"{path / 'current'} holds {name[:40]!r}, which is no version: write the name of one of {names(path)[-3:]} into it"
        )
    return name


def parse_version(path: Path, name: str) -> tuple[int, int]:
    """The (epoch, version) of a version that lies in a directory.

    Args:
        path: the directory.
        name: as the folder is called, or the number of the version alone: that of the newest epoch which has it.

    Raises:
        DirectoryError: there is no such version.
    """
    there = names(path)
    meant = name
    if _NUMBER.fullmatch(name):
        meant = next((each for each in reversed(there) if parse_name(each)[1] == int(name)), name)
    if meant not in there:
        rest = ", ".join(there[-_TOLD:]) or "none"
        if len(there) > _TOLD:
            rest = f"{len(there)}, {rest} the newest"
        raise DirectoryError(f"{path} has no version {name!r}; it has {rest}")
    return parse_name(meant)


def list_versions(path: Path) -> list[ListedVersion]:
    """The versions in a directory, oldest first; none if it is not there."""
    current = current_name(path)
    listed = []
    for name in names(path):
        try:
            listed.append(ListedVersion(name, name == current, read_manifest(path, name), None))
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
    name = version_name(*parse_version(path, name))
    manifest = read_manifest(path, name)
    parts = {}
    for part in manifest.parts:
        if "/" in part or part.startswith("."):
            raise DamagedWeightsError(f"{MANIFEST} of version {name} names a part {part!r} outside of its folder")
        with naming(path / name / part, "read the part"):
            if (path / name / part).is_file():
                parts[part] = (path / name / part).read_bytes()
    published = Published(manifest, parts)
    verify(published)
    return published


def base_of(path: Path, name: str) -> str | None:
    """The version that a version is a delta to; None for a snapshot, and where it cannot be told."""
    try:
        return read_manifest(path, name).base_name
    except (DamagedWeightsError, DirectoryError):
        return None


def is_rollback(path: Path, name: str) -> bool:
    """Whether a version is an older one, published anew."""
    try:
        return read_manifest(path, name).republishes is not None
    except (DamagedWeightsError, DirectoryError):
        return False


class DirectorySource:
    """Published weights in a directory, as a `WeightsSource`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def current(self) -> tuple[int, int] | None:
        """The (epoch, version) to serve; None before the first."""
        name = current_name(self._path)
        return None if name is None else parse_name(name)

    def fetch(self, epoch: int, version: int) -> Published:
        """A version, every byte of it verified."""
        name = version_name(epoch, version)
        try:
            return read_version(self._path, name)
        except DirectoryError as error:
            if name not in names(self._path):
                raise MissingWeightsError(str(error)) from error
            raise

    def close(self) -> None:
        """Nothing is held open."""


def read_manifest(path: Path, name: str) -> Manifest:
    """What a version says of itself, seen to be what was written; its parts are not looked at."""
    with naming(path / name, "read the version"):
        data, digest = (path / name / MANIFEST).read_bytes(), (path / name / DIGEST).read_bytes()
    if digest != digest_line(data):
        raise DamagedWeightsError(f"{MANIFEST} of version {name} is damaged: its digest is not the one in {DIGEST}")
    manifest = decode_manifest(data)
    if manifest.name != name:
        raise DamagedWeightsError(f"{MANIFEST} of version {name} is that of version {manifest.name}")
    return manifest


def digest_line(manifest: bytes) -> bytes:
    """The digest of a manifest, as `sha256sum -c` reads it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def names(path: Path) -> list[str]:
    """The versions that lie there, oldest first."""
    if not path.is_dir():
        return []
    with naming(path, "list the versions"):
        return sorted(entry.name for entry in path.iterdir() if _NAME.fullmatch(entry.name))


@contextmanager
def naming(path: Path, intent: str) -> Iterator[None]:
    """Says which path an error of the system is about, and what was to be done there."""
    try:
        yield
    except OSError as error:
        raise DirectoryError(
            f"{path}: could not {intent} ({error.strerror or error}): look at the disk's free space and rights, then try again"
        ) from error
