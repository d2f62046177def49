"""Short ways for tests to have topics of their own on a real broker, records in them, and to read them back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from fakes import line_of
from services import Server

from streaming.adapters.kafka import KafkaPolls
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.connection import Credentials, Kafka
from streaming.events import Event, RecordKind
from streaming.live import Polled, PolledRecord
from streaming.settings import EventTime, Settings

NOBODY = Credentials()


def settings_on(server: Server, *, partitions: int = 2, **broker: Any) -> Settings:
    """Settings with topics of a name that nobody else has, and streams that are soon idle."""
    told: dict[str, Any] = {"connect_timeout_ms": 8_000, "poll_timeout_ms": 100, "model": f"t{uuid.uuid4().hex[:12]}"}
    return Settings(
        kafka=Kafka(bootstrap_servers=(server.bootstrap,), partitions=partitions, **(told | broker)),
        event_time=EventTime(idle_timeout_ms=300),
    )


def with_topics(server: Server, *, partitions: int = 2, **broker: Any) -> Settings:
    """The same, and the topics are there."""
    settings = settings_on(server, partitions=partitions, **broker)
    create_topics(settings, NOBODY)
    return settings


def put(settings: Settings, kind: RecordKind, *events: Event) -> None:
    """Events into their topic, under their ids."""
    put_raw(settings, kind.stem, *[(event.impression_id.encode(), line_of(event)) for event in events])


def put_raw(settings: Settings, stem: str, *records: tuple[bytes | None, bytes | None], p: int | None = None) -> None:
    """Keys and values into a topic."""
    sink = KafkaSink(settings.kafka, NOBODY)
    for key, value in records:
        sink.send(stem, value, key=key, partition=p)
    sink.flush()
    sink.close()


def polled_until(
    polls: KafkaPolls,
    is_enough: Callable[[Mapping[str, list[PolledRecord]], Mapping[str, bool]], bool],
    *,
    looks: int = 300,
    paused: frozenset[str] = frozenset(),
) -> tuple[dict[str, list[PolledRecord]], dict[str, bool]]:
    """What was shown by stream, and what is idle, once that is enough."""
    records: dict[str, list[PolledRecord]] = {}
    idle: dict[str, bool] = {}
    for _ in range(looks):
        polled = polls.poll(paused)
        assert isinstance(polled, Polled)
        for name, some in polled.records.items():
            records.setdefault(name, []).extend(some)
        idle |= polled.idle
        if is_enough(records, idle):
            return records, idle
    raise AssertionError(f"not enough after {looks} looks: {records}, {idle}")


def count_of(records: Mapping[str, list[PolledRecord]]) -> int:
    return sum(map(len, records.values()))


def replaced(settings: Settings, **broker: Any) -> Settings:
    """The same settings with other keys of [kafka]."""
    return msgspec.structs.replace(settings, kafka=msgspec.structs.replace(settings.kafka, **broker))
