"""The first half of the line in a process of its own, so that records are read while batches are learned. Decides nothing about either.

The process is `python -m streaming.ingest_worker`. It is told its job on stdin, as one frame, and sends deliveries through a pipe; when it
is read no longer it waits, and when stdin ends, since we have died, it ends. A frame is its length (8 bytes, big-endian), a tag of one
byte and its content.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, BinaryIO

import msgspec

from streaming.deliveries import Delivery, IngestState
from streaming.wire import decode_delivery

JOB, STOP = b"j", b"s"
DELIVERY, FAILURE, END = b"d", b"f", b"e"
AHEAD = 2
"""Deliveries that wait to be learned, a block of records each: enough that learning never waits for one, and memory is bounded."""


class IngestProcessError(Exception):
    """The ingest process has died, or failed in a way that nobody foresaw; the message says how, and what to do."""


class Failure(msgspec.Struct, frozen=True):
    """What went wrong in the process: the name of the exception, its message, and where it was raised."""

    kind: str
    says: str
    trace: str


class IngestProcess:
    """A `Feed` whose work is done in another process.

    Args:
        job: what is to be done, as bytes for `streaming.ingest_worker`, of where to go on and whether to close at the end.
        errors: exceptions, by name, that are raised here as they were there.
        remedy: what to do if it dies, in words.
    """

    def __init__(
        self,
        job: Callable[[IngestState | None, bool], bytes],
        errors: Mapping[str, type[Exception]],
        *,
        remedy: str = "the same command goes on from the last cut",
    ) -> None:
        self._job, self._errors, self._remedy = job, errors, remedy
        self._state: IngestState | None = None
        self._stdin: IO[bytes] | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Asks a live ingest to come to its end: what it has read is delivered, and then a cut. May be called from a signal handler."""
        self._is_stopped = True
        if self._stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                write_frame(self._stdin, STOP, b"")

    def restore(self, state: IngestState) -> None:
        """Takes up where a cut was taken."""
        self._state = state

    def deliveries(self, *, close_at_end: bool = False) -> Iterator[Delivery]:
        """What the source brings, to its end.

        Raises:
            IngestProcessError: the process died. Any of `errors`: it said so.
        """
        received, sent = os.pipe()
        command = [sys.executable, "-m", "streaming.ingest_worker", str(sent)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(sent,))
        os.close(sent)
        frames: queue.Queue[tuple[bytes, bytes] | None] = queue.Queue(AHEAD)
        is_left = threading.Event()
        pipe = os.fdopen(received, "rb", buffering=1 << 20)
        reader = threading.Thread(target=_read_frames, args=(pipe, frames, is_left), daemon=True)
        try:
            assert worker.stdin is not None
            reader.start()
            with contextlib.suppress(
                BrokenPipeError
            ):  # it died at once; what it left in the pipe, or did not, says more
                write_frame(worker.stdin, JOB, self._job(self._state, close_at_end))
                self._stdin = worker.stdin
                if self._is_stopped:  # before it began
                    self.stop()
            while (frame := frames.get()) is not None:
                tag, content = frame
                if tag == END:
                    return
                if tag == FAILURE:
                    self._raise(msgspec.msgpack.decode(content, type=Failure))
                yield decode_delivery(content)
            raise IngestProcessError(
                f"the process that reads records ended with code {worker.wait()} and did not say why (out of memory? killed?): "
                f"{self._remedy}"
            )
        finally:
            self._stdin = None
            is_left.set()
            worker.kill()
            worker.wait()
            if worker.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    worker.stdin.close()
            while reader.is_alive():  # it may stand before a full queue
                try:
                    frames.get(timeout=0.05)
                except queue.Empty:
                    continue
            pipe.close()

    def _raise(self, failure: Failure) -> None:
        known = self._errors.get(failure.kind)
        if known is not None:
            raise known(failure.says)
        raise IngestProcessError(f"the process that reads records failed: {failure.trace}")


def _read_frames(pipe: BinaryIO, frames: queue.Queue[tuple[bytes, bytes] | None], is_left: threading.Event) -> None:
    while not is_left.is_set():
        try:
            frame = read_frame(pipe)
        except (OSError, EOFError):
            frame = None
        frames.put(frame)
        if frame is None:
            return


def read_frame(pipe: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next frame, as tag and content; None where the pipe ends between two.

    Raises:
        EOFError: it ends within one.
    """
    head = pipe.read(9)
    if not head:
        return None
    length = int.from_bytes(head[:8], "big")
    content = pipe.read(length)
    if len(head) < 9 or len(content) < length:
        raise EOFError("the pipe ended within a frame")
    return head[8:], content


def write_frame(pipe: IO[bytes], tag: bytes, content: bytes) -> None:
    """Sends a frame."""
    pipe.write(len(content).to_bytes(8, "big") + tag)
    pipe.write(content)
    pipe.flush()
