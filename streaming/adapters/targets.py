r"""Publishes versions to several targets: the run's own directory at once, the others behind it. Decides nothing about weights.

The directory comes first: where it fails, the run ends, as with any other output. Each further target has a thread and a queue:

    publish --> directory --> queue of redis --> | thread | --> redis       tried again with growing pauses
                          \-> queue of kafka --> | thread | --> kafka

A target that is away holds nobody up. It is told of once; when the queue is full, what waits is dropped, and the next version is
a snapshot, which makes it good. So it is when a delta's base is missing there, or publishing was held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from models.manifest import Published
from streaming.adapters.directory import DirectoryPublisher
from streaming.metrics import TargetFigures
from streaming.ports import GapError, HeldError, StaleVersionError, Target, TargetError
from streaming.publication import Publishing


class Behind:
    """A target that is written by a thread of its own.

    Args:
        name: how it is called. target: where to. settings: how long to wait, and how much may wait.
        tell: is told, in words, that it is away, and that it is back.
    """

    def __init__(self, name: str, target: Target, settings: Publishing, tell: Callable[[str], None]) -> None:
        self._name, self._target, self._settings, self._tell = name, target, settings, tell
        self._waiting: deque[Published] = deque()
        self._figures = TargetFigures()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_busy = False
        self.needs_snapshot = False
        """Whether what it has been given last cannot be followed by a delta."""
        self.ended: Exception | None = None
        """Why it takes no more: another run has taken over, or a fault that is no matter of waiting."""
        self._thread = threading.Thread(target=self._run, name=f"afterclick-{name}", daemon=True)
        self._thread.start()

    def give(self, published: Published) -> None:
        """Takes a version to be published there; does not wait.

        Raises:
            StaleVersionError: another run has taken over.
        """
        if self.ended is not None:
            raise self.ended
        with self._changed:
            is_snapshot = published.manifest.kind == "snapshot"
            if is_snapshot and self._figures.is_away:
                self._drop()  # it makes good for all of them
            elif len(self._waiting) >= self._settings.waiting_most:
                self._drop()
                self.needs_snapshot = True
            if is_snapshot:
                self.needs_snapshot = False
            if self.needs_snapshot:
                self._count(dropped=1)
            else:
                self._waiting.append(published)
                self._changed.notify_all()

    def figures(self) -> TargetFigures:
        """How it is doing."""
        with self._changed:
            return msgspec.structs.replace(self._figures, waiting=len(self._waiting))

    def close(self, deadline: float) -> None:
        """Waits until nothing waits, or until a moment of the monotonic clock; lets go of the target."""
        with self._changed:
            while (self._waiting or self._is_busy) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            undone = len(self._waiting)
            self._is_closing = True
            self._changed.notify_all()
        if undone:
            self._tell(f"{self._name}: {undone} versions were not published there; the next run begins with a snapshot")
        self._thread.join(max(0.0, deadline - time.monotonic()) + 1.0)
        if not self._thread.is_alive():
            self._target.close()

    def _run(self) -> None:
        pause_ms = self._settings.retry_ms
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                while not self._waiting and not self._is_closing:
                    self._changed.wait()
                if self._is_closing:
                    return
                published, self._is_busy = self._waiting[0], True
            if self._took(published):
                pause_ms = self._settings.retry_ms
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, pause_ms / 1000)
            pause_ms = min(2 * pause_ms, self._settings.retry_most_ms)

    def _took(self, published: Published) -> bool:
        """One try; whether this version is done with."""
        try:
            name = self._target.publish(published)
        except (GapError, HeldError) as error:
            with self._changed:
                self._drop(after=published)
                self._count(held=int(isinstance(error, HeldError)))
            return True
        except StaleVersionError as error:
            if int(error.current.partition("-")[0]) == published.manifest.epoch:  # a rollback: later versions go on
                with self._changed:
                    self._drop(after=published)
                return True
            self._end(error)
            return True
        except TargetError as error:
            with self._changed:
                is_new = not self._figures.is_away
                self._count(retries=1)
                self._figures = msgspec.structs.replace(self._figures, is_away=True)
                is_done = published not in self._waiting  # dropped meanwhile
            if is_new:
                self._tell(f"{error}. Training goes on; publishing there is tried again, with growing pauses")
            return is_done
        except Exception as error:  # a fault of ours: the run ends with it, in its own thread
            self._end(error)
            return True
        with self._changed:
            was_away = self._figures.is_away
            self._count(published=1)
            self._figures = msgspec.structs.replace(self._figures, version=name, is_away=False)
            if self._waiting and self._waiting[0] is published:
                self._waiting.popleft()
        if was_away:
            self._tell(f"{self._name} is back, version {name} is there")
        return True

    def _end(self, error: Exception) -> None:
        self.ended = error
        with self._changed:
            self._waiting.clear()

    def _drop(self, after: Published | None = None) -> None:
        """Drops what waits up to the newest snapshot; `after` is a version that was refused, which nothing can be a delta to."""
        while self._waiting and (
            self._waiting[0] is after or after is None or self._waiting[0].manifest.kind == "delta"
        ):
            self._waiting.popleft()
            self._count(dropped=1)
        if after is not None:
            self.needs_snapshot = not self._waiting

    def _count(self, **counts: int) -> None:
        more = {key: getattr(self._figures, key) + count for key, count in counts.items()}
        self._figures = msgspec.structs.replace(self._figures, **more)


class Targets:
    """Where the versions of a run go, as a `Publisher`.

    Args:
        directory: the run's own, written at once.
        others: name -> the other targets.
        settings: how they are treated.
        tell: is told, in words, what a person should look at.
    """

    def __init__(
        self,
        directory: DirectoryPublisher,
        others: Mapping[str, Target],
        settings: Publishing,
        *,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._settings = settings
        self._directory, self._others = directory, dict(others)
        self._behind = {name: Behind(name, target, settings, tell) for name, target in others.items()}
        self._figures = TargetFigures()
        self._misses_base = False

    def issue_epoch(self) -> int:
        """A new epoch that every target has issued: greater than any before, in any of them.

        Raises:
            TargetError: one does not answer. A run begins only where it can be told from every other.
        """
        targets, epoch = [*self._others.values(), self._directory], 1
        while True:
            issued = [target.issue_epoch(at_least=epoch) for target in targets]
            if min(issued) == max(issued):
                return issued[0]
            epoch = max(issued)

    def publish(self, published: Published) -> str:
        """Makes a version visible in the directory, and sees to it that it reaches the others.

        Raises:
            StaleVersionError: another run has taken over, here or in another target.
            HeldError, TargetError: the directory refused it, or it could not be written.
        """
        self._misses_base = True
        try:
            name = self._directory.publish(published)
        except HeldError:
            self._figures = msgspec.structs.replace(self._figures, held=self._figures.held + 1)
            raise
        self._misses_base = False
        self._figures = msgspec.structs.replace(self._figures, version=name, published=self._figures.published + 1)
        for behind in self._behind.values():
            behind.give(published)
        return name

    def keep_refused(self, published: Published, why: str) -> None:
        """Keeps a version that must not be served in the directory, and why; no other target hears of it."""
        self._directory.keep_refused(published, why)

    @property
    def needs_snapshot(self) -> bool:
        """Whether the next version must be a snapshot: somewhere its base would be missing."""
        return self._misses_base or any(behind.needs_snapshot for behind in self._behind.values())

    def figures(self) -> dict[str, TargetFigures]:
        """How each target is doing, by name."""
        return {"directory": self._figures} | {name: behind.figures() for name, behind in self._behind.items()}

    def close(self) -> None:
        """Waits, for as long as the settings say, until every target has taken what waits for it."""
        deadline = time.monotonic() + self._settings.close_timeout_ms / 1000
        for behind in self._behind.values():
            behind.close(deadline)
