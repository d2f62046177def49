"""Partitions: the same as Kafka's own clients deal keys out, whatever the keys."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as one_by_one

from streaming.partitioning import murmur2, partitions_of


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_murmur2_is_kafkas(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [one_by_one(key) for key in keys]


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 200))
def test_partitions_are_the_clients(keys: list[bytes], count: int) -> None:
    java, librdkafka = partitions_of(keys, count, "murmur2"), partitions_of(keys, count, "crc32")
    assert java is not None
    assert librdkafka is not None
    assert java.tolist() == [(one_by_one(key) & 0x7FFFFFFF) % count for key in keys]
    assert librdkafka.tolist() == [zlib.crc32(key) % count for key in keys]


@pytest.mark.parametrize("count", [1, 6])
def test_any_says_nothing(count: int) -> None:
    assert partitions_of([b"a"], count, "any") is None
