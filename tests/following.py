"""Readers of published weights in processes of their own, which may be killed, paused and started late, for tests.

A reader polls without a pause and tells of each version that it takes into service: its name, and the digest of all its tensors. The processes are
forked from one that has imported everything: importing torch takes seconds.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import torch

from streaming.publication import TargetName
from streaming.reader import WeightsReader
from streaming.settings import Settings, load
from streaming.target_choice import source_of

PATIENCE_S = 60.0


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """All that is in a whole version."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _follow(target: TargetName, run: str, teller: Connection) -> None:
    settings: Settings = load(Path(run) / "settings.toml", {})
    reader = WeightsReader(source_of(target, Path(run), settings, {}), clock=lambda: 0)
    while True:
        if reader.poll() and reader.served is not None:
            teller.send((reader.served.manifest.name, digest_of(reader.served.weights.tensors)))
        time.sleep(0.01)


class Follower:
    """One reader of a target of a run, as a process."""

    def __init__(self, target: TargetName, run: Path) -> None:
        self.target = target
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["following"])
        self._told, teller = context.Pipe(duplex=False)
        self.process = context.Process(target=_follow, args=(target, str(run), teller), daemon=True)
        self.process.start()
        teller.close()
        self.seen: list[tuple[str, str]] = []

    @property
    def has_swapped(self) -> bool:
        """Whether it has told of a version, without waiting."""
        while self._told.poll():
            self.seen.append(self._told.recv())
        return bool(self.seen)

    def until(self, name: str) -> str:
        """Waits until this version is in service; the digest of its tensors."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.seen or self.seen[-1][0] != name:
            left = deadline - time.monotonic()
            assert self._told.poll(max(left, 0.0)), (self.target, name, [seen for seen, _ in self.seen])
            self.seen.append(self._told.recv())
        return self.seen[-1][1]

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self._told.close()
