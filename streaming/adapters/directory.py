"""Published weights in a directory: writes whole versions, moves `current`. Decides nothing about weights.

weights/
    current                      the name of the version to serve
    000001-0000000012/           a version: there whole, or not at all
        manifest.json            what it is; sizes and digests of the parts
        manifest.sha256          the digest of manifest.json, as `sha256sum -c` reads it
        dense.safetensors, rows.safetensors
    epochs/000001                one empty file for every run that ever began
    refused/NAME/                versions that the gate refused; reason.txt says why
    held                         why publishing is held, while it is
    lock                         held while `current` moves
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.chains import retained
from models.manifest import Manifest, Published, encode_manifest, parse_name, verify
from streaming.adapters.directory_source import (
    DIGEST,
    MANIFEST,
    DirectoryError,
    base_of,
    current_name,
    digest_line,
    is_rollback,
    names,
    naming,
)
from streaming.ports import GapError, HeldError, StaleVersionError

_WRITING, _DELETING = ".writing-", ".deleting-"


class DirectoryPublisher:
    """Publishes versions into a directory.

    A version appears whole or not at all, and `current` never goes back: not after a crash, and not when a run that
    was thought dead goes on publishing beside its successor.

    Args:
        path: the directory; made if it is not there.
        versions_kept: how many of the newest versions stay, and all that they are deltas to; the current one stays in any case.

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
        self._epoch = 0  # issued last
        self._bases: dict[
            str, str | None
        ] = {}  # of the versions that lie there, once looked at: a version never changes
        with naming(path, "make the directory"):
            (path / "epochs").mkdir(parents=True, exist_ok=True)

    def issue_epoch(self, *, at_least: int = 1) -> int:
        """A new epoch, greater than any that was issued or published here; the one issued last, if that is `at_least` as great."""
        if self._epoch >= at_least > 1:
            return self._epoch
        epochs = self._path / "epochs"
        epoch = max(at_least, self.newest_epoch() + 1)
        with naming(epochs, "issue an epoch"):
            while True:
                try:
                    os.close(os.open(epochs / f"{epoch:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                except FileExistsError:  # another run began between the look and the grasp
                    epoch += 1
                else:
                    _sync(epochs)
                    self._epoch = epoch
                    return epoch

    def newest_epoch(self) -> int:
        """The greatest epoch that was issued or published here; 0 before the first."""
        epochs = self._path / "epochs"
        with naming(epochs, "look for the newest epoch"):
            issued = [int(path.name) for path in epochs.iterdir() if path.name.isdigit()]
        return max([0, *issued, *(parse_name(name)[0] for name in names(self._path))])

    def publish(self, published: Published, *, past_hold: bool = False) -> str:
        """Writes a version, makes it the current one, deletes what is too old.

        The same version with the same bytes may be published again: that is what follows a crash.

        Returns:
            The name of the version.

        Raises:
            StaleVersionError: a newer one is current; nothing was changed. GapError: it is a delta, and its base is not there.
            HeldError: publishing is held, and `past_hold` does not say that it goes on nevertheless.
            DirectoryError: other bytes have this name already, or something could not be written (a full disk, say):
                then nothing of the version is to be seen, and `current` stands where it stood.
            DamagedWeightsError: the bytes are not those the manifest speaks of.
        """
        verify(published)
        name = published.manifest.name
        self._refuse_held(name, past_hold=past_hold)
        self._refuse_stale(name)
        self._refuse_gap(published.manifest)
        manifest = encode_manifest(published.manifest)
        files = {**published.parts, MANIFEST: manifest, DIGEST: digest_line(manifest)}
        with naming(self._path / name, "write the version"):
            self._remove_leftovers(name)
            if (self._path / name).exists():
                self._refuse_other_bytes(name, files)
            else:
                self._write(name, files)
        with self._locked():
            self._refuse_held(name, past_hold=past_hold)
            self._refuse_stale(name)
            with naming(self._path / "current", f"point to version {name}"):
                if current_name(self._path) != name:
                    _write_file(self._path / ".current", f"{name}\n".encode())
                    (self._path / ".current").replace(self._path / "current")
                    _sync(self._path)
            with naming(self._path, "delete old versions"):
                self._delete_old(name)
        return name

    def _delete_old(self, name: str) -> None:
        there = names(self._path)
        self._bases = {each: self._bases[each] if each in self._bases else base_of(self._path, each) for each in there}
        kept = retained(self._bases, self._versions_kept)
        for old in there:
            if old < name and old not in kept:
                _delete(self._path, old)

    def keep_refused(self, published: Published, why: str) -> None:
        """Keeps a version that must not be served under `refused/`, the newest few of them, with the reason in `reason.txt`."""
        refused = self._path / "refused"
        with naming(refused, "keep a refused version"):
            refused.mkdir(exist_ok=True)
            manifest = encode_manifest(published.manifest)
            files = {
                **published.parts,
                MANIFEST: manifest,
                DIGEST: digest_line(manifest),
                "reason.txt": f"{why}\n".encode(),
            }
            kept = refused / published.manifest.name
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for file, data in files.items():
                _write_file(kept / file, data)
            for old in sorted(path.name for path in refused.iterdir())[: -self._versions_kept]:
                _remove(refused / old)

    def hold(self, why: str) -> None:
        """Refuses every further version, until `release`."""
        with self._locked(), naming(self._path / "held", "hold publishing"):
            _write_file(self._path / ".held", f"{why}\n".encode())
            (self._path / ".held").replace(self._path / "held")
            _sync(self._path)

    def release(self) -> None:
        """Lets versions be published again."""
        with self._locked(), naming(self._path / "held", "release publishing"):
            (self._path / "held").unlink(missing_ok=True)
            _sync(self._path)

    def held(self) -> str | None:
        """Why publishing is held; None if it is not."""
        with naming(self._path / "held", "look whether publishing is held"):
            try:
                return (self._path / "held").read_text(encoding="utf-8", errors="replace").strip()
            except FileNotFoundError:
                return None

    def close(self) -> None:
        """Nothing is held open."""

    def _refuse_held(self, name: str, *, past_hold: bool) -> None:
        if not past_hold and (why := self.held()) is not None:
            raise HeldError(
                f"{self._path}: version {name} was refused, publishing is held: {why}; `afterclick weights release` lets it go on"
            )

    def _refuse_gap(self, manifest: Manifest) -> None:
        base = manifest.base_name
        if base is not None and not (self._path / base / MANIFEST).is_file():
            raise GapError(
                f"{self._path}: version {manifest.name} was refused, it is a delta to {base}, which is not there: publish a snapshot"
            )

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
                    _remove(path)

    def _refuse_stale(self, name: str) -> None:
        current = current_name(self._path)
        if current is not None and name < current:
            raise StaleVersionError(
                f"{self._path}: version {name} was refused, {current} is current: a newer run publishes here; "
                "end this one, or give it a directory of its own",
                current=current,
            )

    def _refuse_other_bytes(self, name: str, files: dict[str, bytes]) -> None:
        if is_rollback(self._path, name) and (self._path / name / MANIFEST).read_bytes() != files[MANIFEST]:
            raise StaleVersionError(f"{self._path}: version {name} was refused, a rollback has that name", current=name)
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
        with naming(self._path / "lock", "take the lock"):
            lock = (self._path / "lock").open("wb")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _delete(path: Path, name: str) -> None:
    """Takes a version out of sight first, so that nobody finds half of it."""
    gone = path / f"{_DELETING}{name}"
    (path / name).rename(gone)
    _remove(gone)


def _remove(path: Path) -> None:
    """A folder with all that is in it; a link or a file that somebody has put in its place, itself."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


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
