"""Weights in a Kafka topic: whole or not there, never back, a stale writer fenced, refused by name once damaged. On a real broker."""

from __future__ import annotations

import uuid

import kafka as client
import pytest
from brokers import NOBODY
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from services import Server, free_ports
from weights_made import version

from models.manifest import DamagedWeightsError, MissingWeightsError
from streaming.adapters import kafka_weights
from streaming.adapters.kafka_weights import KafkaTarget
from streaming.adapters.kafka_weights_source import KafkaSource, KafkaWeightsError
from streaming.connection import Kafka
from streaming.ports import GapError, HeldError, StaleVersionError

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka: Server) -> Kafka:
    found = Kafka(bootstrap_servers=(kafka.bootstrap,), model=uuid.uuid4().hex, weights_chunk_bytes=100)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics(
        {
            found.topic("weights"): {
                "num_partitions": 1,
                "replication_factor": 1,
                "configs": {"cleanup.policy": "compact"},
            }
        },
        wait_for_metadata=True,
    )
    admin.close()
    return found


@pytest.fixture
def made():
    """Makes targets and sources, and lets go of them."""
    found = []

    def make(kind, settings, **options):
        found.append(kind(settings, NOBODY, **options))
        return found[-1]

    yield make
    for each in found:
        each.close()


def target_of(made, settings):
    return made(KafkaTarget, settings, versions_kept=2)


def seen(source, expected):
    """The source, once it shows that version: a commit is seen a moment after it is made."""
    assert any(source.current() == expected for _ in range(500)), source.current()
    return source


def put_raw(settings, key, value, **options):
    producer = client.KafkaProducer(bootstrap_servers=list(settings.bootstrap_servers))
    producer.send(settings.topic("weights"), value, key=key.encode(), **options).get(timeout=10)
    producer.close()


def keys_of(settings):
    """Keys whose newest record is not empty."""
    consumer = client.KafkaConsumer(
        bootstrap_servers=list(settings.bootstrap_servers), isolation_level="read_committed"
    )
    partition, found = TopicPartition(settings.topic("weights"), 0), {}
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    while consumer.position(partition) < end:
        for some in consumer.poll(timeout_ms=200).values():
            found |= {record.key.decode(): record.value for record in some}
    consumer.close()
    return [key for key, value in sorted(found.items()) if value]


def test_what_was_published_is_read_back_by_one_who_came_before_and_by_one_who_comes_after(made, settings):
    target, before = target_of(made, settings), made(KafkaSource, settings)
    assert before.current() is None
    published = version(target.issue_epoch(), 1, size=100)
    assert target.publish(published) == target.publish(published) == "000001-0000000001"
    for source in (before, made(KafkaSource, settings)):
        seen(source, (1, 1))
        assert source.fetch(1, 1) == published
    assert sum("/" in key for key in keys_of(settings)) > 4


def test_epochs_grow_and_one_that_is_great_enough_is_given_again(made, settings):
    one, other = target_of(made, settings), target_of(made, settings)
    assert [one.issue_epoch(), other.issue_epoch(), one.issue_epoch()] == [1, 2, 3]
    assert [one.issue_epoch(at_least=3), one.issue_epoch(at_least=9)] == [3, 9]


def test_of_two_trainers_the_stale_one_is_refused_and_nothing_changes(made, settings):
    stale, newer, source = target_of(made, settings), target_of(made, settings), made(KafkaSource, settings)
    one = stale.issue_epoch()
    stale.publish(version(one, 1))
    other = newer.issue_epoch()
    for refused in (version(one, 2, 3.0), version(one, 2, base=1)):
        with pytest.raises(StaleVersionError, match="a newer run publishes here") as told:
            stale.publish(refused)
        assert told.value.current.startswith("000002-")
    newer.publish(version(other, 1, 2.0))
    seen(source, (2, 1))
    assert source.fetch(2, 1) == version(2, 1, 2.0)
    assert not any(key.startswith("000001-0000000002") for key in keys_of(settings))


def test_what_a_fenced_writer_had_on_its_way_is_never_seen(made, settings):
    stale, newer, source = target_of(made, settings), target_of(made, settings), made(KafkaSource, settings)
    stale.publish(version(stale.issue_epoch(), 1))
    stale._producer.begin_transaction()
    stale._producer.send(settings.topic("weights"), b"000009-0000000009", key=b"current", partition=0)
    stale._producer.flush()
    newer.publish(version(newer.issue_epoch(), 1, 2.0))
    seen(source, (2, 1))


def test_a_delta_needs_its_base_and_what_the_current_chain_needs_is_kept(made, settings):
    target, source = target_of(made, settings), made(KafkaSource, settings)
    with pytest.raises(GapError, match="a delta to 000001-0000000001, which is not there: publish a snapshot"):
        target.publish(version(1, 2, base=1))
    target.publish(version(1, 1))
    for number in range(2, 5):
        target.publish(version(1, number, base=number - 1))
    seen(source, (1, 4))
    assert source.fetch(1, 1) == version(1, 1)
    for number in (5, 6, 7):
        target.publish(version(1, number))
    seen(source, (1, 7))
    with pytest.raises(MissingWeightsError, match="has no version 000001-0000000004: read the current one"):
        source.fetch(1, 4)
    left = {key.partition("/")[0] for key in keys_of(settings)} - {"current", "epoch"}
    assert left <= {"000001-0000000005", "000001-0000000006", "000001-0000000007"}


def test_a_missing_chunk_is_refused_by_name(made, settings):
    target_of(made, settings).publish(version(1, 1, size=100))
    source = seen(made(KafkaSource, settings), (1, 1))
    (key,) = [key for key in keys_of(settings) if "dense.safetensors/2/" in key]
    put_raw(settings, key, None)
    source.current()  # looks again
    with pytest.raises(
        DamagedWeightsError, match=r"chunk 3 of \d of dense.safetensors of version 000001-0000000001 is missing"
    ):
        source.fetch(1, 1)


def test_a_damaged_chunk_is_refused_by_name(made, settings):
    target_of(made, settings).publish(version(1, 1, size=100))
    source = seen(made(KafkaSource, settings), (1, 1))
    (key,) = [key for key in keys_of(settings) if "dense.safetensors/1/" in key]
    put_raw(settings, key, bytes(100))
    source.current()  # looks again
    with pytest.raises(
        DamagedWeightsError, match=r"chunk 2 of \d of dense.safetensors of version 000001-0000000001 is damaged"
    ):
        source.fetch(1, 1)


def test_a_damaged_manifest_is_refused_by_name(made, settings):
    target_of(made, settings).publish(version(1, 1))
    source = seen(made(KafkaSource, settings), (1, 1))
    put_raw(settings, "000001-0000000001", b"{}", headers=[("sha256", b"0"), ("chunks", b"[]")])
    source.current()
    with pytest.raises(DamagedWeightsError, match="the manifest of version 000001-0000000001 is damaged"):
        source.fetch(1, 1)


def test_a_reader_never_goes_back(made, settings):
    target_of(made, settings).publish(version(1, 2))
    seen(made(KafkaSource, settings), (1, 2))
    put_raw(settings, "current", b"000001-0000000001")
    seen(made(KafkaSource, settings), (1, 2))


def test_held_by_another_process_publishing_takes_nothing_but_what_goes_past_the_hold(made, settings):
    trainer, person, source = target_of(made, settings), target_of(made, settings), made(KafkaSource, settings)
    trainer.publish(version(trainer.issue_epoch(), 1))
    person.hold("rolled back")
    with pytest.raises(HeldError, match="publishing is held: rolled back; `afterclick weights release`"):
        trainer.publish(version(1, 2))
    person.publish(version(1, 2, republishes="000001-0000000001"), past_hold=True)
    assert person.held() == "rolled back"
    person.release()
    assert person.held() is None
    with pytest.raises(StaleVersionError) as told:
        trainer.publish(version(1, 2))
    assert told.value.current == "000001-0000000002"
    trainer.publish(version(1, 3))
    seen(source, (1, 3))


def test_a_writer_that_learns_between_two_records_that_another_came_writes_anew(made, settings, monkeypatch):
    trainer, person = target_of(made, settings), target_of(made, settings)
    trainer.publish(version(trainer.issue_epoch(), 1))
    person.hold("rolled back")
    person.release()
    monkeypatch.setattr(kafka_weights, "_FLUSH_BYTES", 0)  # the answer to the first record is there before the second
    trainer.publish(version(1, 2))
    seen(made(KafkaSource, settings), (1, 2))


def test_a_topic_that_is_not_there_is_told(kafka, made):
    with pytest.raises(KafkaWeightsError, match=r"topic none\.weights does not exist on .*topics create --config FILE"):
        made(KafkaSource, Kafka(bootstrap_servers=(kafka.bootstrap,), model="none"))


def test_a_value_at_current_that_is_no_name_is_refused(made, settings):
    put_raw(settings, "current", b"latest")
    with pytest.raises(DamagedWeightsError, match="'latest' is the name of no version"):
        seen(made(KafkaSource, settings), (1, 1))


def test_nobody_there_is_told_with_the_address():
    port = free_ports(1)[0]
    away = Kafka(bootstrap_servers=(f"127.0.0.1:{port}",), connect_timeout_ms=500)
    with pytest.raises(KafkaWeightsError, match=rf"kafka.bootstrap_servers 127.0.0.1:{port} .*could not connect"):
        KafkaTarget(away, NOBODY, versions_kept=1)
