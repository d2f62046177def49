"""The process that ingests: does the job it is told on stdin and sends deliveries through a pipe. Must not know who learns of them."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from typing import BinaryIO

import msgspec

from streaming.adapters.ingest_process import DELIVERY, END, FAILURE, Failure, read_frame, write_frame
from streaming.ingest_job import Job, deliveries_of
from streaming.wire import encode_delivery


def main(descriptor: int) -> None:
    """Does the job on stdin; deliveries go to this file descriptor."""
    # Ctrl-C, and a SIGTERM to all of the group, are for the process that learns; when it ends, so do we.
    for asked_to_stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_stop, signal.SIG_IGN)
    os.nice(10)  # a step waits for its slowest thread: whoever learns comes first, we take what is left
    try:
        frame = read_frame(sys.stdin.buffer)
    except EOFError:  # whoever began to tell us has died
        frame = None
    if frame is None:
        return
    stop = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, stop), daemon=True).start()
    gc.freeze()  # what is loaded stays
    with os.fdopen(descriptor, "wb", buffering=0) as pipe:
        try:
            for delivery in deliveries_of(msgspec.msgpack.decode(frame[1], type=Job), stop):
                write_frame(pipe, DELIVERY, encode_delivery(delivery))
            write_frame(pipe, END, b"")
        except BrokenPipeError:
            return
        except Exception as error:
            failure = Failure(type(error).__name__, str(error), traceback.format_exc())
            write_frame(pipe, FAILURE, msgspec.msgpack.encode(failure))


def _listen(stdin: BinaryIO, stop: threading.Event) -> None:
    """Hears that it is to stop, and ends at once when there is nobody left to ingest for."""
    try:
        while read_frame(stdin) is not None:
            stop.set()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # `_listen` sleeps in stdin's buffer and holds its lock, which the interpreter would want as it ends
