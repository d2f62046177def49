"""A log that somebody's data becomes: nothing under its final name before it is whole, rows that are no use kept; must not know
how its records are put in order.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from streaming.events import RecordKind
from streaming.lab.csv_rows import is_utf8

STEMS = tuple(kind.stem for kind in RecordKind)
DEAD_LETTERS = "dead_letters.jsonl"
SHOWN = 5  # refused rows whose reason is kept for the summary


class NewLog:
    """A log being written.

    Args:
        out: the directory, created if missing. Left as it was found if the body of the `with` statement raises.

    Raises:
        FileExistsError: `out` is a file, or already holds what would be written.
    """

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise FileExistsError(f"OUT {out} is a file: give an empty or new directory")
        names = (*(f"{stem}*" for stem in STEMS), "settings*.toml", DEAD_LETTERS)
        there = [entry.name for name in names for entry in sorted(out.glob(name))]
        if there:
            raise FileExistsError(f"OUT {out} already holds {there[0]}: give an empty or new directory")
        self.out = out
        self.counts = dict.fromkeys((*STEMS, "dead_letters"), 0)
        self.first_refusals: list[str] = []  # place and reason
        self._made = not out.exists()
        self._encoder = msgspec.json.Encoder()
        self._written: list[Path] = []

    def __enter__(self) -> Self:
        self.out.mkdir(parents=True, exist_ok=True)
        # On the disk of the log: what is sorted is as large as it.
        self.folder = Path(tempfile.mkdtemp(prefix=".sorting-", dir=self.out))
        self._dead_letters = (self.folder / DEAD_LETTERS).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dead_letters.close()
        shutil.rmtree(self.folder)
        if error is not None:
            for path in self._written:
                path.unlink(missing_ok=True)
            if self._made:
                self.out.rmdir()

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
        if len(self.first_refusals) < SHOWN:
            self.first_refusals.append(f"{at}: {reason}")

    def keep_dead_letters(self) -> None:
        """Puts the refused rows beside the log, if there are any; none can follow."""
        self._dead_letters.close()
        if self.counts["dead_letters"]:
            Path(self._dead_letters.name).replace(self.final(DEAD_LETTERS))

    def write(self, name: str, text: str) -> None:
        """A file beside the log, such as its settings."""
        self.final(name).write_text(text, encoding="utf-8")

    def final(self, name: str) -> Path:
        """Where a file of the log belongs; it is removed again should anything fail."""
        path = self.out / name
        self._written.append(path)
        return path
