"""Appends records to topics, each acknowledged by every replica in sync. Decides nothing about what a record holds.

A record may be there twice after a crash between a flush and the cut that speaks of it, never not at all.
"""

from __future__ import annotations

import threading

import kafka
import kafka.errors
from kafka.producer.future import RecordMetadata

from streaming.adapters.kafka_connection import BrokerError, connected, reaching, reader
from streaming.connection import Credentials, Kafka

_UNDELIVERED = 20_000
"""Records on their way at most: the client has no bound of its own, and a broker that is away must not fill memory."""


_LINGER_MS = 20
"""How long records wait for others to go with them: a batch of some hundred costs the broker no more than one."""


class KafkaSink:
    """Appends to the topics of a model.

    Args:
        settings: which brokers and topics. secret: who asks.
        delivery_timeout_ms: how long a record is tried for before `flush` says that it failed.

    Raises:
        BrokerError: the brokers cannot be reached.
    """

    def __init__(self, settings: Kafka, secret: Credentials, *, delivery_timeout_ms: int = 120_000) -> None:
        self._settings, self._secret = settings, secret
        self._partitions: dict[str, int] = {}
        self._sent = 0  # since the last flush
        self._failed: list[tuple[str, BaseException]] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()  # deliveries are told of by the client's own thread
        self._producer = connected(
            kafka.KafkaProducer,
            settings,
            secret,
            acks="all",
            enable_idempotence=True,
            linger_ms=_LINGER_MS,
            batch_size=131_072,
            delivery_timeout_ms=delivery_timeout_ms,
            request_timeout_ms=min(30_000, delivery_timeout_ms - 2 * _LINGER_MS),
            max_block_ms=settings.connect_timeout_ms,
            allow_auto_create_topics=False,
        )

    def partitions(self, stem: str) -> int:
        """How many partitions a topic has.

        Raises:
            BrokerError: there is no such topic, or the brokers do not answer.
        """
        if stem not in self._partitions:
            topic = self._settings.topic(stem)
            try:
                with reaching(self._settings, self._secret, f"find topic {topic}"):
                    self._partitions[stem] = len(self._producer.partitions_for(topic))
            except BrokerError as error:
                if self._may_be_there(topic):
                    raise
                raise BrokerError(
                    f"kafka.topics: {topic} is not there on {', '.join(self._settings.bootstrap_servers)}: "
                    "make it with `afterclick topics create`, or set kafka.model or [kafka.topics] to what it is called"
                ) from error
        return self._partitions[stem]

    def _may_be_there(self, topic: str) -> bool:
        try:
            asker = reader(self._settings, self._secret)
        except BrokerError:
            return True
        try:
            return topic in asker.topics()
        except kafka.errors.KafkaError:
            return True
        finally:
            asker.close()

    def send(self, stem: str, value: bytes | None, *, key: bytes | None = None, partition: int | None = None) -> None:
        """Appends a record; it is there once `flush` has returned.

        Raises:
            BrokerError: one sent before was not acknowledged.
        """
        self.partitions(stem)
        topic = self._settings.topic(stem)
        try:
            future = self._producer.send(topic, value, key=key, partition=partition)
        except (kafka.errors.KafkaError, ValueError) as error:
            with reaching(self._settings, self._secret, f"append to {topic}"):
                raise error
        future.add_errback(self._on_failure, topic)
        if partition is not None:
            future.add_callback(self._on_delivery)
        self._sent += 1
        if self._sent >= _UNDELIVERED or self._failed:
            self.flush()

    def append(self, stem: str, data: bytes) -> None:
        """Appends lines, a record each."""
        for line in data.removesuffix(b"\n").split(b"\n"):
            self.send(stem, line)

    def end(self, stem: str, partition: int) -> int | None:
        """The offset after the last record that was sent to this very partition and acknowledged; None if there was none yet."""
        with self._lock:
            return self._ends.get((self._settings.topic(stem), partition))

    def _on_delivery(self, metadata: RecordMetadata) -> None:
        with self._lock:
            self._ends[metadata.topic, metadata.partition] = metadata.offset + 1

    def _on_failure(self, topic: str, error: BaseException) -> None:
        with self._lock:
            self._failed.append((topic, error))

    def flush(self) -> None:
        """Waits until everything appended is acknowledged.

        Raises:
            BrokerError: something was not, however often it was tried; what failed is not sent again.
        """
        with reaching(self._settings, self._secret, "have records acknowledged"):
            self._producer.flush()
        self._sent = 0
        with self._lock:
            failed, self._failed = self._failed, []
        if failed:
            topic, error = failed[0]
            raise BrokerError(
                f"{topic}: {len(failed)} records were not acknowledged, the first because {error or type(error).__name__}: "
                "they count as not written; mend the broker, then go on from the newest cut"
            )

    def close(self) -> None:
        """Lets go of the brokers; what was not flushed may be lost."""
        self._producer.close(timeout=1)
