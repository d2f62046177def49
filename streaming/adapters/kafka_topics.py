"""The topics of a model: which there should be, making them, looking at them. Decides nothing about what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kafka
import kafka.errors
import msgspec
from kafka import TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient

from streaming.adapters.kafka_connection import BrokerError, connected, offsets_of, reaching
from streaming.connection import TOPIC_STEMS, Credentials
from streaming.log_file import Place
from streaming.settings import Settings, SettingsError

_SLACK_MS = 259_200_000
"""3 d: how long a run may stand still, over a weekend say, before what it has not read expires."""

_SHOWN = ("cleanup.policy", "retention.ms", "min.insync.replicas")
_ONE_PARTITION = "weights"


class Plan(msgspec.Struct, frozen=True):
    """What a topic should be."""

    stem: str
    topic: str
    partitions: int
    configs: dict[str, str]


class Partition(msgspec.Struct, frozen=True):
    """A partition: its first offset, the one after its last, where a run's newest cut stands, and how far that is behind."""

    p: int
    first: int
    end: int
    at: int | None = None
    lag: int | None = None


class Topic(msgspec.Struct, frozen=True):
    """A topic as it is; `partitions` is empty where there is none."""

    stem: str
    topic: str
    replication: int
    partitions: list[Partition]
    configs: dict[str, str]
    faults: list[str]


class Made(msgspec.Struct, frozen=True):
    """What came of making a topic."""

    topic: str
    partitions: int
    configs: dict[str, str]
    is_new: bool
    faults: list[str]


def plans(settings: Settings) -> list[Plan]:
    """The topics of a model.

    Records are kept for as long as a run may need to begin with history, and then some. Weights are kept for ever, the newest of each key.

    Raises:
        SettingsError: `kafka.retention_ms` is shorter than what a run begins with.

    Example:
        >>> [plan.topic for plan in plans(Settings())][:4]
        ['afterclick.impressions', 'afterclick.clicks', 'afterclick.conversions', 'afterclick.examples']
    """
    windows, broker = settings.windows, settings.kafka
    least_ms = windows.attribution_window_ms + windows.click_window_ms
    retention_ms = least_ms + _SLACK_MS if broker.retention_ms is None else broker.retention_ms
    if retention_ms < least_ms:
        raise SettingsError(
            f"kafka.retention_ms must be at least the click and the attribution window together, {least_ms} (got {retention_ms}): "
            "what a run begins with would have expired; leave it out for that and 3 days more"
        )
    kept = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    return [
        Plan(stem, broker.topic(stem), 1, {"cleanup.policy": "compact"})
        if stem == _ONE_PARTITION
        else Plan(stem, broker.topic(stem), broker.partitions, kept)
        for stem in TOPIC_STEMS
    ]


@contextmanager
def _admin(settings: Settings, secret: Credentials, intent: str) -> Iterator[KafkaAdminClient]:
    client = connected(KafkaAdminClient, settings.kafka, secret)
    try:
        with reaching(settings.kafka, secret, intent):
            yield client
    finally:
        client.close()


def create_topics(settings: Settings, secret: Credentials) -> list[Made]:
    """Makes the topics that are not there; those that are, are compared and left as they are.

    Raises:
        BrokerError: not reachable, not allowed, or the replication cannot be had.
    """
    there = {topic.topic: topic for topic in describe_topics(settings, secret) if topic.partitions}
    made = []
    wanted = plans(settings)
    new = {
        plan.topic: {
            "num_partitions": plan.partitions,
            "replication_factor": settings.kafka.replication,
            "configs": plan.configs,
        }
        for plan in wanted
        if plan.topic not in there
    }
    if new:
        with _admin(settings, secret, f"make the topics {', '.join(new)}") as admin:
            try:
                admin.create_topics(new, wait_for_metadata=True)
            except kafka.errors.InvalidReplicationFactorError as error:
                raise BrokerError(
                    f"kafka.replication must be at most the number of brokers (got {settings.kafka.replication}): {error}"
                ) from error
    for plan in wanted:
        topic = there.get(plan.topic)
        if topic is None:
            made.append(Made(plan.topic, plan.partitions, plan.configs, True, []))
        else:
            made.append(Made(plan.topic, len(topic.partitions), topic.configs, False, topic.faults))
    return made


def describe_topics(settings: Settings, secret: Credentials, places: Mapping[str, Place] | None = None) -> list[Topic]:
    """The topics as they are, beside what they should be, and how far behind a run is.

    Args:
        settings: which. secret: who asks.
        places: where a run's newest cut stands.

    Raises:
        BrokerError: not reachable, or not allowed.
    """
    wanted = plans(settings)
    names = [plan.topic for plan in wanted]
    with _admin(settings, secret, "look at the topics") as admin:
        told = {topic["name"]: topic for topic in admin.describe_topics(names) if not topic["error_code"]}
        configs: dict[str, Any] = {}
        if told:
            asked = [ConfigResource("topic", name, list(_SHOWN)) for name in sorted(told)]
            configs = admin.describe_configs(asked, config_filter="all")["topic"]
    ends = _ends(settings, secret, {name: len(topic["partitions"]) for name, topic in told.items()})
    found = []
    for plan in wanted:
        topic = told.get(plan.topic)
        if topic is None:
            found.append(
                Topic(plan.stem, plan.topic, 0, [], {}, ["not there: make it with `afterclick topics create`"])
            )
            continue
        shown = {key: configs[plan.topic][key]["value"] for key in _SHOWN if key in configs[plan.topic]}
        partitions = [
            _partition(plan.topic, p, *ends[plan.topic, p], places or {}) for p in range(len(topic["partitions"]))
        ]
        replication = min(len(partition["replica_nodes"]) for partition in topic["partitions"])
        found.append(
            Topic(plan.stem, plan.topic, replication, partitions, shown, _faults(plan, len(partitions), shown))
        )
    return found


def _partition(topic: str, p: int, first: int, end: int, places: Mapping[str, Place]) -> Partition:
    place = places.get(f"{topic}[{p}]")
    return Partition(p, first, end) if place is None else Partition(p, first, end, place.line, end - place.line)


def _ends(settings: Settings, secret: Credentials, counts: Mapping[str, int]) -> dict[tuple[str, int], tuple[int, int]]:
    """First offset and the one after the last, by topic and partition."""
    partitions = [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
    if not partitions:
        return {}
    consumer = connected(kafka.KafkaConsumer, settings.kafka, secret, group_id=None)
    try:
        with reaching(settings.kafka, secret, "ask where the topics end"):
            first, end = (
                offsets_of(ask, partitions, timeout_ms=settings.kafka.connect_timeout_ms)
                for ask in (consumer.beginning_offsets, consumer.end_offsets)
            )
    finally:
        consumer.close()
    return {(at.topic, at.partition): (first[at], end[at]) for at in partitions}


def _faults(plan: Plan, partitions: int, configs: Mapping[str, str]) -> list[str]:
    """What is wrong with a topic that is there."""
    faults = []
    if partitions != plan.partitions:
        faults.append(
            f"has {partitions} partitions, kafka.partitions is {plan.partitions}: the three topics of events must have equally many"
        )
    policy, wanted = configs.get("cleanup.policy"), plan.configs["cleanup.policy"]
    if policy != wanted:
        faults.append(f"cleanup.policy is {policy}, should be {wanted}")
    kept_ms, wanted_ms = configs.get("retention.ms"), plan.configs.get("retention.ms")
    if kept_ms is not None and wanted_ms is not None and 0 <= int(kept_ms) < int(wanted_ms):
        faults.append(f"retention.ms is {kept_ms}, should be {wanted_ms}: a run that stood still would miss records")
    return faults
