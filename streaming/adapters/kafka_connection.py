"""How a Kafka client is told where to connect, and what its errors are called here. Decides nothing about records.

kafka-python says no more than "Unable to bootstrap" whether nobody listens, the password is wrong or the certificate is another's; why, it only logs.
So while something is tried, its log is listened to, and what it said last goes into the error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import kafka.errors
from kafka import TopicPartition
from kafka.net.compat import KafkaNetClient

from streaming.connection import SECRETS, Credentials, Kafka

_LOG = logging.getLogger("kafka")
_LOG.addHandler(logging.NullHandler())  # else it prints each attempt to stderr; who sets logging up still sees them


_REASON = re.compile(
    r"(?:Bootstrap connection to \S+ failed|Connection failed|Bootstrap attempt to \S+ failed): (.*?)(?: \(backoff .*)?$"
)
"""What the client logs each time that a try has failed."""

Client = TypeVar("Client")


class BrokerError(Exception):
    """Kafka cannot be used; the message names the broker or topic, what is wrong and what to do."""


def connected(make: Callable[..., Client], settings: Kafka, secret: Credentials, **options: Any) -> Client:
    """A client that has found its brokers.

    Raises:
        BrokerError: it has not; nothing of it is left open.
    """
    begun: list[KafkaNetClient] = []

    def begin(**configs: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**configs))
        return begun[-1]

    try:
        with reaching(settings, secret, "connect"):
            return make(**_client_options(settings, secret), kafka_client=begin, **options)
    except BaseException:
        for client in begun:
            client.close()
        raise


def reader(settings: Kafka, secret: Credentials, **options: Any) -> kafka.KafkaConsumer:
    """A consumer that commits nothing of itself, makes no topic, and reads what transactions have committed.

    Raises:
        BrokerError: the brokers cannot be reached.
    """
    own = {"enable_auto_commit": False, "isolation_level": "read_committed", "allow_auto_create_topics": False}
    return connected(kafka.KafkaConsumer, settings, secret, **own, **options)


def answers(settings: Kafka, secret: Credentials) -> bool:
    """Whether the brokers answer now: a client finds them within `connect_timeout_ms`."""
    try:
        reader(settings, secret).close()
    except BrokerError:
        return False
    return True


def offsets_of(
    ask: Callable[..., dict[TopicPartition, int]], partitions: Collection[TopicPartition], *, timeout_ms: int
) -> dict[TopicPartition, int]:
    """What `beginning_offsets` or `end_offsets` of a consumer say of each partition.

    kafka-python 3.0.12 asks about partitions together, passes over those that have no leader just then, and fails on them; about one alone it asks until
    there is a leader.

    Raises:
        KafkaTimeoutError: one had no leader for so long.
    """
    try:
        return ask(list(partitions))
    except KeyError:
        return {partition: ask([partition], timeout_ms=timeout_ms)[partition] for partition in partitions}


def known_offsets(
    ask: Callable[..., dict[TopicPartition, int]], partitions: Collection[TopicPartition], *, timeout_ms: int
) -> dict[TopicPartition, int]:
    """As `offsets_of`, at once: partitions without a leader are left out, all of them where the brokers do not answer in time."""
    asked = list(partitions)
    while asked:
        try:
            return ask(asked, timeout_ms=timeout_ms)
        except KeyError as error:
            asked = [partition for partition in asked if partition != error.args[0]]
        except kafka.errors.KafkaError:
            break
    return {}


def _client_options(settings: Kafka, secret: Credentials) -> dict[str, Any]:
    """What every client is made with.

    Raises:
        BrokerError: SASL or TLS is asked for, and something that it needs is not there.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "security_protocol": settings.security_protocol,
        "bootstrap_timeout_ms": settings.connect_timeout_ms,
        "reconnect_backoff_ms": 100,
        "reconnect_backoff_max_ms": 2_000,  # a broker that is back is noticed in as much
        "client_id": f"afterclick-{settings.model}",
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_check_hostname"] = settings.ssl_check_hostname
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            value: str | None = getattr(settings, key)
            if value is not None and not Path(value).is_file():
                raise BrokerError(f"kafka.{key} must name a file in PEM form (got {value!r}): there is none")
            if value is not None:
                options[key] = value
    if settings.security_protocol.startswith("SASL"):
        missing = [SECRETS[key] for key in SECRETS if getattr(secret, key) is None]
        if settings.sasl_mechanism is None:
            raise BrokerError(
                f"kafka.sasl_mechanism must be set for kafka.security_protocol = {settings.security_protocol!r}: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
            )
        if missing:
            raise BrokerError(
                f"{' and '.join(missing)} must be set in the environment for kafka.security_protocol = {settings.security_protocol!r}"
            )
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": secret.username,
            "sasl_plain_password": secret.password,
        }
    return options


class _Listener(logging.Handler):
    """Keeps what a client logged as an error, each thing once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if found := _REASON.match(record.getMessage()):
            self.said.pop(found[1], None)
            self.said[found[1]] = None


@contextmanager
def reaching(settings: Kafka, secret: Credentials, intent: str) -> Iterator[None]:
    """Calls errors of a client what they are: which brokers, how they were asked, as whom, what they said, what to look at."""
    listener = _Listener()
    _LOG.addHandler(listener)
    try:
        yield
    except (kafka.errors.KafkaError, OSError, ValueError) as error:
        where = ", ".join(settings.bootstrap_servers)
        asked: str = settings.security_protocol
        if settings.security_protocol.startswith("SASL"):
            asked += f", {settings.sasl_mechanism}, user {secret.username!r}"
        said = "; ".join([*listener.said][-2:]) or str(error) or type(error).__name__
        raise BrokerError(
            f"kafka.bootstrap_servers {where} ({asked}): could not {intent}: {said}. {_remedy(settings, said, error)}"
        ) from error
    finally:
        _LOG.removeHandler(listener)


def _remedy(settings: Kafka, said: str, error: Exception) -> str:
    if isinstance(error, kafka.errors.KafkaConfigurationError):
        return "Set [kafka] to what the client takes"
    if isinstance(error, kafka.errors.AuthorizationError):
        return "The broker knows who asks and does not allow it: grant the right, or ask as another user"
    if "REFUSED" in said or "refused" in said:
        return "Look whether a broker listens there"
    if "DNS" in said:
        return "Look at the names: this machine cannot resolve one"
    if settings.security_protocol.startswith(
        "SASL"
    ):  # a broker that is told a wrong password hangs up, often without a word
        return f"If it hung up, authentication failed: look at {' and '.join(SECRETS.values())}, and at kafka.sasl_mechanism"
    if settings.security_protocol == "SSL":
        return "Look whether the broker speaks TLS on that port, and at kafka.ssl_cafile"
    return "If it hung up, it asks for another kafka.security_protocol"


def partitions_of_all(settings: Kafka, counts: Mapping[str, int]) -> int:
    """How many partitions each of some topics has.

    Args:
        counts: topic -> its partitions; 0 where there is no such topic.

    Raises:
        BrokerError: one is not there, or they have not equally many.
    """
    missing = [topic for topic, count in counts.items() if not count]
    if missing:
        raise BrokerError(
            f"kafka.topics: {' and '.join(missing)} not there on {', '.join(settings.bootstrap_servers)}: "
            "make them with `afterclick topics create`, or set kafka.model or [kafka.topics] to what they are called"
        )
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{topic} has {count}" for topic, count in counts.items())
        raise BrokerError(
            f"kafka.topics must have equally many partitions ({told}): facts of one impression would be looked for in another "
            "partition; make them anew with `afterclick topics create`, or repartition those that have fewer"
        )
    return next(iter(counts.values()))
