"""Records out of the batches of a fetch: offset, key and value, and nothing else. Must not know what is in them.

kafka-python makes an object with thirteen fields of each, in 5 us; this takes 1. Checks, transactions and compression stay its own. The form is
that of Kafka's protocol, RecordBatch version 2: a record is

    length | attributes (1 byte) | timestamp | offset - base | length, key | length, value | headers

where all but attributes are variable-length integers in zigzag form, and a length of -1 is "none".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka.consumer import fetcher
from kafka.errors import CorruptRecordError

from streaming.records import PolledRecord

_Own: Any = getattr(fetcher.Fetcher, "PartitionRecords", object)


def records_of(buffer: bytes, start: int, count: int, base: int) -> Iterator[PolledRecord]:
    """The records of a batch.

    Args:
        buffer: the batch, unpacked. start: where its records begin. count: of them. base: offset of the first.

    Raises:
        CorruptRecordError: they are not what a record is.
    """
    at, total = start, len(buffer)
    try:
        for _ in range(count):
            byte = buffer[at]
            at, length, shift = at + 1, byte & 127, 7
            while byte > 127:
                byte = buffer[at]
                at, length, shift = at + 1, length | (byte & 127) << shift, shift + 7
            end = at + (length >> 1)
            at += 1  # attributes say nothing yet
            while buffer[at] > 127:  # the timestamp
                at += 1
            byte = buffer[at + 1]
            at, delta, shift = at + 2, byte & 127, 7
            while byte > 127:
                byte = buffer[at]
                at, delta, shift = at + 1, delta | (byte & 127) << shift, shift + 7
            byte = buffer[at]
            at, size, shift = at + 1, byte & 127, 7
            while byte > 127:
                byte = buffer[at]
                at, size, shift = at + 1, size | (byte & 127) << shift, shift + 7
            key = value = None
            if not size & 1:
                key = buffer[at : at + (size >> 1)]
                at += size >> 1
            byte = buffer[at]
            at, size, shift = at + 1, byte & 127, 7
            while byte > 127:
                byte = buffer[at]
                at, size, shift = at + 1, size | (byte & 127) << shift, shift + 7
            if not size & 1:
                value = buffer[at : at + (size >> 1)]
                at += size >> 1
            if not at < end <= total or length & 1 or delta & 1:  # headers are a byte at least
                raise CorruptRecordError(f"a record of {length >> 1} bytes holds more, or less than none")
            at = end
            yield base + (delta >> 1), key, value
    except IndexError:
        raise CorruptRecordError("a batch ends within a record") from None
    if at != total:
        raise CorruptRecordError(f"{total - at} bytes are left once all records of a batch are read")


class _PartitionRecords(_Own):  # type: ignore[misc]
    """What was fetched of a partition, as kafka-python keeps it, with other records."""

    def _maybe_skip_record(self, record: PolledRecord) -> bool:
        skips: bool = record[0] < self.fetch_offset
        return skips

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Iterator[PolledRecord]:
        last: Any = None
        while (batch := records.next_batch()) is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(
                    f"{tp.topic}[{tp.partition}]@{batch.base_offset}: the batch fails its checksum"
                )
            if batch.magic < 2:  # of brokers older than 0.11
                for record in batch:
                    self.next_fetch_offset = record.offset + 1
                    yield record.offset, record.key, record.value
                continue
            self.leader_epoch = batch.leader_epoch
            if self._is_to_be_passed_over(batch):
                self.next_fetch_offset = batch.next_offset
                continue
            batch._maybe_uncompress()
            self.records_read += batch.records_count
            self.bytes_read += len(batch._buffer)
            for polled in records_of(bytes(batch._buffer), batch._pos, batch.records_count, batch.base_offset):
                self.next_fetch_offset = polled[0] + 1
                yield polled
        if last is not None and last.magic == 2:
            self.next_fetch_offset = last.next_offset  # the last records of a batch may have been compacted away
        self.drain()

    def _is_to_be_passed_over(self, batch: Any) -> bool:
        """Whether it is of a transaction that was taken back, or the mark that ends one."""
        if self.isolation_level == fetcher.IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def take_apart_fast(consumer: Any) -> None:
    """Lets a consumer give `PolledRecord`s. A kafka-python that keeps what it fetched elsewhere goes on giving its own."""
    own: Any = getattr(consumer, "_fetcher", None)
    if _Own is not object and isinstance(getattr(own, "PartitionRecords", None), type):
        own.PartitionRecords = _PartitionRecords


def polled(records: list[Any]) -> list[PolledRecord]:
    """What a consumer gave, as offset, key and value."""
    if not records or type(records[0]) is tuple:
        return records
    return [(record.offset, record.key, record.value) for record in records]
