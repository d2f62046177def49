"""An output whose lines go to topics as well. Decides nothing about what is in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from streaming.ports import Output


class Lines(Protocol):
    """Where lines go, by the stem of a topic."""

    def append(self, stem: str, data: bytes) -> None:
        """Adds lines; they are there after `flush`."""

    def flush(self) -> None:
        """Waits until they are."""


class Mirrored:
    """Appends to an output, and some of it to topics.

    Both are durable after `sync`. Killed between that and the cut, a run appends what came since the cut before once more to the topics: a
    line says where its record stood, by which a reader tells.

    Args:
        output: where everything goes. lines: where some of it goes too. stems: output name -> topic.
    """

    def __init__(self, output: Output, lines: Lines, stems: Mapping[str, str]) -> None:
        self._output, self._lines, self._stems = output, lines, stems

    def append(self, name: str, data: bytes) -> None:
        """Adds bytes to one of the outputs."""
        self._output.append(name, data)
        if name in self._stems:
            self._lines.append(self._stems[name], data)

    def sync(self) -> dict[str, int]:
        """Makes everything appended durable, and gives the length of each output in bytes."""
        self._lines.flush()
        return self._output.sync()

    def replace(self, name: str, data: bytes) -> None:
        """Writes an output whole; readers see the old one or the new one."""
        self._output.replace(name, data)
