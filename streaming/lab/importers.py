"""Public data sets as event logs; must not know how a log is joined or learned from.

Each importer turns the rows of one known file into impressions, clicks and conversions, in time order, with the settings that
`init` suggests for them beside. Ids are `row-N`, N the line of the source: exact duplicates of a row stay two impressions, and an
id says where it came from.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from streaming.lab.look import suggest_settings
from streaming.lab.sorted_log import SortedLog

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CSV_SUFFIXES = (".csv", ".csv.gz")


class SourceError(ValueError):
    """A data set cannot be imported; the message names the file, what was found and what to do."""


class ImportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What an import wrote.

    Args:
        source: the file that was taken. out: the log.
        impressions, clicks, conversions: records written. refused: rows kept in `dead_letters.jsonl`.
        first_refusals: place and reason of the first five of them.
        first_ms, last_ms: event times of the first and the last impression.
    """

    source: str
    out: str
    impressions: int
    clicks: int
    conversions: int
    refused: int
    first_refusals: list[str]
    first_ms: int
    last_ms: int

    def rows(self) -> list[tuple[str, str]]:
        """The same as (label, value) pairs for a table."""
        refused = f"{self.refused:,}" + (" (in dead_letters.jsonl)" if self.refused else "")
        return [
            ("source", self.source),
            ("log", self.out),
            ("impressions", f"{self.impressions:,}"),
            ("clicks", f"{self.clicks:,}"),
            ("conversions", f"{self.conversions:,}"),
            ("rows refused", refused),
            *(("  such as", refusal) for refusal in self.first_refusals),
            ("first impression", _utc(self.first_ms)),
            ("last impression", _utc(self.last_ms)),
        ]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a CSV file, by column name, with its number (the header is line 1) and its text as it was."""

    number: int
    text: str
    cells: dict[str, str]


@dataclass(slots=True)
class Told:
    """What one row tells: the impression, and what followed it."""

    event_time_ms: int
    features: dict[str, Any]
    click_ms: int | None = None
    conversion_ms: int | None = None
    beside: dict[str, Any] = field(default_factory=dict)  # stands in the impression, outside its features


def import_talkingdata(source: Path, out: Path) -> ImportSummary:
    """The TalkingData AdTracking set (`train.csv`, `train_sample.csv`): ad clicks and the installs that followed some of them.

    Each row is an impression and its click at the same time, the install its conversion, with the real delay. So the click rate is
    1 and only the conversion side has something to learn. The columns are encoded identifiers and become strings, not numbers.

    Args:
        source: the `.csv` or `.csv.gz` file, or a directory that holds just one of them.
        out: directory for the log; must not hold one.

    Raises:
        SourceError: no such file, other columns, a damaged file, or no usable row.
        FileExistsError: `out` already holds a log.

    Source:
        https://www.kaggle.com/c/talkingdata-adtracking-fraud-detection
    """
    file = _file_of(source, "talkingdata")
    columns = ("ip", "app", "device", "os", "channel", "click_time", "attributed_time", "is_attributed")
    identifiers = columns[:5]

    def told_by(row: Row) -> Told:
        cells = row.cells
        for column in identifiers:
            if not cells[column].isdecimal():
                raise SourceError(f"{column} must be an encoded id, a number without sign (got {cells[column]!r})")
        clicked_ms = _time_ms("click_time", cells["click_time"])
        if _flag("is_attributed", cells["is_attributed"]) != bool(cells["attributed_time"]):
            raise SourceError(
                f"is_attributed and attributed_time contradict each other (got {cells['is_attributed']!r} and {cells['attributed_time']!r})"
            )
        installed_ms = _time_ms("attributed_time", cells["attributed_time"]) if cells["attributed_time"] else None
        return Told(clicked_ms, {column: cells[column] for column in identifiers}, clicked_ms, installed_ms)

    return _import(file, out, columns, told_by)


def import_open_bandit(source: Path, out: Path) -> ImportSummary:
    """The ZOZO Open Bandit set (`bts.women.csv` and its kind): fashion items shown at a position, clicked or not.

    The set has no click times: a click is stamped with its impression's time. It has no conversions. The features of the shown item
    come from the item context beside it. Of the user's affinities to all items (nearly all 0) the features hold that to the shown
    item and the list of items with any; all that are not 0, and the logging policy's propensity, stand in the impression outside
    its features.

    Args:
        source: the `.csv` or `.csv.gz` file, or a directory that holds just one. Its item context is `NAME.item_context.csv` for
            `NAME.csv`, or `item_context.csv` beside it.
        out: directory for the log; must not hold one.

    Raises:
        SourceError: no such file or item context, other columns, a damaged file, or no usable row.
        FileExistsError: `out` already holds a log.

    Source:
        Saito et al., "Open Bandit Dataset and Pipeline", NeurIPS 2021 Datasets and Benchmarks, arXiv:2008.07146.
    """
    file = _file_of(source, "open-bandit")
    items = _items(file)
    columns = ("timestamp", "item_id", "position", "click", "propensity_score")
    affinity = "user-item_affinity_"

    def told_by(row: Row) -> Told:
        cells = row.cells
        item = cells["item_id"]
        if item not in items:
            raise SourceError(f"item_id {item!r} has no row in the item context")
        shown_ms = _time_ms("timestamp", cells["timestamp"])
        affinities = {
            name.removeprefix(affinity): _number(name, value)
            for name, value in cells.items()
            if name.startswith(affinity)
        }
        affinities = {name: value for name, value in affinities.items() if value != 0}
        features: dict[str, Any] = {"item_id": item, "position": _integer("position", cells["position"])}
        features |= {name: value for name, value in cells.items() if name.startswith("user_feature_")}
        features |= items[item]
        features |= {"affinity": affinities.get(item, 0.0), "affinity_items": list(affinities)}
        propensity = _number("propensity_score", cells["propensity_score"])
        return Told(
            shown_ms,
            features,
            shown_ms if _flag("click", cells["click"]) else None,
            beside={"propensity_score": propensity, "user_item_affinity": affinities},
        )

    return _import(file, out, columns, told_by)


IMPORTERS: dict[str, Callable[[Path, Path], ImportSummary]] = {
    "talkingdata": import_talkingdata,
    "open-bandit": import_open_bandit,
}
"""The importers of this module by the name the command line gives them."""


def _import(file: Path, out: Path, columns: Sequence[str], told_by: Callable[[Row], Told]) -> ImportSummary:
    refusals: list[str] = []
    times: list[int] = []  # the smallest and the largest so far
    with SortedLog(out) as log:
        for row in _rows(file, columns, log, refusals):
            try:
                told = told_by(row)
            except SourceError as error:
                _refuse(log, refusals, f"{file.name}:{row.number}", str(error), row.text)
                continue
            name = f"row-{row.number}"
            envelope = {"impression_id": name, "event_time_ms": told.event_time_ms, **told.beside}
            log.add("impressions", told.event_time_ms, row.number, {**envelope, "features": told.features})
            for stem, at_ms in (("clicks", told.click_ms), ("conversions", told.conversion_ms)):
                if at_ms is not None:
                    log.add(stem, at_ms, row.number, {"impression_id": name, "event_time_ms": at_ms})
            times = (
                [min(*times, told.event_time_ms), max(*times, told.event_time_ms)]
                if times
                else [told.event_time_ms] * 2
            )
        if not times:
            raise SourceError(f"{file} has no usable row" + "".join(f"; {refusal}" for refusal in refusals[:1]))
        log.finish()
        log.write("settings.toml", suggest_settings(out))
        return ImportSummary(
            source=str(file),
            out=str(out),
            impressions=log.counts["impressions"],
            clicks=log.counts["clicks"],
            conversions=log.counts["conversions"],
            refused=log.counts["dead_letters"],
            first_refusals=refusals,
            first_ms=times[0],
            last_ms=times[1],
        )


def _refuse(log: SortedLog, refusals: list[str], at: str, reason: str, text: str) -> None:
    log.refuse(at, reason, text)
    if len(refusals) < 5:
        refusals.append(f"{at}: {reason}")


def _rows(file: Path, columns: Sequence[str], log: SortedLog | None, refusals: list[str]) -> Iterator[Row]:
    """The rows of a CSV file; those with a wrong number of cells are refused (`log` None: raised).

    Raises:
        SourceError: it is not there, breaks off, or lacks a column.
    """
    line_of: list[str] = []

    def remembered(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            line_of.append(line)
            yield line

    opener = gzip.open if file.name.endswith(".gz") else open
    number = 0
    try:
        with opener(file, "rt", encoding="utf-8", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(remembered(iter(lines)))
            header: list[str] = []
            while True:
                line_of.clear()
                number = reader.line_num + 1
                fault = ""
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    cells, fault = [], f"is no CSV: {error}"
                if cells is None:
                    break
                text = "".join(line_of).rstrip("\r\n")
                if not header:
                    header = _header(file, cells, columns)
                    continue
                if not fault and len(cells) != len(header):
                    fault = f"has {len(cells)} cells (rule: {len(header)}, as the header)"
                if not fault:
                    yield Row(number, text, dict(zip(header, cells, strict=True)))
                elif log is None:
                    raise SourceError(f"{file.name}:{number} {fault}")
                else:
                    _refuse(log, refusals, f"{file.name}:{number}", fault, text)
    except (OSError, EOFError) as error:
        raise SourceError(f"{file} breaks off after line {max(number - 1, 0)}: {error}; fetch it again") from error
    if not header:
        raise SourceError(f"{file} is empty: expected a header with {', '.join(columns)}")


def _header(file: Path, cells: Sequence[str], columns: Sequence[str]) -> list[str]:
    # Some copies carry a byte order mark or dots before the first name ("..ip").
    header = [
        cell.strip().lstrip("\ufeff").lstrip(".") if place == 0 else cell.strip() for place, cell in enumerate(cells)
    ]
    missing = [column for column in columns if column not in header]
    if missing:
        raise SourceError(
            f"{file.name}:1 lacks the column {', '.join(missing)} (it has {', '.join(header[:10])}): is this the right file?"
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SourceError(f"{file.name}:1 has the column {twice[0]} twice: which one counts cannot be told")
    return header


def _items(file: Path) -> dict[str, dict[str, Any]]:
    """item_id -> features, from the item context that belongs to a file of impressions."""
    name = file.name.removesuffix(".gz").removesuffix(".csv")
    names = [f"{stem}{suffix}" for stem in (f"{name}.item_context", "item_context") for suffix in CSV_SUFFIXES]
    path = next((file.parent / candidate for candidate in names if (file.parent / candidate).is_file()), None)
    if path is None:
        raise SourceError(f"{file} needs its item context beside it: none of {', '.join(names)} is in {file.parent}")
    items: dict[str, dict[str, Any]] = {}
    for row in _rows(path, ("item_id",), None, []):
        features = {column: value for column, value in row.cells.items() if column.startswith("item_feature_")}
        items[row.cells["item_id"]] = {column: _maybe_number(value) for column, value in features.items()}
    return items


def _file_of(source: Path, name: str) -> Path:
    if source.is_file():
        if not source.name.endswith(CSV_SUFFIXES):
            raise SourceError(f"SRC {source} must be a .csv or .csv.gz file, or the directory that holds it")
        return source
    if not source.is_dir():
        raise SourceError(
            f"SRC {source} does not exist: give the {name} .csv or .csv.gz file, or the directory that holds it"
        )
    found = [entry.name for entry in sorted(source.iterdir()) if entry.name.endswith(CSV_SUFFIXES) and entry.is_file()]
    found = [entry for entry in found if "item_context" not in entry]
    if len(found) != 1:
        holds = "no .csv or .csv.gz file" if not found else f"{', '.join(found)}: name one of them"
        raise SourceError(f"SRC {source} holds {holds}")
    return source / found[0]


def _time_ms(column: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SourceError(f"{column} must be a time such as 2017-11-07 09:30:38 (got {text!r})") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _flag(column: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise SourceError(f"{column} must be 0 or 1 (got {text!r})")
    return text == "1"


def _integer(column: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SourceError(f"{column} must be an integer (got {text!r})") from None


def _number(column: str, text: str) -> float:
    value = _maybe_number(text)
    if isinstance(value, str) or value - value != 0:
        raise SourceError(f"{column} must be a finite number (got {text!r})")
    return value


def _maybe_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _utc(event_time_ms: int) -> str:
    return f"{EPOCH + timedelta(milliseconds=event_time_ms):%Y-%m-%d %H:%M:%S} UTC"
