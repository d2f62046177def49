"""Public data sets as event logs; must not know how a log is joined or learned from.

Each importer turns the rows of one known file into impressions, clicks and conversions, in time order, with the settings that
`init` suggests for them beside. Ids are `row-N`, N the line of the source: exact duplicates of a row stay two impressions, and an
id says where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from streaming.lab.csv_rows import CSV_SUFFIXES, Row, SourceError, file_in, flag, number, rows_of, time_ms, whole
from streaming.lab.durations import utc
from streaming.lab.look import suggest_settings
from streaming.lab.new_log import NewLog
from streaming.lab.sorted_log import SortedLog

__all__ = ["ImportSummary", "SourceError", "import_open_bandit", "import_talkingdata"]


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

    @classmethod
    def of(cls, log: NewLog, source: Path, first_ms: int, last_ms: int) -> ImportSummary:
        """What has become of `source` in a log that is finished; the first and last impression at these times."""
        return cls(
            source=str(source),
            out=str(log.out),
            impressions=log.counts["impressions"],
            clicks=log.counts["clicks"],
            conversions=log.counts["conversions"],
            refused=log.counts["dead_letters"],
            first_refusals=log.first_refusals,
            first_ms=first_ms,
            last_ms=last_ms,
        )

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
            ("first impression", utc(self.first_ms)),
            ("last impression", utc(self.last_ms)),
        ]


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
    file = file_in(source, "talkingdata")
    columns = ("ip", "app", "device", "os", "channel", "click_time", "attributed_time", "is_attributed")
    identifiers = columns[:5]

    def told_by(row: Row) -> Told:
        cells = row.cells
        features = {column: str(whole(column, cells[column])) for column in identifiers}
        clicked_ms = time_ms("click_time", cells["click_time"])
        if flag("is_attributed", cells["is_attributed"]) != bool(cells["attributed_time"]):
            got = f"{cells['is_attributed']!r} and {cells['attributed_time']!r}"
            raise SourceError(f"is_attributed must be 1 with an attributed_time and 0 without (got {got})")
        installed_ms = time_ms("attributed_time", cells["attributed_time"]) if cells["attributed_time"] else None
        return Told(clicked_ms, features, clicked_ms, installed_ms)

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
    file = file_in(source, "open-bandit")
    items = _items(file)
    columns = ("timestamp", "item_id", "position", "click", "propensity_score")
    affinity = "user-item_affinity_"

    def told_by(row: Row) -> Told:
        cells = row.cells
        item = cells["item_id"]
        if item not in items:
            raise SourceError(f"item_id {item!r} has no row in the item context")
        shown_ms = time_ms("timestamp", cells["timestamp"])
        affinities = {
            name.removeprefix(affinity): number(name, value)
            for name, value in cells.items()
            if name.startswith(affinity)
        }
        affinities = {name: value for name, value in affinities.items() if value != 0}
        features: dict[str, Any] = {"item_id": item, "position": whole("position", cells["position"])}
        features |= {name: value for name, value in cells.items() if name.startswith("user_feature_")}
        features |= items[item]
        features |= {"affinity": affinities.get(item, 0.0), "affinity_items": list(affinities)}
        propensity = number("propensity_score", cells["propensity_score"])
        return Told(
            shown_ms,
            features,
            shown_ms if flag("click", cells["click"]) else None,
            beside={"propensity_score": propensity, "user_item_affinity": affinities},
        )

    return _import(file, out, columns, told_by)


def _items(file: Path) -> dict[str, dict[str, Any]]:
    """item_id -> features, from the item context that belongs to a file of impressions."""
    name = file.name.removesuffix(".gz").removesuffix(".csv")
    names = [f"{stem}{suffix}" for stem in (f"{name}.item_context", "item_context") for suffix in CSV_SUFFIXES]
    path = next((file.parent / candidate for candidate in names if (file.parent / candidate).is_file()), None)
    if path is None:
        raise SourceError(f"{file} needs its item context beside it: none of {', '.join(names)} is in {file.parent}")
    items: dict[str, dict[str, Any]] = {}
    for row in rows_of(path, ("item_id", "item_feature_0")):
        if row.fault is not None:
            raise SourceError(f"{path}:{row.number} {row.fault}")
        features: dict[str, Any] = {name: cell for name, cell in row.cells.items() if name.startswith("item_feature_")}
        # The first is a number, the others are hashes.
        features["item_feature_0"] = number("item_feature_0", row.cells["item_feature_0"])
        items[row.cells["item_id"]] = features
    return items


def _import(file: Path, out: Path, columns: Sequence[str], told_by: Callable[[Row], Told]) -> ImportSummary:
    first_ms = last_ms = None
    with SortedLog(out) as log:
        for row in rows_of(file, columns):
            try:
                if row.fault is not None:
                    raise SourceError(row.fault)
                told = told_by(row)
            except SourceError as error:
                log.refuse(f"{file.name}:{row.number}", str(error), row.text)
                continue
            _add(log, row.number, told)
            first_ms = told.event_time_ms if first_ms is None else min(first_ms, told.event_time_ms)
            last_ms = told.event_time_ms if last_ms is None else max(last_ms, told.event_time_ms)
        if first_ms is None or last_ms is None:
            raise SourceError(no_usable_row(file, log.first_refusals))
        log.finish()
        log.write("settings.toml", suggest_settings(out))
    return ImportSummary.of(log, file, first_ms, last_ms)


def no_usable_row(file: Path, refusals: Sequence[str]) -> str:
    """What is said of a file of which nothing could be taken."""
    return f"{file} has no usable row" + (f"; the first: {refusals[0]}" if refusals else "")


def _add(log: SortedLog, line: int, told: Told) -> None:
    name = f"row-{line}"
    impression = {"impression_id": name, "event_time_ms": told.event_time_ms, **told.beside, "features": told.features}
    log.add("impressions", told.event_time_ms, line, impression)
    for stem, at_ms in (("clicks", told.click_ms), ("conversions", told.conversion_ms)):
        if at_ms is not None:
            log.add(stem, at_ms, line, {"impression_id": name, "event_time_ms": at_ms})
