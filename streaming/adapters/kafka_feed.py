"""Feeds the records of a log into the topics of a model, each under its join key. Decides nothing about when.

Records leave in the order in which a replay of the log would meet them, those that it would refuse too; within a partition that order stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from streaming.adapters.kafka_sink import KafkaSink
from streaming.arrivals import Arrivals
from streaming.connection import Kafka
from streaming.events import RecordKind
from streaming.log_file import Refused
from streaming.partitioning import partitions_of


class KafkaFeed:
    """Produces arrivals.

    Args:
        sink: where to. settings: which topics, and how keys are dealt out to their partitions.

    Raises:
        BrokerError: a topic is not there.
    """

    def __init__(self, sink: KafkaSink, settings: Kafka) -> None:
        self._sink, self._partitioner = sink, settings.partitioner
        self._count = {kind: sink.partitions(kind.stem) for kind in RecordKind}
        self.produced = dict.fromkeys(RecordKind, 0)
        """Records by kind."""

    def produce(self, arrivals: Arrivals) -> None:
        """Appends records to their topics; they are there once the sink is flushed."""
        for kind, key, line in _in_order(arrivals):
            self._sink.send(kind.stem, line, key=key, partition=self._partition(kind, key))
            self.produced[kind] += 1

    def _partition(self, kind: RecordKind, key: bytes | None) -> int | None:
        """None leaves it to the client, which takes murmur2."""
        if key is None or self._partitioner != "crc32":
            return None
        found = partitions_of([key], self._count[kind], self._partitioner)
        return None if found is None else int(found[0])


def _in_order(arrivals: Arrivals) -> Iterator[tuple[RecordKind, bytes | None, bytes]]:
    """Kind, key and value of each; a refused one, which has no place among the others, stands behind what precedes it in its file."""
    waiting: dict[str, list[tuple[int, Refused]]] = {}
    for refused in arrivals.refused:
        name, _, number = refused.at.rpartition(":")
        waiting.setdefault(name, []).append((int(number), refused))
    for index, event in enumerate(arrivals.events):
        name = arrivals.names[arrivals.files[index]]
        before = waiting.get(name)
        while before and before[0][0] < arrivals.numbers[index]:
            yield _of_refused(before.pop(0)[1])
        join_key = event.impression_id if event.join_key is None else event.join_key
        yield RecordKind(int(arrivals.kinds[index])), join_key.encode(), arrivals.lines[index]
    for left in waiting.values():
        for _, refused in left:
            yield _of_refused(refused)


def _of_refused(refused: Refused) -> tuple[RecordKind, bytes | None, bytes]:
    key = None if refused.impression_id is None else refused.impression_id.encode()
    return refused.kind, key, refused.line
