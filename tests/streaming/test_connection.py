"""[kafka]: topics have names, secrets stay in the environment, and where records come from is no part of a result."""

from __future__ import annotations

import msgspec
import pytest

from streaming.connection import SECRETS, Credentials, Kafka, Topics, credentials
from streaming.settings import Settings, SettingsError, differences, dump, parse

ENVIRON = {SECRETS["username"]: "app", SECRETS["password"]: "hunter2"}


def test_secrets_are_told_by_the_environment_alone() -> None:
    settings = parse('[kafka]\nmodel = "ads"', ENVIRON | {"AFTERCLICK_KAFKA__PARTITIONS": "9"})
    assert (settings.kafka.model, settings.kafka.partitions) == ("ads", 9)
    secret = credentials(ENVIRON)
    assert (secret.username, secret.password) == ("app", "hunter2")
    assert "hunter2" not in dump(settings) + repr(settings) + repr(secret) + settings.hash
    assert credentials({}) == Credentials(None, None)


@pytest.mark.parametrize("key", ["sasl_username", "sasl_password"])
def test_a_secret_in_the_file_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown field `{key}`"):
        parse(f'[kafka]\n{key} = "x"')


def test_a_run_may_be_resumed_from_another_address() -> None:
    one = Settings()
    other = msgspec.structs.replace(one, kafka=Kafka(bootstrap_servers=("elsewhere:9092",)))
    assert one.hash == other.hash
    assert differences(one, other) == []


def test_written_out_and_read_again_it_is_the_same() -> None:
    encrypted = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "ssl_cafile": "/ca.pem"}
    broker = Kafka(bootstrap_servers=("a:1", "b:2"), topics=Topics(clicks="c"), **encrypted)  # type: ignore[arg-type]
    settings = Settings(kafka=broker)
    assert parse(dump(settings)) == settings


@pytest.mark.parametrize("key", ["partitions", "replication", "max_poll_records", "connect_timeout_ms"])
def test_none_of_something_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=rf"kafka\.{key} must be above 0 \(got 0\)"):
        parse(f"[kafka]\n{key} = 0")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(SettingsError, match="Invalid enum value 'TLS'"):
        parse('[kafka]\nsecurity_protocol = "TLS"')


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            'sasl_mechanism = "PLAIN"',
            r"kafka\.sasl_mechanism is for SASL_PLAINTEXT and SASL_SSL alone \(got 'PLAIN' under .* 'PLAINTEXT'\)",
        ),
        ('ssl_cafile = "/ca.pem"', r"kafka\.ssl_cafile is for SSL and SASL_SSL alone .* nothing would be encrypted"),
        ("fetch_max_bytes = 1", r"kafka\.fetch_max_bytes must be from 1024 to 2147483647 bytes \(got 1\)"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(line: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        parse(f"[kafka]\n{line}")
