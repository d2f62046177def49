"""Reads published weights from their topic, every byte verified. Decides nothing about weights; what stands there, see `kafka_weights.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kafka
import kafka.errors
from kafka import TopicPartition

from models.manifest import MissingWeightsError, Published, parse_name, version_name
from streaming.adapters.kafka_connection import BrokerError, reaching, reader
from streaming.chunks import Chunked, chunks_of, put_together
from streaming.connection import Credentials, Kafka
from streaming.ports import TargetError

SHORT = ("epoch", "held", "current")
"""The keys that are no version's."""

_POLL_MS = 500
_PATIENCE = 20  # polls without a record, before a broker is said not to answer


class KafkaWeightsError(TargetError):
    """Weights cannot be written to the topic, or read from it; the message names the brokers, what is wrong and what to do."""


class WeightsTopic:
    """What stands in the topic, by key: short records with their values, chunks by their offset.

    Args:
        settings: which brokers and model. secret: who asks.
    """

    def __init__(self, settings: Kafka, secret: Credentials) -> None:
        self._settings, self._secret = settings, secret
        self._name = settings.topic("weights")
        self._partition = TopicPartition(self._name, 0)
        self._at = 0
        self._empty = 0  # polls in a row
        self.short: dict[str, bytes] = {}
        self.manifests: dict[str, Chunked] = {}
        self.offsets: dict[str, int] = {}
        try:
            self._consumer = reader(
                settings, secret, group_id=None, auto_offset_reset="earliest", fetch_max_wait_ms=100
            )
        except BrokerError as error:
            raise KafkaWeightsError(str(error)) from error
        try:
            with reaching_weights(settings, secret, f"find topic {self._name}"):
                partitions = self._consumer.partitions_for_topic(self._name)
            if not partitions:
                raise KafkaWeightsError(
                    f"topic {self._name} does not exist on {', '.join(settings.bootstrap_servers)}: "
                    "make it with `afterclick topics create --config FILE`, with the settings of the run"
                )
            if partitions != {0}:
                raise KafkaWeightsError(
                    f"topic {self._name} must have one partition (got {len(partitions)}): versions are in one order; "
                    "delete it, and let `afterclick topics create` make it"
                )
        except BaseException:
            self._consumer.close()
            raise
        self._consumer.assign([self._partition])
        self._consumer.seek_to_beginning(self._partition)

    @property
    def epoch(self) -> int:
        """The newest that was issued; 0 before the first."""
        return int(self.short.get("epoch", b"0"))

    def read_to_end(self) -> None:
        """Takes note of all that was committed until now."""
        with reaching_weights(self._settings, self._secret, f"read {self._name}"):
            end = self._consumer.end_offsets([self._partition])[self._partition]
            self._consumer.seek(self._partition, self._at) if self._at else None
            while self._consumer.position(self._partition) < end:
                for record in self._records():
                    self._note(record)
            self._at = self._consumer.position(self._partition)

    def _records(self) -> list[Any]:
        found = [record for some in self._consumer.poll(timeout_ms=_POLL_MS).values() for record in some]
        self._empty = 0 if found else self._empty + 1
        if self._empty > _PATIENCE:
            raise kafka.errors.KafkaTimeoutError(f"no answer in {_PATIENCE * _POLL_MS / 1000:.0f} s")
        return found

    def _note(self, record: Any) -> None:
        key, value = record.key.decode(), record.value or b""
        name, _, chunk = key.partition("/")
        if key in SHORT:
            is_older = key == "current" and self.short.get(key, b"") > value  # readers never go back
            self.short[key] = self.short[key] if is_older else value
        elif chunk and value:
            self.offsets[key] = record.offset
        elif chunk:
            self.offsets.pop(key, None)
        elif value:
            headers = dict(record.headers)
            self.manifests[name] = Chunked(
                value, headers.get("sha256", b"").decode(errors="replace"), headers.get("chunks", b"")
            )
        else:
            self.manifests.pop(name, None)

    def values_of(self, keys: list[str]) -> dict[str, bytes]:
        """The values of chunks, those that are there: their offsets are known, and neighbours are read in one go."""
        wanted = {self.offsets[key]: key for key in keys if key in self.offsets}
        found: dict[str, bytes] = {}
        with reaching_weights(self._settings, self._secret, f"read {self._name}"):
            end = self._consumer.end_offsets([self._partition])[self._partition]
            for offset in sorted(wanted):
                if wanted[offset] in found:
                    continue
                self._consumer.seek(self._partition, offset)
                while self._consumer.position(self._partition) <= min(offset, end - 1):
                    for record in self._records():
                        if record.offset in wanted:
                            found[wanted[record.offset]] = record.value
        return found

    def close(self) -> None:
        """Lets go of the brokers."""
        self._consumer.close()


@contextmanager
def reaching_weights(settings: Kafka, secret: Credentials, intent: str) -> Iterator[None]:
    """Calls errors of the client what whoever publishes or reads weights knows."""
    try:
        with reaching(settings, secret, intent):
            yield
    except BrokerError as error:
        raise KafkaWeightsError(str(error)) from error


class KafkaSource:
    """The published versions of a model in its topic, as a `WeightsSource`.

    Args:
        settings: which brokers and model. secret: who asks.

    Raises:
        KafkaWeightsError: the brokers cannot be reached.
    """

    def __init__(self, settings: Kafka, secret: Credentials) -> None:
        self._name = settings.topic("weights")
        self._topic = WeightsTopic(settings, secret)

    def current(self) -> tuple[int, int] | None:
        """The (epoch, version) to serve; None before the first."""
        self._topic.read_to_end()
        name = self._topic.short.get("current")
        return None if name is None else parse_name(name.decode())

    def fetch(self, epoch: int, version: int) -> Published:
        """A version, every byte of it verified; see `WeightsSource`."""
        name = version_name(epoch, version)
        if name not in self._topic.manifests:
            self._topic.read_to_end()
        chunked = self._topic.manifests.get(name)
        if chunked is None:
            raise MissingWeightsError(f"{self._name} has no version {name}: read the current one")
        chunks = chunks_of(name, chunked)
        data = self._topic.values_of([f"{name}/{chunk.name}" for chunk in chunks])
        by_chunk: dict[str, bytes | None] = {chunk.name: data.get(f"{name}/{chunk.name}") for chunk in chunks}
        return put_together(name, chunked, chunks, by_chunk)

    def close(self) -> None:
        """Lets go of the brokers."""
        self._topic.close()
