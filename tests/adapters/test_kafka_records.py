"""Records are taken apart as kafka-python takes them apart, whatever a batch holds; what is damaged is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.structs import TopicPartition

from streaming.adapters.kafka_records import _PartitionRecords, polled, records_of, take_apart_fast

AT = TopicPartition("m.clicks", 3)
texts = st.one_of(st.none(), st.binary(max_size=20), st.binary(min_size=120, max_size=140), st.just(bytes(20_000)))
headers = st.lists(st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5))), max_size=2)
rows = st.lists(st.tuples(texts, texts, headers, st.integers(0, 2**40)), min_size=1, max_size=8)
batches = st.lists(st.tuples(rows, st.sampled_from([0, 1])), min_size=1, max_size=4)


def batch_of(records: list[Any], *, base: int, compression: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=compression, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 24,
    )  # fmt: skip
    for offset, (key, value, own, timestamp) in enumerate(records):
        builder.append(offset, timestamp=timestamp, key=key, value=value, headers=own)
    data = bytes(builder.build())
    return base.to_bytes(8, "big") + data[8:]  # a broker sets the offset, and that is not in the checksum


def fetched(parts: list[tuple[list[Any], int]], *, start: int = 1_000) -> bytes:
    data = b""
    for records, compression in parts:
        data += batch_of(records, base=start, compression=compression)
        start += len(records)
    return data


def taken(kind: type, data: bytes, offset: int = 0, most: int | None = None) -> tuple[list[Any], int]:
    own: Any = kind(offset, AT, MemoryRecords(data))
    return [tuple(record) for record in polled(own.take(most))], own.next_fetch_offset


@given(batches, st.integers(995, 1_040), st.one_of(st.none(), st.integers(0, 20)))
def test_they_are_those_that_kafka_python_gives(
    parts: list[tuple[list[Any], int]], offset: int, most: int | None
) -> None:
    data = fetched(parts)
    assert taken(_PartitionRecords, data, offset, most) == taken(Fetcher.PartitionRecords, data, offset, most)


def test_no_damaged_batch_is_read() -> None:
    data = bytearray(fetched([([(b"k", os.urandom(50), [], 5)], 0)]))
    data[-20] ^= 1
    with pytest.raises(CorruptRecordError, match=r"m\.clicks\[3\]@1000: the batch fails its checksum"):
        taken(_PartitionRecords, bytes(data))


RECORD = bytes([2 * 8, 0, 0, 0, 2 * 1, 107, 2 * 1, 118, 0])


@pytest.mark.parametrize(
    ("buffer", "count", "says"),
    [
        (RECORD[:4], 1, "ends within a record"),
        (RECORD + b"\0", 1, "1 bytes are left"),
        (bytes([2 * 6]) + RECORD[1:], 1, "a record of 6 bytes holds more"),
        (RECORD, 2, "ends within a record"),
        (RECORD[:-3] + bytes([2 * 9, 118, 0]), 1, "a record of 8 bytes holds more"),
        (bytes([2 * 60]) + RECORD[1:], 1, "a record of 60 bytes holds more"),
    ],
)
def test_what_is_no_record_is_refused(buffer: bytes, count: int, says: str) -> None:
    assert list(records_of(RECORD, 0, 1, 7)) == [(7, b"k", b"v")]
    with pytest.raises(CorruptRecordError, match=says):
        list(records_of(buffer, 0, count, 0))


def test_a_client_that_keeps_records_elsewhere_is_left_alone() -> None:
    for consumer in (object(), type("Consumer", (), {"_fetcher": object()})()):
        take_apart_fast(consumer)
    assert polled([]) == []
