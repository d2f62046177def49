"""Polls the three topics of a model: finds them, seeks, reads, pauses, says when a stream is idle. Decides nothing about records.

No consumer group: which partitions are read, and from where, is said by the run and kept in its cuts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import kafka
import kafka.errors
from kafka import TopicPartition

from streaming.adapters.kafka_connection import (
    BrokerError,
    known_offsets,
    offsets_of,
    partitions_of_all,
    reaching,
    reader,
)
from streaming.adapters.kafka_records import polled, take_apart_fast
from streaming.connection import Credentials
from streaming.events import RecordKind
from streaming.idleness import Idleness
from streaming.live import Polled, start_places
from streaming.log_file import Place
from streaming.settings import Settings, SettingsError

EVENTS = tuple(each.stem for each in RecordKind)
"""The topics of impressions, clicks and conversions."""

Beginning = Literal["earliest", "latest"] | int
"""Where to read from: the earliest or the latest there is, or what was produced at or after a time (UTC epoch ms)."""

_ASK_MS = 2_000
"""How long to wait for a broker that was there to say where its partitions end, before it is said to be away."""


def parse_beginning(text: str) -> Beginning:
    """What `--from` says.

    Raises:
        SettingsError: it says nothing of the kind.

    Example:
        >>> parse_beginning("latest"), parse_beginning("2026-01-05"), parse_beginning("1767571200000")
        ('latest', 1767571200000, 1767571200000)
    """
    if text in ("earliest", "latest"):
        return "earliest" if text == "earliest" else "latest"
    if text.isdigit():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"--from must be earliest, latest, an ISO 8601 time (UTC unless it says otherwise) or UTC epoch milliseconds (got {text!r})"
        ) from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


class KafkaPolls:
    """Looks at the impressions, clicks and conversions of a model.

    A broker that goes away is told of once, tried again with growing pauses, and read on from when it is back.

    Args:
        settings: `[kafka]` and `[event_time]` of them.
        secret: who asks.
        stems: of the topics; all must have equally many partitions.
        begin: where to start without places.
        places: where to go on, from a cut; those of every partition there is.
        tell: is told, in words, that the brokers are away, and that they are back.
        now_ms: processing time, UTC epoch ms. monotonic_ms: processing time that never runs backwards.

    Raises:
        BrokerError: not reachable, not allowed, a topic is missing or has fewer partitions than the others, or a place is no longer there.
    """

    def __init__(
        self,
        settings: Settings,
        secret: Credentials,
        *,
        stems: Sequence[str] = EVENTS,
        begin: Beginning = "earliest",
        places: Mapping[str, Place] | None = None,
        tell: Callable[[str], None] = lambda text: None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._kafka, self._secret, self._tell = settings.kafka, secret, tell
        self._topics = [settings.kafka.topic(stem) for stem in stems]
        self._now_ms, self._monotonic_ms = now_ms, monotonic_ms
        self.is_unreachable = False
        """Whether the brokers did not answer when they were last asked."""
        self._is_stopped = False
        self._consumer = reader(
            settings.kafka,
            secret,
            group_id=None,
            auto_offset_reset="none",
            max_poll_records=settings.kafka.max_poll_records,
            # A broker answers one request at a time: what is resumed waits for as long as what is at its end is waited for.
            fetch_max_wait_ms=min(settings.kafka.poll_timeout_ms, 100),
            fetch_max_bytes=settings.kafka.fetch_max_bytes,
            max_partition_fetch_bytes=settings.kafka.max_partition_fetch_bytes,
        )
        take_apart_fast(self._consumer)
        try:
            with reaching(self._kafka, secret, "look at the topics"):
                self.partitions = self._count_partitions()
                self._streams = {
                    f"{topic}[{p}]": TopicPartition(topic, p) for topic in self._topics for p in range(self.partitions)
                }
                self._names = {partition: name for name, partition in self._streams.items()}
                offsets = self._offsets(begin) if places is None else self._checked(places)
                self._consumer.assign(list(self._names))
                for name, offset in offsets.items():
                    self._consumer.seek(self._streams[name], offset)
        except BaseException:
            self.close()
            raise
        self.starts = start_places(offsets) if places is None else dict(places)
        """Where each `topic[partition]` is read from."""
        self._paused: frozenset[str] = frozenset()
        self._idleness = Idleness(self._streams, timeout_ms=settings.event_time.idle_timeout_ms)
        self._look_every_ms = min(max(settings.event_time.idle_timeout_ms // 3, 100), 5_000)
        self._next_look_ms = 0

    def _count_partitions(self) -> int:
        counts = {topic: len(self._consumer.partitions_for_topic(topic) or ()) for topic in self._topics}
        return partitions_of_all(self._kafka, counts)

    def _bounds(self, ask: Callable[..., dict[TopicPartition, int]]) -> dict[TopicPartition, int]:
        return offsets_of(ask, self._names, timeout_ms=self._kafka.connect_timeout_ms)

    def _offsets(self, begin: Beginning) -> dict[str, int]:
        found = self._bounds(self._consumer.beginning_offsets if begin == "earliest" else self._consumer.end_offsets)
        if isinstance(begin, int):
            for (
                partition
            ) in self._names:  # each alone: of several the client takes those without a leader for read to their end
                at = self._consumer.offsets_for_times({partition: begin})[partition]
                found[partition] = found[partition] if at is None else at.offset
        return {name: found[partition] for name, partition in self._streams.items()}

    def _checked(self, places: Mapping[str, Place]) -> dict[str, int]:
        """The offsets of places, if that is what there is to be read."""
        if set(places) != set(self._streams):
            raise BrokerError(
                f"the cut to go on from speaks of {', '.join(sorted(places))}; there are {', '.join(sorted(self._streams))}: "
                "set [kafka] to the topics it was read from; if partitions were added, keys have moved: start anew in another --out"
            )
        first, last = map(self._bounds, (self._consumer.beginning_offsets, self._consumer.end_offsets))
        for name, place in places.items():
            self._refuse_gone(name, place.line, first[self._streams[name]], last[self._streams[name]])
        return {name: place.line for name, place in places.items()}

    def _refuse_gone(self, name: str, offset: int, first: int, last: int) -> None:
        if offset < first:
            raise BrokerError(
                f"{name}: reading was to go on at offset {offset}, and the earliest there is is {first}: {first - offset} records have expired "
                "unread. Start anew in another --out with --from earliest, and let topics keep records for longer (kafka.retention_ms) than a run may stand still"
            )
        if offset > last:
            raise BrokerError(
                f"{name}: reading was to go on at offset {offset}, and it ends at {last}: it is not the topic that was read, or lost its end. "
                "Start anew in another --out"
            )

    def poll(self, paused: frozenset[str]) -> Polled | None:
        """One look, which takes `poll_timeout_ms` if nothing is there; None once stopped.

        Raises:
            BrokerError: what is to be read next is no longer there, or may not be read.
        """
        if self._is_stopped:
            return None
        self._pause(paused)
        found = self._read()
        records = {self._names[partition]: polled(some) for partition, some in found.items()}
        idle = self._idleness.on_records(list(records))
        now_ms = self._monotonic_ms()
        if now_ms >= self._next_look_ms:
            idle |= self._look(now_ms)
        return Polled(self._now_ms(), records, idle, self.is_unreachable)

    def _read(self) -> dict[TopicPartition, list[Any]]:
        try:
            found: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms=self._kafka.poll_timeout_ms)
        except kafka.errors.OffsetOutOfRangeError as error:
            with reaching(self._kafka, self._secret, "look for what has expired"):
                for partition, offset in error.args[0].items():
                    first = self._consumer.beginning_offsets([partition])[partition]
                    last = self._consumer.end_offsets([partition])[partition]
                    self._refuse_gone(self._names[partition], offset, first, last)
            return {}
        except kafka.errors.RetriableError:
            return {}  # the client tries again; whether the broker is away, the next look says
        except kafka.errors.KafkaError as error:
            with reaching(self._kafka, self._secret, "read"):
                raise error
        return found

    def _pause(self, paused: frozenset[str]) -> None:
        if paused != self._paused:
            self._consumer.pause(*(self._streams[name] for name in paused - self._paused))
            self._consumer.resume(*(self._streams[name] for name in self._paused - paused))
            self._paused = paused
        # kafka-python 3.0.12: what was parsed of a partition before it was paused comes back only when this is None, and it is left at what is
        # used up; the partition, resumed, would show nothing ever again.
        fetcher = getattr(self._consumer, "_fetcher", None)
        if fetcher is not None and not getattr(fetcher, "_next_partition_records", True):
            fetcher._next_partition_records = None

    def _look(self, now_ms: int) -> dict[str, bool]:
        """Where the streams end, for their idleness; and whether the brokers are there."""
        found = known_offsets(self._consumer.end_offsets, self._names, timeout_ms=_ASK_MS)
        if 0 < len(found) < len(self._names):  # partitions without a leader, or a topic that has been deleted
            self._count_partitions()
        self._next_look_ms = self._monotonic_ms() + self._look_every_ms
        is_unreachable = len(found) < len(self._names)
        if is_unreachable != self.is_unreachable:
            self.is_unreachable = is_unreachable
            where = ", ".join(self._kafka.bootstrap_servers)
            self._tell(
                f"kafka {where} is away; tried again until it is back" if is_unreachable else f"kafka {where} is back"
            )
        positions = {
            name: self._consumer.position(partition, timeout_ms=0) for name, partition in self._streams.items()
        }
        ends = {self._names[partition]: offset for partition, offset in found.items()}
        return self._idleness.on_ends(ends, positions=positions, paused=self._paused, now_ms=now_ms)

    def stop(self) -> None:
        """Ends the polls: the next one gives None. May be called from a signal handler."""
        self._is_stopped = True

    def close(self) -> None:
        """Lets go of the brokers."""
        self._consumer.close(timeout_ms=1_000)
