"""Readers of real targets: one that polls each version, one that pauses and one that starts late end at the same bytes; what was lost heals."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis as client
from brokers import NOBODY
from kafka.admin import KafkaAdminClient
from scorers import tiny
from services import Server

from models.manifest import Published
from models.weights import encode
from streaming.adapters.kafka_weights import KafkaTarget
from streaming.adapters.kafka_weights_source import KafkaSource
from streaming.adapters.redis_weights import RedisSource, RedisTarget
from streaming.connection import Kafka, Redis
from streaming.ports import Target, WeightsSource
from streaming.reader import WeightsReader

pytestmark = pytest.mark.integration


class Place:
    """A target of weights and who reads it; all are let go of at the end."""

    def __init__(self, target: Callable[[], Target], source: Callable[[], WeightsSource]) -> None:
        self.target = target()
        self._source = source
        self._sources: list[WeightsSource] = []

    def reader(self) -> WeightsReader:
        self._sources.append(self._source())
        return WeightsReader(self._sources[-1], clock=lambda: 0)

    def close(self) -> None:
        for each in (self.target, *self._sources):
            each.close()  # type: ignore[union-attr]


@pytest.fixture
def of_redis(redis: Server) -> Iterator[tuple[Place, Redis]]:
    settings = Redis(url=f"redis://{redis.bootstrap}/0", model=uuid.uuid4().hex, chunk_bytes=100)
    place = Place(lambda: RedisTarget(settings, None, versions_kept=10), lambda: RedisSource(settings, None))
    yield place, settings
    place.close()


@pytest.fixture
def of_kafka(kafka: Server) -> Iterator[Place]:
    settings = Kafka(bootstrap_servers=(kafka.bootstrap,), model=uuid.uuid4().hex, weights_chunk_bytes=100)
    topic = {"num_partitions": 1, "replication_factor": 1, "configs": {"cleanup.policy": "compact"}}
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics({settings.topic("weights"): topic}, wait_for_metadata=True)
    admin.close()
    place = Place(lambda: KafkaTarget(settings, NOBODY, versions_kept=10), lambda: KafkaSource(settings, NOBODY))
    yield place
    place.close()


def hash_of(reader: WeightsReader) -> str:
    assert reader.served is not None
    return hashlib.sha256(encode(reader.served.weights).parts["rows.safetensors"]).hexdigest()


def seen(reader: WeightsReader, version: tuple[int, int]) -> WeightsReader:
    """The reader, once it serves that version: a commit of Kafka's is seen a moment after it is made."""
    for _ in range(500):
        if reader.served is not None and reader.served.version == version:
            return reader
        reader.poll()
    raise AssertionError((reader.served, reader.last_refusal))


def published_to(place: Place) -> list[Published]:
    epoch = place.target.issue_epoch()
    versions = [tiny(epoch, 1, rows={5: 0.5, 6: 0.25})]
    versions += [
        tiny(epoch, n, logit=n / 10, rows={5: n / 10, 6: 0.25} | {7 + k: 0.5 for k in range(n)}, base=n - 1)
        for n in (2, 3, 4, 5)
    ]
    return versions


def end_alike(place: Place) -> None:
    steady, paused = place.reader(), place.reader()
    for number, published in enumerate(published_to(place)):
        place.target.publish(published)
        version = published.manifest.epoch, published.manifest.version
        seen(steady, version)
        if number in (0, 2):
            seen(paused, version)
    late = seen(place.reader(), version)
    assert hash_of(steady) == hash_of(seen(paused, version)) == hash_of(late)
    assert steady.swaps == 5
    assert (paused.swaps, late.swaps) == (3, 1)
    assert steady.refused == {"damaged": 0, "missing": 0, "unreadable": 0, "older": 0}


def test_readers_of_redis_end_alike(of_redis):
    end_alike(of_redis[0])


def test_readers_of_kafka_end_alike(of_kafka):
    end_alike(of_kafka)


def test_redis_emptied_is_healed_by_the_next_snapshot(of_redis):
    place, settings = of_redis
    first, *_ = published_to(place)
    place.target.publish(first)
    reader = seen(place.reader(), (first.manifest.epoch, 1))
    raw = client.Redis.from_url(settings.url)
    for key in list(raw.scan_iter(f"afterclick:{{{settings.model}}}:*")):
        raw.delete(key)
    assert not reader.poll()
    assert reader.score([{"user": "a"}]).weights_version == (first.manifest.epoch, 1)
    place.target.publish(tiny(first.manifest.epoch, 2, logit=1.0))
    seen(reader, (first.manifest.epoch, 2))
    raw.close()


def test_a_chunk_that_redis_lost_is_refused_by_name(of_redis):
    place, settings = of_redis
    first, *_ = published_to(place)
    place.target.publish(first)
    raw = client.Redis.from_url(settings.url)
    lost = sorted(key for key in raw.scan_iter(f"afterclick:{{{settings.model}}}:*rows*"))[0]
    raw.delete(lost)
    raw.close()
    reader = place.reader()
    assert not reader.poll()
    assert "rows.safetensors" in (reader.last_refusal or "")
    assert reader.refused["damaged"] == 1
