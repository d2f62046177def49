"""The Criteo delayed-feedback file as an event log; must not know how a log is joined or learned from.

Clicks stand in the file by click time and conversions beside them, up to 30 days ahead: nothing but the conversions has to be
sorted, beyond memory where they need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streaming.adapters.files import LogError, read_lines
from streaming.lab.criteo_rows import ClickRow, click_row
from streaming.lab.criteo_settings import Clicks, IntegerColumns, papers_settings, quantile_settings
from streaming.lab.csv_rows import SourceError
from streaming.lab.importers import ImportSummary, no_usable_row
from streaming.lab.sorted_log import SortedLog
from streaming.log_file import Place

FILE_NAMES = ("data.txt", "data.txt.gz", "data.txt.zst")
PAPERS_SETTINGS = "settings-papers.toml"

ORIGIN_MS = 1_388_534_400_000
"""2014-01-01T00:00:00Z stands for second 0, whose date is not published: a midnight, so that hours and days of the log are those
of the calendar, in the year in which the data set appeared."""


def import_criteo_delayed(source: Path, out: Path) -> ImportSummary:
    """The Criteo delayed-feedback set ("Conversion Logs Dataset"): each row is an impression, its click and perhaps its conversion.

    An impression and its click have one time, `ORIGIN_MS` and the click timestamp later, and `row-N` for an id, N the line. So the
    click rate is 1, and the settings teach the conversion side alone. Missing cells are left out of the features.

    Beside the log stand `settings.toml`, with buckets of equal mass for the integers, and `settings-papers.toml`, with the
    papers' own, of equal width between least and largest.

    Args:
        source: `data.txt`, packed as .gz or .zst if its name says so, or a directory that holds just one of them.
        out: directory for the log; must not hold one. While it is written it takes twice the space.

    Raises:
        SourceError: no such file, a damaged one, or no usable row.
        FileExistsError: `out` already holds a log.

    Source:
        Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014. Format as read by github.com/ThyrixYang/es_dfm.
    """
    file = _file_in(source)
    clicks, integers = Clicks(), IntegerColumns()
    with SortedLog(out) as log:
        for block in _blocks_of(file, log):
            for line, row in block:
                _add(log, line, row)
                clicks.add(row)
            integers.add([row.integers for _, row in block])
        if clicks.first_s is None or clicks.last_s is None:
            raise SourceError(no_usable_row(file, log.first_refusals))
        log.finish()
        log.write("settings.toml", quantile_settings(clicks, integers))
        log.write(PAPERS_SETTINGS, papers_settings(clicks, integers))
    return ImportSummary.of(log, file, _event_time_ms(clicks.first_s), _event_time_ms(clicks.last_s))


def _blocks_of(file: Path, log: SortedLog) -> Iterator[list[tuple[int, ClickRow]]]:
    """The usable rows by line number, some thousand at a time; the others are refused."""
    try:
        for block in read_lines(file, Place()):
            usable = []
            for line, text in enumerate(block.lines, block.first_line):
                if not text.strip(b"\r"):
                    continue
                try:
                    usable.append((line, click_row(text)))
                except SourceError as error:
                    log.refuse(f"{file.name}:{line}", str(error), text.decode("utf-8", "surrogateescape"))
            yield usable
    except LogError as error:
        raise SourceError(str(error)) from error


def _event_time_ms(seconds: int) -> int:
    return ORIGIN_MS + 1000 * seconds


def _add(log: SortedLog, line: int, row: ClickRow) -> None:
    click_ms = _event_time_ms(row.click_s)
    envelope = b'{"impression_id":"row-%d","event_time_ms":%d' % (line, click_ms)
    log.add_line("impressions", click_ms, line, b'%b,"features":%b}' % (envelope, row.features))
    log.add_line("clicks", click_ms, line, envelope + b"}")
    if row.conversion_s is not None:
        at_ms = _event_time_ms(row.conversion_s)
        log.add_line("conversions", at_ms, line, b'{"impression_id":"row-%d","event_time_ms":%d}' % (line, at_ms))


def _file_in(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise SourceError(f"SRC {source} does not exist: give the criteo-delayed file, data.txt, or its directory")
    found = [name for name in FILE_NAMES if (source / name).is_file()]
    if len(found) != 1:
        holds = " and ".join(found) or f"no {', '.join(FILE_NAMES)}"
        raise SourceError(f"SRC {source} holds {holds}: give the criteo-delayed file itself")
    return source / found[0]
