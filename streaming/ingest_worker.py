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
from streaming.ingest_job import LogJob, deliveries_of
from streaming.wire import encode_delivery


def main(descriptor: int) -> None:
    """Does the job on stdin; deliveries go to this file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that learns; when it ends, so do we
    os.nice(10)  # a step waits for its slowest thread: whoever learns comes first, we take what is left
    frame = read_frame(sys.stdin.buffer)
    if frame is None:
        return
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    gc.freeze()  # what is loaded stays
    with os.fdopen(descriptor, "wb", buffering=0) as pipe:
        try:
            for delivery in deliveries_of(msgspec.msgpack.decode(frame[1], type=LogJob)):
                write_frame(pipe, DELIVERY, encode_delivery(delivery))
            write_frame(pipe, END, b"")
        except BrokenPipeError:
            return
        except Exception as error:
            failure = Failure(type(error).__name__, str(error), traceback.format_exc())
            write_frame(pipe, FAILURE, msgspec.msgpack.encode(failure))


def _end_with(stdin: BinaryIO) -> None:
    """Waits until there is nobody left to ingest for."""
    while stdin.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
