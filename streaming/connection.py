"""How the brokers are reached, what the topics are called, and where the secrets are. Must not know who speaks to a broker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

SECRETS = {"username": "AFTERCLICK_KAFKA__SASL_USERNAME", "password": "AFTERCLICK_KAFKA__SASL_PASSWORD"}
"""Told by the environment alone: they are in no file, no hash and no run directory."""

REDIS_PASSWORD = "AFTERCLICK_REDIS__PASSWORD"
API_KEY = "AFTERCLICK_SERVING__API_KEY"
"""Told by the environment alone, too."""

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Partitioner = Literal["murmur2", "crc32", "any"]


class Topics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the topics are called. None: `kafka.model`, a dot, and the key: `afterclick.impressions`."""

    impressions: str | None = None
    clicks: str | None = None
    conversions: str | None = None
    examples: str | None = None  # from the joiners to the trainer, where these are processes of their own
    dead_letters: str | None = None
    late: str | None = None
    weights: str | None = None


TOPIC_STEMS = tuple(key.replace("_", "-") for key in Topics.__struct_fields__)
"""Every topic that the settings can name."""

_MODEL = re.compile(r"[A-Za-z0-9._-]{1,200}")
_LEAST_SESSION_MS, _MOST_SESSION_MS = 6_000, 1_800_000


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which brokers and topics. No part of the result: a run may be resumed from another address of the same records."""

    bootstrap_servers: tuple[str, ...] = ("localhost:9092",)  # host:port; one that answers is enough
    model: str = "afterclick"  # before each topic's name, so that models share brokers
    topics: Topics = Topics()
    partitions: int = 6  # of the topics that `topics create` makes; the most processes that can share the join
    replication: int = 1  # copies of each; 3 is usual where there are three brokers
    retention_ms: int | None = None  # None: attribution window + click window + 3 d
    partitioner: Partitioner = "murmur2"  # murmur2: Java, Faust, kafka-python. crc32: librdkafka. any: not checked
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: Mechanism | None = None  # user and password come from the environment
    ssl_cafile: str | None = None  # None: the authorities that this machine trusts
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True
    connect_timeout_ms: int = 10_000  # until "cannot be reached" is said at start; later it is tried for ever
    poll_timeout_ms: int = 200  # how long one look waits for the first record
    max_poll_records: int = 5_000  # of one look; more cost memory and gain nothing
    fetch_max_bytes: int = 16_777_216  # 16 MiB of one answer of a broker
    max_partition_fetch_bytes: int = 1_048_576  # 1 MiB of one partition; at least the largest record
    session_timeout_ms: int = (
        45_000  # join: a worker that says nothing for this long is taken for dead; brokers allow 6 s to 30 min
    )
    snapshot_interval_ms: int = (
        10_000  # join: how much, in processing time, a worker that takes over may have to read again
    )
    snapshots_kept: int = 3  # join: of each partition
    weights_chunk_bytes: int = (
        900_000  # of weights in one record; below message.max.bytes of the topic, 1 MiB by default
    )

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ValueError("kafka.bootstrap_servers must name a broker at least (got none): host:port")
        for address in self.bootstrap_servers:
            port = address.rpartition(":")[2]
            if ":" not in address or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError(
                    f"kafka.bootstrap_servers must be host:port, with a port up to 65535 (got {address!r})"
                )
        if not _MODEL.fullmatch(self.model):
            raise ValueError(
                f"kafka.model must be of letters, digits, '.', '_' and '-' (got {self.model!r}): it begins the names of topics"
            )
        if not _LEAST_SESSION_MS <= self.session_timeout_ms <= _MOST_SESSION_MS:
            raise ValueError(
                f"kafka.session_timeout_ms must be from {_LEAST_SESSION_MS} to {_MOST_SESSION_MS} (got {self.session_timeout_ms}): "
                "brokers allow no other by default"
            )
        self._refuse_unused()
        names = [self.topic(stem) for stem in TOPIC_STEMS[:3]]  # those of events
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"kafka.topics must be different topics (got {twice!r} twice)")

    def _refuse_unused(self) -> None:
        """What would be passed over in silence: whoever sets it believes that it holds."""
        protocol = self.security_protocol
        if self.sasl_mechanism is not None and not protocol.startswith("SASL"):
            raise ValueError(
                f"kafka.sasl_mechanism is for SASL_PLAINTEXT and SASL_SSL alone (got {self.sasl_mechanism!r} under "
                f"kafka.security_protocol = {protocol!r}): nobody would be asked for a password; set one of these, or leave it out"
            )
        files = [key for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(self, key) is not None]
        if files and not protocol.endswith("SSL"):
            raise ValueError(
                f"kafka.{files[0]} is for SSL and SASL_SSL alone (got {getattr(self, files[0])!r} under "
                f"kafka.security_protocol = {protocol!r}): nothing would be encrypted; set one of these, or leave it out"
            )
        for key in ("fetch_max_bytes", "max_partition_fetch_bytes"):
            if not 1_024 <= getattr(self, key) < 2**31:
                raise ValueError(f"kafka.{key} must be from 1024 to {2**31 - 1} bytes (got {getattr(self, key)})")

    def topic(self, stem: str) -> str:
        """What the topic of a stem is called.

        Example:
            >>> Kafka(model="ads").topic("dead-letters"), Kafka(topics=Topics(clicks="web_clicks")).topic("clicks")
            ('ads.dead-letters', 'web_clicks')
        """
        name: str | None = getattr(self.topics, stem.replace("-", "_"))
        return f"{self.model}.{stem}" if name is None else name


class Redis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which Redis, and how it is asked. No part of the result either."""

    url: str = "redis://localhost:6379/0"  # redis:// or rediss:// (TLS) or unix://; without a password
    model: str = "afterclick"  # in each key, so that models share a Redis
    timeout_ms: int = 5_000  # for one answer
    chunk_bytes: int = 4_194_304  # 4 MiB: no value is longer, so that no command blocks the server for long

    def __post_init__(self) -> None:
        user, at, _ = self.url.partition("://")[2].rpartition("@")
        if (at and ":" in user) or "password=" in self.url:
            raise ValueError(f"redis.url must hold no password: it would be in files; set {REDIS_PASSWORD} instead")
        if not self.url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError(f"redis.url must start with redis://, rediss:// or unix:// (got {self.url!r})")
        if "{" in self.model or "}" in self.model:
            raise ValueError(
                f"redis.model must hold no braces (got {self.model!r}): they say which node of a cluster has a key"
            )


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. Neither is shown when printed."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def credentials(environ: Mapping[str, str]) -> Credentials:
    """The user and the password that the environment tells, as they stand there.

    Example:
        >>> credentials({"AFTERCLICK_KAFKA__SASL_USERNAME": "app", "AFTERCLICK_KAFKA__SASL_PASSWORD": "123"})
        Credentials()
    """
    return Credentials(environ.get(SECRETS["username"]), environ.get(SECRETS["password"]))
