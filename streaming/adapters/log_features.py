"""The raw features of impressions, looked up in a log by id and time. Decides nothing about what they are for."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import msgspec

from streaming.adapters.files import find_parts, read_lines
from streaming.events import EventDecoder, Impression, RecordKind
from streaming.log_file import Place
from streaming.settings import Fields

ImpressionKey = tuple[str, int]
"""An impression's id and event time: which it is, even where a log uses an id again."""


def features_of(log: Path, fields: Fields, wanted: Set[ImpressionKey]) -> dict[ImpressionKey, msgspec.Raw]:
    """The features of those impressions that the log holds; of equal ones the first counts.

    Costs one pass over the impressions, and memory for what is found.

    Raises:
        LogError: there is no log at `log`, or it cannot be read.
    """
    parts = find_parts(log)[RecordKind.IMPRESSION]  # a wrong LOG is told even if nothing is wanted
    found: dict[ImpressionKey, msgspec.Raw] = {}
    if not wanted:
        return found
    decoder = EventDecoder(RecordKind.IMPRESSION, fields)
    for path in parts:
        for block in read_lines(path, Place()):
            for event in decoder.decode([line for line in block.lines if line]):
                if type(event) is Impression:
                    key = event.impression_id, event.event_time_ms
                    if key in wanted and key not in found:
                        found[key] = event.features.copy()
    return found
