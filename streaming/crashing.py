"""Kills this process at a numbered step, for tests of what a crash costs. Must not know what the steps are."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


class CrashAt:
    """Kills this process, as `kill -9` would, at a numbered step of a cut."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        step, _, occurrence = environ.get("AFTERCLICK_CRASH_AT", "").partition("@")
        self._step = int(step) if step else None
        self._left = int(occurrence or 1)

    def __call__(self, number: int) -> None:
        """Dies here if it is this step's turn."""
        if number == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
