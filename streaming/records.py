"""Polled records of one stream told apart: events, and what is refused and why. Must not know time, other streams or who polled."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from streaming.arrivals import place_of
from streaming.connection import Partitioner
from streaming.events import Event, EventDecoder, RecordKind
from streaming.log_file import Int64, Refused
from streaming.partitioning import partitions_of
from streaming.settings import Fields

PolledRecord = tuple[int, bytes | None, bytes | None]
"""Offset, key, value."""


class Told(NamedTuple):
    """The records of a block told apart.

    Args:
        offsets: (n,) of those that are events. events, lines: (n,) decoded, and as they were.
        refused: the others, by offset.
    """

    offsets: Int64
    events: list[Event]
    lines: list[bytes]
    refused: dict[int, Refused]


class PolledStream:
    """The records of one partition of one topic.

    Args:
        kind: which stream. name: `topic[partition]`. fields: where its records keep their envelope.
        p: the partition. count: of how many. partitioner: how keys are dealt out to them.
    """

    def __init__(
        self, kind: RecordKind, name: str, fields: Fields, *, p: int, count: int, partitioner: Partitioner
    ) -> None:
        self.kind, self.name = kind, name
        self._p, self._count, self._partitioner = p, count, partitioner
        self._decoder = EventDecoder(kind, fields)

    def tell_apart(self, records: list[PolledRecord]) -> Told:
        """The records that are events and stand where they should, and the others refused. Nearly all are: 2 us each."""
        if not records:
            return Told(np.empty(0, np.int64), [], [], {})
        refused: dict[int, Refused] = {}
        offsets, keys = [record[0] for record in records], [record[1] for record in records]
        values: list[Any] = [record[2] for record in records]  # bytes, once tombstones are out
        if None in values:
            for record in records:
                if record[2] is None:
                    reason = "no value: a tombstone says nothing of an event"
                    refused[record[0]] = refuse(self.kind, self.name, record, reason, None)
            offsets, keys, values = _without(refused, offsets, keys, values)
        events, malformed = self._decoder.decode_apart(values)
        if malformed:
            for index, why in malformed:
                known = (why.impression_id, why.event_time_ms)
                at = place_of(self.name, offsets[index])
                refused[offsets[index]] = Refused(self.kind, at, values[index], why.reason, False, *known, None)
            offsets, keys, values = _without(refused, offsets, keys, values)
        misplaced = dict(self._misplaced(keys, events))
        if misplaced:
            for index, reason in misplaced.items():
                record = (offsets[index], keys[index], values[index])
                refused[offsets[index]] = refuse(self.kind, self.name, record, reason, events[index])
            events = [event for index, event in enumerate(events) if index not in misplaced]
            offsets, keys, values = _without(refused, offsets, keys, values)
        return Told(np.fromiter(offsets, np.int64, len(offsets)), events, values, refused)

    def _misplaced(self, keys: list[bytes | None], events: list[Event]) -> Iterator[tuple[int, str]]:
        """The events whose facts would be looked for in another partition, and why."""
        own = [(event.impression_id if event.join_key is None else event.join_key).encode() for event in events]
        if keys != own:
            for index, (key, join_key) in enumerate(zip(keys, own, strict=True)):
                if key is not None and key != join_key:
                    says = (
                        f"its key is {key!r}, its join key {join_key!r}: records must be produced under their join keys"
                    )
                    yield index, says
        partitions = None if self._count == 1 or not events else partitions_of(own, self._count, self._partitioner)
        if partitions is None:
            return
        for index in np.flatnonzero(partitions != self._p).tolist():
            if keys[index] in (None, own[index]):
                reason = (
                    f"it is in partition {self._p}, its join key {own[index]!r} belongs into {partitions[index]} of {self._count} by "
                    f"{self._partitioner}: produce it with that partitioner, or set kafka.partitioner to what the producer uses"
                )
                yield index, reason


def _without(refused: dict[int, Refused], offsets: list[int], *columns: list[Any]) -> Iterator[list[Any]]:
    """Columns without the records that were refused."""
    kept = [offset not in refused for offset in offsets]
    return (list(compress(column, kept)) for column in (offsets, *columns))


def refuse(kind: RecordKind, name: str, record: PolledRecord, reason: str, event: Event | None) -> Refused:
    """A record of a stream refused for a reason; `event` is what it was decoded to, if it was."""
    offset, _, value = record
    impression_id = None if event is None else event.impression_id
    event_time_ms = None if event is None else event.event_time_ms
    return Refused(kind, place_of(name, offset), value or b"", reason, False, impression_id, event_time_ms, None)
