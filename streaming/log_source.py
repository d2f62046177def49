"""The files of a log as a source: finds them and hands out their records in arrival order. Must not know what is made of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from streaming.adapters.files import BLOCK_BYTES, find_parts, read_lines
from streaming.arrivals import ArrivalOrder, Arrivals
from streaming.events import EventDecoder, RecordKind
from streaming.log_file import Lines, LogFile, Place
from streaming.settings import Settings


class LogSource:
    """The files of a log as a source.

    Args:
        log: its directory. settings: how records are read.
        places: where each file, by its name relative to the log, was read to; missing is its start.
        block_bytes: read at a time; small blocks suit a replay in real time, large ones a fast one.

    Raises:
        LogError: there is no log at `log`.
    """

    def __init__(
        self,
        log: Path,
        settings: Settings,
        places: Mapping[str, Place] | None = None,
        *,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        fields = {
            RecordKind.IMPRESSION: settings.log.impressions,
            RecordKind.CLICK: settings.log.clicks,
            RecordKind.CONVERSION: settings.log.conversions,
        }
        self._files: list[LogFile] = []
        self._lines: list[Generator[Lines, None, None]] = []
        self.size_bytes: int | None = 0
        for kind, parts in find_parts(log).items():
            for path in parts:
                name = path.relative_to(log).as_posix()
                place = (places or {}).get(name, Place())
                decoder = EventDecoder(kind, fields[kind])
                lines = read_lines(path, place, block_bytes)
                self._lines.append(lines)
                self._files.append(LogFile(name, kind, decoder, lines, place))
                is_plain = path.name.endswith(".jsonl")
                self.size_bytes = (
                    self.size_bytes + path.stat().st_size if is_plain and self.size_bytes is not None else None
                )
        self._order = ArrivalOrder(
            self._files,
            out_of_orderness_ms=settings.event_time.out_of_orderness_ms,
            future_skew_ms=settings.event_time.future_skew_ms,
            leads_ms={
                RecordKind.IMPRESSION: 0,
                RecordKind.CLICK: settings.windows.click_window_ms,
                RecordKind.CONVERSION: settings.windows.attribution_window_ms,
            },
        )

    def __iter__(self) -> Iterator[Arrivals]:
        return iter(self._order)

    @property
    def read_bytes(self) -> int:
        """Bytes handed on, unpacked; `size_bytes` is the most it can be, None where that cannot be known beforehand."""
        return sum(file.place.start for file in self._files)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Plain files are one."""
        return (0,)

    def places(self) -> dict[str, Place]:
        """How far each file was handed on."""
        return {file.name: file.place for file in self._files}

    def snapshot(self) -> None:
        """Nothing: the places say it all."""

    def close(self) -> None:
        """Lets go of the files, read to their ends or not."""
        for lines in self._lines:
            lines.close()
