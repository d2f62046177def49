"""Writes an event log in time order from records in any order; must not know where they come from.

A public data set can be larger than memory, so sorted runs are spilled beside the output and merged at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming.lab.new_log import STEMS, NewLog

RUN_LINES = 500_000  # lines of a stem sorted in memory at a time: 150 MB, and 370 runs for the largest set known
_PREFIX = 34  # f"{event_time_ms:020d} {number:012d} ": makes text order time order, ties by number


class SortedLog(NewLog):
    """A log being written; nothing stands under its final name before `finish`.

    Args:
        out: the directory, created if missing.
        run_lines: lines of a stem that are sorted in memory; more are spilled.

    Raises:
        FileExistsError: `out` is a file, or already holds what would be written.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> with SortedLog(out) as log:
        ...     log.add("clicks", 1_700_000_000_005, 1, {"impression_id": "b"})
        ...     log.add("clicks", 1_700_000_000_003, 2, {"impression_id": "a"})
        ...     log.finish()
        >>> print((out / "clicks.jsonl").read_text().splitlines()[0])
        {"impression_id":"a"}
    """

    def __init__(self, out: Path, *, run_lines: int = RUN_LINES) -> None:
        super().__init__(out)
        self._run_lines = run_lines
        self._waiting: dict[str, list[bytes]] = {stem: [] for stem in STEMS}
        self._runs: dict[str, list[Path]] = {stem: [] for stem in STEMS}
        self._ends = dict.fromkeys(STEMS, b"")  # the last line of each stem's newest run

    def add(self, stem: str, event_time_ms: int, number: int, record: dict[str, Any]) -> None:
        """A record; `number` (the line it came from, say) orders those of one time."""
        self.add_line(stem, event_time_ms, number, self._encoder.encode(record))

    def add_line(self, stem: str, event_time_ms: int, number: int, line: bytes) -> None:
        """A record that is JSON already, on one line without its end."""
        waiting = self._waiting[stem]
        waiting.append(b"%020d %012d %b" % (event_time_ms, number, line))
        self.counts[stem] += 1
        if len(waiting) == self._run_lines:
            self._spill_run(stem)

    def finish(self) -> None:
        """Merges what was added into the files of the log. A stem without records gets an empty file."""
        for stem in STEMS:
            with self.final(f"{stem}.jsonl").open("wb") as file:
                file.writelines(line[_PREFIX:] for line in self._merged(stem))
        self.keep_dead_letters()

    def _spill_run(self, stem: str) -> None:
        waiting, runs = self._waiting[stem], self._runs[stem]
        waiting.sort()
        # Most logs are in order already: one run then grows, and there is nothing to merge.
        if not runs or waiting[0] < self._ends[stem]:
            runs.append(self.folder / f"{stem}-{len(runs)}")
        with runs[-1].open("ab") as file:
            file.writelines(line + b"\n" for line in waiting)
        self._ends[stem] = waiting[-1]
        waiting.clear()

    def _merged(self, stem: str) -> Iterator[bytes]:
        rest = (line + b"\n" for line in sorted(self._waiting[stem]))
        files = [run.open("rb") for run in self._runs[stem]]
        try:
            yield from heapq.merge(*files, rest)
        finally:
            for file in files:
                file.close()
