"""Cuts in a directory: written under another name, made durable, renamed. Decides nothing about what is in a cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from streaming.checkpoint import Cut, CutError, OtherRunError, decode_cut, encode_cut
from streaming.settings import Settings

_PARTIAL = ".partial"


class CutDirectory:
    """The consistent cuts of a run, a directory each, named by their number.

    Args:
        path: made with the first cut.
        settings: of the run.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._written: Path | None = None

    def write(self, cut: Cut, tensors: dict[str, torch.Tensor]) -> None:
        """Writes a cut durably, under a name that nobody resumes from.

        Raises:
            CutError: it could not be written (no space left, say); the cuts before it are as they were.
        """
        target = self._path / f"{cut.number:08d}"
        partial = self._path / (target.name + _PARTIAL)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            for leftover in self._path.glob(f"*{_PARTIAL}"):
                shutil.rmtree(leftover)
            partial.mkdir()
            for name, data in encode_cut(cut, tensors, self._settings).items():
                with (partial / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _sync(partial)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CutError(
                f"cut {target} cannot be written ({error}): free space, then go on from the cut before it with --resume"
            ) from error
        self._written = target

    def commit(self) -> None:
        """Gives the cut last written its name, which makes it the one to resume from, and deletes all but the last few."""
        assert self._written is not None
        target, self._written = self._written, None
        if target.exists():  # a damaged one, in place of which an older was resumed from
            shutil.rmtree(target)
        target.with_name(target.name + _PARTIAL).rename(target)
        _sync(self._path)
        for old in self.all()[: -self._settings.cuts.cuts_kept]:
            shutil.rmtree(old)

    def all(self) -> list[Path]:
        """The cuts that can be resumed from, oldest first."""
        if not self._path.is_dir():
            return []
        return sorted(path for path in self._path.iterdir() if path.is_dir() and path.name.isdigit())

    def newest(self) -> tuple[Cut | None, dict[str, torch.Tensor], list[str]]:
        """The newest cut that is whole (None if there is no cut at all), its tensors, and why newer ones were passed over.

        Raises:
            OtherRunError: the newest whole one was written under other settings.
            CutError: there are cuts, and all are damaged.
        """
        passed_over: list[str] = []
        for path in reversed(self.all()):
            try:
                files = {file.name: file.read_bytes() for file in path.iterdir()}
                return *decode_cut(files, self._settings, name=str(path)), passed_over
            except OtherRunError:
                raise
            except (CutError, OSError) as error:
                passed_over.append(str(error))
        if passed_over:
            raise CutError(
                f"no whole cut is left in {self._path}: {'; '.join(passed_over)}. Start anew in another --out"
            )
        return None, {}, []


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
