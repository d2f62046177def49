"""Command lines in processes that may be killed: one process imports everything once and forks a child for each.

Importing torch takes seconds, a small replay less than one. Run as a program this file is that process: it reads requests from its
standard input, a line each, and answers each with two lines: the child's number at once, how it ended when it has.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType


class Mortals:
    """Starts command lines that tests may kill; to be used in a `with` statement."""

    def __enter__(self) -> Mortals:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(
        self,
        *arguments: object,
        environ: Mapping[str, str] | None = None,
        doom: Callable[[], bool] | None = None,
        by: signal.Signals = signal.SIGKILL,
        stderr: Path | None = None,
    ) -> int:
        """Runs a command line to its end; its exit code, or -n if signal n ended it.

        Args:
            arguments: the words after `afterclick`.
            environ: what is added to the environment.
            doom: asked again and again while it runs; once it says so, the process gets the signal `by`.
            stderr: a file for what it says there; None is this process's own.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environ": dict(environ or {}),
            "stderr": None if stderr is None else str(stderr),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        while doom is not None and not select.select([self._server.stdout], [], [], 0.001)[0]:
            if doom():
                os.kill(child, by)
                doom = None
        return int(self._server.stdout.readline())


def _serve() -> None:
    from cuts import small_pipeline
    from fakes import MemoryCuts

    import streaming.adapters.prometheus
    import streaming.lab.summary
    import streaming.replay
    from streaming.cli import main

    assert streaming.replay
    assert streaming.lab.summary
    assert streaming.adapters.prometheus
    for _ in small_pipeline(MemoryCuts()).run():  # the first run in a process imports more of torch
        pass
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # a suite run in the background inherits that it is ignored
            os.environ.update(request["environ"])
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1):
                os.dup2(nowhere, stream)
            if request["stderr"] is not None:
                os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT), 2)
            try:
                main(request["arguments"])
            except SystemExit as ended:
                sys.stderr.flush()
                os._exit(ended.code if isinstance(ended.code, int) else 1)
            os._exit(70)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _serve()
