"""Kafka as it is: polls that read, resume, wait and refuse; a sink that says what failed. On a real broker."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kafka as client
import pytest
from brokers import NOBODY, count_of, polled_until, put, put_raw, replaced, settings_on, with_topics
from fakes import T0, clicked, converted, line_of, shown
from kafka.admin import KafkaAdminClient
from kafka.cluster import ClusterMetadata
from services import NotToBeHadError, Server, free_ports, had_or_skipped, kafka_server

from streaming.adapters.kafka import KafkaPolls, parse_beginning
from streaming.adapters.kafka_connection import BrokerError
from streaming.adapters.kafka_offsets import KafkaOffsets
from streaming.adapters.kafka_sink import KafkaSink
from streaming.connection import Credentials, Topics
from streaming.events import RecordKind
from streaming.live import LiveSource
from streaming.log_file import Place
from streaming.settings import SettingsError

pytestmark = pytest.mark.integration

I, C, V = RecordKind.IMPRESSION, RecordKind.CLICK, RecordKind.CONVERSION  # noqa: E741


def test_polls_show_each_record_once_and_in_order_and_then_that_all_is_idle(kafka: Server) -> None:
    settings = with_topics(kafka)
    events = [shown(f"i{number}", number) for number in range(50)]
    put(settings, I, *events)
    put(settings, C, clicked("i3", 100))
    polls = KafkaPolls(settings, NOBODY)
    records, idle = polled_until(polls, lambda records, idle: count_of(records) == 51 and all(idle.values()))
    assert len(idle) == 6
    assert sorted(idle) == sorted(polls.starts)
    found = [value for p in range(2) for _, _, value in records[f"{settings.kafka.model}.impressions[{p}]"]]
    assert sorted(found) == sorted(map(line_of, events))
    for some in records.values():
        assert [offset for offset, _, _ in some] == list(range(len(some)))
    put(settings, C, clicked("i4", 101))
    records, idle = polled_until(polls, lambda records, idle: count_of(records) == 1)
    assert [idle[name] for name in records] == [False]
    polls.stop()
    assert polls.poll(frozenset()) is None
    polls.close()


def test_it_goes_on_where_places_say(kafka: Server) -> None:
    settings = with_topics(kafka, partitions=1)
    put(settings, I, *[shown(f"i{number}", number) for number in range(9)])
    polls = KafkaPolls(settings, NOBODY)
    places = polls.starts | {f"{settings.kafka.model}.impressions[0]": Place(7, 0, T0 + 6)}
    polls.close()
    polls = KafkaPolls(settings, NOBODY, places=places)
    records, _ = polled_until(polls, lambda records, idle: count_of(records) == 2)
    assert [offset for some in records.values() for offset, _, _ in some] == [7, 8]
    polls.close()


def test_it_begins_where_it_is_told(kafka: Server) -> None:
    settings = with_topics(kafka, partitions=1)
    name = f"{settings.kafka.model}.impressions[0]"
    producer = client.KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for number in range(4):
        producer.send(settings.kafka.topic("impressions"), b"x", timestamp_ms=T0 + number)
    producer.close()
    for begin, offset in (("earliest", 0), ("latest", 4), (T0 + 2, 2), (T0 + 9, 4)):
        polls = KafkaPolls(settings, NOBODY, begin=begin)  # type: ignore[arg-type]
        assert polls.starts[name] == Place(offset)
        polls.close()


class _Cluster:
    """A partition that has no leader the first few times that a client looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topic: str, times: int) -> None:
        self.left = times
        real = ClusterMetadata.leader_for_partition

        def leader(metadata: ClusterMetadata, partition: client.TopicPartition) -> int | None:
            if partition != (topic, 1) or not self.left:
                return real(metadata, partition)
            self.left -= 1
            return -1

        monkeypatch.setattr(ClusterMetadata, "leader_for_partition", leader)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("begin", ["earliest", "latest", T0 + 2])
def test_a_partition_without_a_leader_is_waited_for(kafka: Server, monkeypatch, begin, times) -> None:
    settings = with_topics(kafka)
    topic = settings.kafka.topic("impressions")
    producer = client.KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for number in range(8):
        producer.send(topic, b"x", timestamp_ms=T0 + number // 2, partition=number % 2)
    producer.close()
    cluster = _Cluster(monkeypatch, topic, times)
    polls = KafkaPolls(settings, NOBODY, begin=begin)
    offset = {"earliest": 0, "latest": 4}.get(begin, 2)
    assert [polls.starts[f"{topic}[{p}]"] for p in range(2)] == [Place(offset)] * 2
    polls.close()
    cluster.left = times
    offsets = KafkaOffsets(settings, NOBODY, "a group")
    assert offsets.bounds([f"{topic}[{p}]" for p in range(2)]) == {f"{topic}[{p}]": (0, 4) for p in range(2)}
    cluster.left = 10**9
    assert offsets.ends([f"{topic}[{p}]" for p in range(2)]) == {f"{topic}[0]": 4}
    offsets.close()


def test_what_is_paused_is_not_read_and_not_idle(kafka: Server) -> None:
    settings = with_topics(kafka, partitions=1)
    impressions, clicks = (f"{settings.kafka.model}.{stem}[0]" for stem in ("impressions", "clicks"))
    polls = KafkaPolls(settings, NOBODY)
    polled_until(polls, lambda records, idle: len(idle) == 3 and all(idle.values()))
    put(settings, I, shown("a", 0))
    put(settings, C, clicked("a", 1))
    records, _ = polled_until(
        polls,
        lambda records, idle: clicks in records and idle.get(impressions) is False,
        paused=frozenset({impressions}),
    )
    assert list(records) == [clicks]
    records, _ = polled_until(polls, lambda records, idle: impressions in records)
    assert list(records) == [impressions]
    polls.close()


def test_what_was_taken_back_is_not_read(kafka: Server) -> None:
    settings = with_topics(kafka, partitions=1)
    producer = client.KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=settings.kafka.model)
    producer.init_transactions()
    for value, end in ((b"no", producer.abort_transaction), (b"yes", producer.commit_transaction)):
        producer.begin_transaction()
        producer.send(settings.kafka.topic("clicks"), value)
        end()
    producer.close()
    polls = KafkaPolls(settings, NOBODY)
    records, _ = polled_until(polls, lambda records, idle: count_of(records) > 0 and all(idle.values()))
    assert [value for some in records.values() for _, _, value in some] == [b"yes"]
    polls.close()


def test_expired_records_are_refused_by_name(kafka: Server) -> None:
    settings = with_topics(kafka, partitions=1)
    topic = settings.kafka.topic("clicks")
    put(settings, C, *[clicked("a", number) for number in range(9)])
    polls = KafkaPolls(settings, NOBODY)
    starts = polls.starts
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.delete_records({client.TopicPartition(topic, 0): 5})
    admin.close()
    expired = (
        rf"{topic}\[0\]: .*at offset 0, and the earliest there is is 5: 5 records have expired unread.*--from earliest"
    )
    with pytest.raises(BrokerError, match=expired):
        polled_until(polls, lambda records, idle: False)
    polls.close()
    with pytest.raises(BrokerError, match=expired):
        KafkaPolls(settings, NOBODY, places=starts)
    with pytest.raises(BrokerError, match=rf"{topic}\[0\]: .*at offset 10, and it ends at 9: it is not the topic"):
        KafkaPolls(settings, NOBODY, places=starts | {f"{topic}[0]": Place(10)})
    with pytest.raises(BrokerError, match=r"the cut to go on from speaks of other\[0\]; there are "):
        KafkaPolls(settings, NOBODY, places={"other[0]": Place(0)})


def test_topics_that_are_missing_or_do_not_fit_are_refused(kafka: Server) -> None:
    settings = settings_on(kafka)
    with pytest.raises(BrokerError, match=rf"{settings.kafka.model}\.impressions and .* not there .*topics create"):
        KafkaPolls(settings, NOBODY)
    one, two = with_topics(kafka, partitions=1), with_topics(kafka, partitions=2)
    mixed = replaced(one, topics=Topics(clicks=two.kafka.topic("clicks")))
    with pytest.raises(
        BrokerError, match=r"equally many partitions \(.*impressions has 1, .*clicks has 2, .*conversions has 1\)"
    ):
        KafkaPolls(mixed, NOBODY)


def test_nobody_there_is_said_with_what_to_look_at() -> None:
    nobody = Server(f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(
        BrokerError, match=rf"{nobody.bootstrap} \(PLAINTEXT\): could not connect: .*REFUSED.*broker listens there"
    ):
        KafkaPolls(settings_on(nobody, connect_timeout_ms=500), NOBODY)


def test_a_broker_that_dies_is_told_of_once_and_read_on_from_when_it_is_back(kafka: Server) -> None:
    kafka.mortal()
    settings = with_topics(kafka, partitions=1)
    put(settings, I, shown("a", 0))
    told: list[str] = []
    polls = KafkaPolls(settings, NOBODY, tell=told.append)
    sink = KafkaSink(settings.kafka, NOBODY, delivery_timeout_ms=1_000)
    sink.append("dead-letters", b'{"a":1}\n{"a":2}\n')
    sink.flush()
    polled_until(polls, lambda records, idle: count_of(records) == 1 and all(idle.values()))
    kafka.kill()
    sink.append("dead-letters", b'{"a":3}\n')
    _, idle = polled_until(polls, lambda records, idle: polls.is_unreachable)
    assert not any(idle.values())
    polled_until(polls, lambda records, idle: True)
    assert [text.partition("; ")[0] for text in told] == [f"kafka {kafka.bootstrap} is away"]
    with pytest.raises(BrokerError, match=rf"{settings.kafka.topic('dead-letters')}: 1 records were not acknowledged"):
        sink.flush()
    sink.close()
    kafka.start()
    put(replaced(settings, connect_timeout_ms=30_000), I, shown("b", 1))
    records, _ = polled_until(polls, lambda records, idle: count_of(records) == 1 and not polls.is_unreachable)
    assert [offset for some in records.values() for offset, _, _ in some] == [1]
    assert told[1:] == [f"kafka {kafka.bootstrap} is back"]
    polls.close()


def test_a_sink_needs_its_topic(kafka: Server) -> None:
    sink = KafkaSink(settings_on(kafka, connect_timeout_ms=1_000).kafka, NOBODY)
    with pytest.raises(BrokerError, match=r"kafka\.topics: \S+\.late is not there on .*topics create"):
        sink.append("late", b"x")
    sink.close()


def test_records_that_stand_where_they_should_not_become_dead_letters(kafka: Server) -> None:
    settings = with_topics(kafka)
    put(settings, I, shown("a", 0))
    put(settings, V, converted("a", 9))
    put_raw(settings, "clicks", (b"b", line_of(clicked("a", 1))), (b"a", None))
    homeless = line_of(clicked("homeless", 2))
    for p in range(2):
        put_raw(settings, "clicks", (None, homeless), p=p)
    polls = KafkaPolls(settings, NOBODY)
    events, reasons = [], []
    for arrivals in LiveSource(polls, settings, partitions=polls.partitions, places=polls.starts):
        events += arrivals.events
        reasons += [(refused.at.partition("[")[0], refused.reason.partition(":")[0]) for refused in arrivals.refused]
        if len(events) + len(reasons) == 6:
            polls.stop()
    polls.close()
    assert sorted(event.impression_id for event in events) == ["a", "a", "homeless"]
    clicks = settings.kafka.topic("clicks")
    assert {at for at, _ in reasons} == {clicks}
    told = sorted(reason for _, reason in reasons)
    assert told[0].startswith("it is in partition ")
    assert told[1] == "its key is b'b', its join key b'a'"
    assert told[2] == "no value"


@dataclass(frozen=True)
class Guarded:
    """A broker that asks for a user and a password at one address, and speaks TLS at another."""

    server: Server
    tls: Server
    certificate: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    keys, certificate = folder / "keys.p12", folder / "certificate.pem"
    address = f"127.0.0.1:{free_ports(1)[0]}"

    def start() -> Server:
        if shutil.which("keytool") is None:
            raise NotToBeHadError("there is no keytool, which comes with java")
        common = ["-keystore", str(keys), "-storepass", "changeit", "-alias", "broker"]
        made = [
            "-genkeypair",
            "-keyalg",
            "EC",
            "-dname",
            "CN=localhost",
            "-ext",
            "SAN=IP:127.0.0.1",
            "-storetype",
            "PKCS12",
        ]
        for command in (made, ["-exportcert", "-rfc", "-file", str(certificate)]):
            subprocess.run(["keytool", *command, *common], check=True, capture_output=True)
        module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return kafka_server(
            folder / "broker",
            os.environ,
            listeners=f"SASL_PLAINTEXT://{{clients}},SSL://{address},CONTROLLER://{{controller}}",
            advertised__listeners=f"SASL_PLAINTEXT://{{clients}},SSL://{address}",
            listener__security__protocol__map="SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT",
            inter__broker__listener__name="SASL_PLAINTEXT",
            sasl__enabled__mechanisms="PLAIN",
            sasl__mechanism__inter__broker__protocol="PLAIN",
            listener__name__sasl_plaintext__plain__sasl__jaas__config=f'{module} username="admin" password="a" user_admin="a" user_app="secret";',
            ssl__keystore__location=str(keys),
            ssl__keystore__type="PKCS12",
            ssl__keystore__password="changeit",
            ssl__key__password="changeit",
        )

    server = had_or_skipped(start)
    yield Guarded(server, Server(address), certificate)
    server.close()


def test_who_has_the_password_is_let_in_and_who_has_not_is_told_so(guarded: Guarded) -> None:
    settings = settings_on(
        guarded.server, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", connect_timeout_ms=3_000
    )
    with pytest.raises(BrokerError, match=r"impressions and .* not there"):
        KafkaPolls(settings, Credentials("app", "secret"))
    wrong = rf"{guarded.server.bootstrap} \(SASL_PLAINTEXT, PLAIN, user 'app'\): could not connect: .*uthentication.*AFTERCLICK_KAFKA__SASL_PASSWORD"
    with pytest.raises(BrokerError, match=wrong) as caught:
        KafkaPolls(replaced(settings, connect_timeout_ms=1_000), Credentials("app", "hunter2"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(BrokerError, match=r"asks for another kafka\.security_protocol"):
        KafkaPolls(
            replaced(settings, security_protocol="PLAINTEXT", sasl_mechanism=None, connect_timeout_ms=1_000), NOBODY
        )


@pytest.fixture
def left_sockets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Lets what the client left to the collector, sockets of failed handshakes, be collected where that is no error."""
    yield
    caplog.get_records("call").clear()  # they hold on to the errors, and those to the sockets
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.usefixtures("left_sockets")
def test_tls_is_spoken_with_whom_the_authority_vouches_for(guarded: Guarded) -> None:
    settings = settings_on(guarded.tls, security_protocol="SSL", ssl_cafile=str(guarded.certificate))
    with pytest.raises(BrokerError, match=r"impressions and .* not there"):
        KafkaPolls(settings, NOBODY)
    unknown = replaced(settings, ssl_cafile=None, connect_timeout_ms=500)
    with pytest.raises(BrokerError, match=r"\(SSL\): could not connect: .*certificate.*kafka\.ssl_cafile"):
        KafkaPolls(unknown, NOBODY)
    with pytest.raises(BrokerError, match=r"kafka\.ssl_cafile must name a file in PEM form \(got '/nowhere/ca\.pem'\)"):
        KafkaPolls(replaced(settings, ssl_cafile="/nowhere/ca.pem"), NOBODY)


@pytest.mark.parametrize(
    ("mechanism", "secret", "says"),
    [
        (None, NOBODY, r"kafka\.sasl_mechanism must be set"),
        ("PLAIN", Credentials("app"), r"^AFTERCLICK_KAFKA__SASL_PASSWORD must be set in the environment"),
    ],
)
def test_half_told_credentials_are_refused(mechanism: str | None, secret: Credentials, says: str) -> None:
    nobody = Server(f"127.0.0.1:{free_ports(1)[0]}")
    settings = settings_on(nobody, security_protocol="SASL_SSL", sasl_mechanism=mechanism, connect_timeout_ms=300)
    with pytest.raises(BrokerError, match=says):
        KafkaPolls(settings, secret)


def test_a_name_that_nobody_can_resolve_is_told() -> None:
    settings = settings_on(Server("broker.invalid:9092"), connect_timeout_ms=300)
    with pytest.raises(BrokerError, match=r"broker\.invalid:9092 .*DNS.*this machine cannot resolve one"):
        KafkaPolls(settings, NOBODY)


def test_a_beginning_is_a_word_or_a_time() -> None:
    assert parse_beginning("2026-01-05T01:00+01:00") == T0
    with pytest.raises(SettingsError, match=r"--from must be earliest, latest.*\(got 'yesterday'\)"):
        parse_beginning("yesterday")
