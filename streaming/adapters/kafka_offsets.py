"""What the brokers know of a model's topics and of the group that shares its join. Decides nothing about what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import kafka
from kafka import TopicPartition

from streaming.adapters.kafka_connection import known_offsets, offsets_of, partitions_of_all, reaching, reader
from streaming.adapters.kafka_records import polled, take_apart_fast
from streaming.connection import Credentials
from streaming.events import RecordKind
from streaming.join_ports import EXAMPLES
from streaming.records import PolledRecord
from streaming.settings import Settings

_ASK_MS = 2_000
"""How long to wait for a broker to say where its partitions end."""


class KafkaOffsets:
    """Asks about topics, offsets and a group without being one of it.

    Args:
        settings: which. secret: who asks. group: whose commits.

    Raises:
        BrokerError: not reachable, or not allowed.
    """

    def __init__(self, settings: Settings, secret: Credentials, group: str) -> None:
        self._kafka, self._secret = settings.kafka, secret
        self._asker = self._consumer(group)
        try:
            self._reader = self._consumer(None)
        except BaseException:
            self._asker.close()
            raise
        take_apart_fast(self._reader)

    def _consumer(self, group: str | None) -> kafka.KafkaConsumer:
        return reader(
            self._kafka,
            self._secret,
            group_id=group,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            fetch_max_bytes=self._kafka.fetch_max_bytes,
            max_partition_fetch_bytes=self._kafka.max_partition_fetch_bytes,
        )

    def _ask(self, intent: str) -> Any:
        return reaching(self._kafka, self._secret, intent)

    def partitions(self) -> int:
        """How many the topics have, asked anew.

        Raises:
            BrokerError: one is not there, or they have not equally many.
        """
        topics = [self._kafka.topic(stem) for stem in (*(kind.stem for kind in RecordKind), EXAMPLES)]
        with self._ask("look at the topics"):
            there = self._asker.topics()
            counts = {
                topic: len(self._asker.partitions_for_topic(topic) or ()) if topic in there else 0 for topic in topics
            }
        return partitions_of_all(self._kafka, counts)

    def committed(self, names: Collection[str]) -> dict[str, int | None]:
        """How far the group has come in each `topic[partition]`; None if it has committed nothing there."""
        with self._ask("ask what the group has committed"):
            return {name: self._asker.committed(_partition(name)) for name in names}

    def bounds(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        """The first offset there is, and the one after the last."""
        partitions = {name: _partition(name) for name in names}
        with self._ask("ask where the topics begin and end"):
            first, last = (
                offsets_of(ask, partitions.values(), timeout_ms=self._kafka.connect_timeout_ms)
                for ask in (self._asker.beginning_offsets, self._asker.end_offsets)
            )
        return {name: (first[partition], last[partition]) for name, partition in partitions.items()}

    def ends(self, names: Collection[str]) -> dict[str, int]:
        """The offset after the last; left out where the brokers do not say soon."""
        partitions = {_partition(name): name for name in names}
        found = known_offsets(self._asker.end_offsets, partitions, timeout_ms=_ASK_MS)
        return {partitions[partition]: offset for partition, offset in found.items()}

    def records(self, name: str, start: int, end: int) -> Iterator[PolledRecord]:
        """Each record from offset `start` on and before `end`."""
        partition = _partition(name)
        with self._ask(f"read {name}"):
            self._reader.assign([partition])
            self._reader.seek(partition, start)
            while self._reader.position(partition) < end:
                for record in polled(self._reader.poll(timeout_ms=self._kafka.poll_timeout_ms).get(partition, [])):
                    if record[0] >= end:
                        return
                    yield record

    def close(self) -> None:
        """Lets go of the brokers."""
        self._asker.close(timeout_ms=1_000)
        self._reader.close(timeout_ms=1_000)


def _partition(name: str) -> TopicPartition:
    topic, _, number = name[:-1].rpartition("[")
    return TopicPartition(topic, int(number))
