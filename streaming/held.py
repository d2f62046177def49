"""Facts that wait for what they belong to, until they have waited long enough. Must not know what they wait for."""

from __future__ import annotations

import heapq

from streaming.pending import PackedRecord, Record, pack_record, unpack_record


class Held:
    """Clicks and conversions held by the identity they wait for.

    Args:
        hold_ms: how long one is held beyond its event time.
    """

    def __init__(self, hold_ms: int) -> None:
        self._hold_ms = hold_ms
        self._by_name: dict[str, dict[int, Record]] = {}
        self.names = self._by_name.keys()
        """A live view of the names that something is held for."""
        # (until, kind, name, line, number): a released record's entry stays behind until its time and is then passed over.
        self._until: list[tuple[int, int, str, bytes, int]] = []
        self._number = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def next_ms(self) -> int | None:
        """The event time + hold of the record that leaves next; None if none is held."""
        while self._until and self._until[0][4] not in self._by_name.get(self._until[0][2], ()):
            heapq.heappop(self._until)
        return self._until[0][0] if self._until else None

    def add(self, name: str, record: Record) -> None:
        """Holds a record for the impression of this name."""
        self._number += 1
        self._count += 1
        self._by_name.setdefault(name, {})[self._number] = record
        until_ms = record.event.event_time_ms + self._hold_ms
        heapq.heappush(self._until, (until_ms, int(record.kind), name, record.line, self._number))

    def release(self, name: str) -> list[Record]:
        """Gives up what is held for a name, in the order (event time, kind, bytes)."""
        records = list(self._by_name.pop(name).values())
        self._count -= len(records)
        records.sort(key=lambda record: (record.event.event_time_ms, int(record.kind), record.line))
        return records

    def expire(self, now_ms: int) -> list[Record]:
        """Gives up what has been held for longer than it may, in the order (until, kind, name, bytes)."""
        expired: list[Record] = []
        while (until_ms := self.next_ms) is not None and until_ms < now_ms:
            *_, name, _line, number = heapq.heappop(self._until)
            expired.append(self._by_name[name].pop(number))
            self._count -= 1
            if not self._by_name[name]:
                del self._by_name[name]
        return expired

    def snapshot(self) -> list[tuple[str, PackedRecord]]:
        """What is held, in the order in which it came."""
        numbered = [(number, name, record) for name, held in self._by_name.items() for number, record in held.items()]
        return [(name, pack_record(record)) for _, name, record in sorted(numbered, key=lambda entry: entry[0])]

    def restore(self, snapshot: list[tuple[str, PackedRecord]]) -> None:
        """Holds what the snapshot held, while empty."""
        for name, packed in snapshot:
            self.add(name, unpack_record(packed))
