"""Writes an event log in time order from records in any order; must not know where they come from.

A public data set can be larger than memory, so sorted runs are spilled beside the output and merged at the end.
"""

from __future__ import annotations

import base64
import heapq
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from streaming.events import RecordKind
from streaming.lab.csv_rows import is_utf8

STEMS = tuple(kind.stem for kind in RecordKind)
DEAD_LETTERS = "dead_letters.jsonl"
RUN_LINES = 500_000  # lines of a stem sorted in memory at a time: 150 MB, and 370 runs for the largest set known
_PREFIX = 34  # f"{event_time_ms:020d} {number:012d} ": makes text order time order, ties by number


class SortedLog:
    """An event log being written; nothing stands under its final name before `finish`.

    Args:
        out: the directory, created if missing. Left as it was found if the body of the `with` statement raises.
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
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"OUT {out} is a file: give an empty or new directory")
        names = (*(f"{stem}*" for stem in STEMS), "settings.toml", DEAD_LETTERS)
        there = [entry.name for name in names for entry in sorted(out.glob(name))]
        if there:
            raise FileExistsError(f"OUT {out} already holds {there[0]}: give an empty or new directory")
        self._run_lines = run_lines
        self.out = out
        self.counts = dict.fromkeys((*STEMS, "dead_letters"), 0)
        self._made = not out.exists()
        self._waiting: dict[str, list[bytes]] = {stem: [] for stem in STEMS}
        self._runs: dict[str, list[Path]] = {stem: [] for stem in STEMS}
        self._encoder = msgspec.json.Encoder()
        self._written: list[Path] = []

    def __enter__(self) -> SortedLog:
        self.out.mkdir(parents=True, exist_ok=True)
        self._spill = Path(tempfile.mkdtemp(prefix=".sorting-", dir=self.out))
        self._dead_letters = (self._spill / DEAD_LETTERS).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dead_letters.close()
        shutil.rmtree(self._spill)
        if error is not None:
            for path in self._written:
                path.unlink(missing_ok=True)
            if self._made:
                self.out.rmdir()

    def add(self, stem: str, event_time_ms: int, number: int, record: dict[str, Any]) -> None:
        """A record; `number` (the line it came from, say) orders those of one time."""
        waiting = self._waiting[stem]
        waiting.append(b"%020d %012d " % (event_time_ms, number) + self._encoder.encode(record))
        self.counts[stem] += 1
        if len(waiting) == self._run_lines:
            self._spill_run(stem)

    def refuse(self, at: str, reason: str, record: str) -> None:
        """A row that yields no record; kept whole in `dead_letters.jsonl` (form: docs/formats.md).

        Args:
            at: `file:line`.
            reason: why it was refused.
            record: the row; bytes that are not UTF-8 as surrogate escapes.
        """
        letter: dict[str, Any] = {"door": "dead_letters", "kind": "impression", "reason": reason, "at": at}
        letter |= {"impression_id": None, "event_time_ms": None, "watermark_ms": None}
        if is_utf8(record):
            letter["record"] = record
        else:
            letter["record_base64"] = base64.b64encode(record.encode("utf-8", "surrogateescape")).decode()
        self._dead_letters.write(self._encoder.encode(letter) + b"\n")
        self.counts["dead_letters"] += 1

    def finish(self) -> None:
        """Merges what was added into the files of the log. A stem without records gets an empty file."""
        for stem in STEMS:
            with self._final(f"{stem}.jsonl").open("wb") as file:
                file.writelines(line[_PREFIX:] for line in self._merged(stem))
        self._dead_letters.close()
        if self.counts["dead_letters"]:
            Path(self._dead_letters.name).replace(self._final(DEAD_LETTERS))

    def write(self, name: str, text: str) -> None:
        """A file beside the log, such as its settings."""
        self._final(name).write_text(text, encoding="utf-8")

    def _final(self, name: str) -> Path:
        path = self.out / name
        self._written.append(path)
        return path

    def _spill_run(self, stem: str) -> None:
        run = self._spill / f"{stem}-{len(self._runs[stem])}"
        with run.open("wb") as file:
            file.writelines(line + b"\n" for line in sorted(self._waiting[stem]))
        self._waiting[stem].clear()
        self._runs[stem].append(run)

    def _merged(self, stem: str) -> Iterator[bytes]:
        rest = (line + b"\n" for line in sorted(self._waiting[stem]))
        files = [run.open("rb") for run in self._runs[stem]]
        try:
            yield from heapq.merge(*files, rest)
        finally:
            for file in files:
                file.close()
