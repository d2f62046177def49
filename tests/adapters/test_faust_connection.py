"""What a worker's Faust is told: where, as whom, and what it must not do."""

from __future__ import annotations

import ssl

import faust
import pytest

from streaming.adapters.faust_connection import faust_options
from streaming.adapters.kafka_connection import BrokerError
from streaming.connection import Credentials, Kafka

SOMEBODY = Credentials("app", "secret")


def test_it_makes_no_topics_waits_for_no_stream_and_commits_nothing_of_itself() -> None:
    told = faust_options(Kafka(bootstrap_servers=("a:1", "b:2"), session_timeout_ms=6_000), Credentials())
    assert [str(url) for url in told["broker"]] == ["kafka://a:1", "kafka://b:2"]
    assert told["topic_allow_declare"] is told["stream_wait_empty"] is told["web_enabled"] is False
    assert told["topic_disable_leader"] is True
    assert told["broker_commit_every"] > 10**15
    assert told["broker_heartbeat_interval"] * 3 < told["broker_session_timeout"] == 6.0
    assert told["broker_request_timeout"] >= told["broker_session_timeout"]
    assert told["broker_credentials"] is None


def test_who_asks_and_how_is_handed_on() -> None:
    plain = faust_options(Kafka(security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256"), SOMEBODY)
    asked = plain["broker_credentials"]
    assert isinstance(asked, faust.SASLCredentials)
    assert (asked.username, asked.password, asked.protocol.value) == ("app", "secret", "SASL_PLAINTEXT")
    assert asked.mechanism.value == "SCRAM-SHA-256"
    both = faust_options(Kafka(security_protocol="SASL_SSL", sasl_mechanism="PLAIN"), SOMEBODY)["broker_credentials"]
    assert both.protocol.value == "SASL_SSL"
    assert both.ssl_context.verify_mode == ssl.CERT_REQUIRED
    secure = faust_options(Kafka(security_protocol="SSL", ssl_check_hostname=False), Credentials())
    assert isinstance(secure["broker_credentials"], faust.SSLCredentials)
    assert secure["broker_credentials"].context.check_hostname is False


def test_what_sasl_needs_and_is_not_there_is_named() -> None:
    with pytest.raises(BrokerError, match=r"AFTERCLICK_KAFKA__SASL_PASSWORD must be set"):
        faust_options(Kafka(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN"), Credentials("app"))
