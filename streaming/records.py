"""Polled records of one stream told apart: events, and what is refused and why. Must not know time, other streams or who polled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streaming.arrivals import place_of
from streaming.connection import Partitioner
from streaming.events import Event, EventDecoder, RecordKind
from streaming.log_file import Refused
from streaming.partitioning import partitions_of
from streaming.settings import Fields

PolledRecord = tuple[int, bytes | None, bytes | None]
"""Offset, key, value."""


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

    def tell_apart(self, records: list[PolledRecord]) -> tuple[list[tuple[int, Event]], dict[int, Refused]]:
        """The records that are events and stand where they should, and the others refused, by their positions."""
        refused: dict[int, Refused] = {}
        for position, record in enumerate(records):
            if record[2] is None:
                reason = "no value: a tombstone says nothing of an event"
                refused[position] = refuse(self.kind, self.name, record, reason, None)
        there = [position for position in range(len(records)) if position not in refused]
        events, malformed = self._decoder.decode_apart([records[position][2] or b"" for position in there])
        for index, why in malformed:
            offset, _, value = records[there[index]]
            at = place_of(self.name, offset)
            refused[there[index]] = Refused(
                self.kind, at, value or b"", why.reason, False, why.impression_id, why.event_time_ms, None
            )
        there = [position for position in there if position not in refused]
        for index, reason in self._misplaced([records[position][1] for position in there], events):
            refused[there[index]] = refuse(self.kind, self.name, records[there[index]], reason, events[index])
        good = [item for item in zip(there, events, strict=True) if item[0] not in refused]
        return good, refused

    def _misplaced(self, keys: list[bytes | None], events: list[Event]) -> Iterator[tuple[int, str]]:
        """The events whose facts would be looked for in another partition, and why."""
        own = [(event.impression_id if event.join_key is None else event.join_key).encode() for event in events]
        for index, (key, join_key) in enumerate(zip(keys, own, strict=True)):
            if key is not None and key != join_key:
                yield (
                    index,
                    f"its key is {key!r}, its join key {join_key!r}: records must be produced under their join keys",
                )
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


def refuse(kind: RecordKind, name: str, record: PolledRecord, reason: str, event: Event | None) -> Refused:
    """A record of a stream refused for a reason; `event` is what it was decoded to, if it was."""
    offset, _, value = record
    impression_id = None if event is None else event.impression_id
    event_time_ms = None if event is None else event.event_time_ms
    return Refused(kind, place_of(name, offset), value or b"", reason, False, impression_id, event_time_ms, None)
