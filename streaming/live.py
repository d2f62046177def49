"""What was polled from three co-partitioned topics, as a source of arrivals. Must not know who polled it, or what is done with it.

A look at the outside is taken join partition by join partition, and in each in a fixed order, so that a tape of looks gives the same again:

    1. streams that are idle no longer    2. records: impressions, clicks, conversions, each by offset    3. streams that have become idle

Each record comes by one door: an arrival, or refused with its reason and `topic[partition]@offset`: malformed, without a value, of another
key than its join key, in another partition than its key's, or from the future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, compress
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from streaming.arrivals import Arrivals
from streaming.events import Event, RecordKind
from streaming.log_file import NEVER, Int64, Place, Refused
from streaming.records import PolledRecord, PolledStream, refuse
from streaming.settings import Settings, SettingsError
from streaming.watermark import ClockSnapshot, PartitionClock


class Polled(msgspec.Struct, frozen=True):
    """What one look at the outside showed; also what a tape holds.

    Args:
        now_ms: processing time.
        records: by `topic[partition]`, in the order of their offsets.
        idle: streams that have become idle, or are so no longer.
        is_away: whether the brokers did not answer when they were last asked.
    """

    now_ms: int
    records: dict[str, list[PolledRecord]]
    idle: dict[str, bool]
    is_away: bool = False


class Polls(Protocol):
    """Looks at the outside."""

    def poll(self, paused: frozenset[str]) -> Polled | None:
        """One look; what is paused is not read. None: the end, of a tape, or because somebody asked to stop."""


class LiveSource:
    """Records polled from Kafka, or from a tape of that, as a source.

    Args:
        polls: looks at the outside.
        settings: how records are read, what the topics are called, and how disordered they may be.
        partitions: how many each of the three topics has.
        places: where each `topic[partition]` starts or was read to: the places of a cut, else those where the polls start.
        tap: is shown each look, by join partition, just before what it led to is handed on: what a tape should hold.
    """

    def __init__(
        self,
        polls: Polls,
        settings: Settings,
        *,
        partitions: int,
        places: Mapping[str, Place],
        tap: Callable[[Polled], None] = lambda polled: None,
    ) -> None:
        self._polls, self._tap = polls, tap
        self._places = dict(places)
        self._joined = [PolledPartition(p, partitions, settings) for p in range(partitions)]
        self._p_of = {name: joined.p for joined in self._joined for name in joined.names}

    @property
    def partitions(self) -> tuple[int, ...]:
        """The join partitions it reads."""
        return tuple(joined.p for joined in self._joined)

    def __iter__(self) -> Iterator[Arrivals]:
        while (polled := self._polls.poll(self.paused())) is not None:
            for p, part in self._parts(polled):
                self._tap(part)
                yield self._joined[p].take(part, self._places)

    def _parts(self, polled: Polled) -> list[tuple[int, Polled]]:
        """A look by join partition, in their order; one that showed nothing still says what time it is."""
        parts: dict[int, Polled] = {}
        for name in (*polled.records, *polled.idle):
            if name not in self._p_of:
                raise SettingsError(
                    f"{name} was read, and [kafka] names no such topic, or fewer partitions: set it as it was when this was read"
                )
            parts.setdefault(self._p_of[name], Polled(polled.now_ms, {}, {}, polled.is_away))
        for name, records in polled.records.items():
            parts[self._p_of[name]].records[name] = records
        for name, is_idle in polled.idle.items():
            parts[self._p_of[name]].idle[name] = is_idle
        return sorted(parts.items(), key=lambda item: item[0]) or [(0, polled)]

    def paused(self) -> frozenset[str]:
        """The streams that are to be read no further for now."""
        return frozenset(joined.names[kind] for joined in self._joined for kind in joined.clock.ahead())

    def places(self) -> dict[str, Place]:
        """How far each stream was handed on."""
        return dict(self._places)

    def snapshot(self) -> Any:
        """The clocks as a value that msgpack can carry; where reading goes on is told by `places`."""
        return msgspec.to_builtins([joined.clock.snapshot() for joined in self._joined])

    def restore(self, snapshot: Any) -> None:
        """Takes up where a snapshot was taken; `places` of that moment must have been given."""
        clocks = msgspec.convert(snapshot, list[ClockSnapshot])
        for joined, clock in zip(self._joined, clocks, strict=True):
            joined.clock.restore(clock)

    @property
    def held_ms(self) -> int:
        """The most event time that a join partition holds back on account of a stalled stream."""
        return max(joined.clock.held_ms for joined in self._joined)

    def stalled(self) -> list[str]:
        """The streams that show nothing although by all that is known they should."""
        return [joined.names[kind] for joined in self._joined for kind in joined.clock.stalled]


class _Block(NamedTuple):
    """The records of one stream that take part, as columns, and those that do not."""

    times: Int64
    watermarks: Int64
    events: list[Event]
    lines: list[bytes]
    offsets: Int64
    refused: list[Refused]


class PolledPartition:
    """One join partition: the partitions of one number of the three topics."""

    def __init__(self, p: int, count: int, settings: Settings) -> None:
        time = settings.event_time
        self.p = p
        self.names = tuple(f"{settings.kafka.topic(kind.stem)}[{p}]" for kind in RecordKind)
        self.clock = PartitionClock(
            out_of_orderness_ms=time.out_of_orderness_ms,
            alignment_ms=time.alignment_ms,
            future_skew_ms=time.future_skew_ms,
            stall_hold_ms=time.stall_hold_ms,
        )
        self._streams = [
            PolledStream(kind, name, fields, p=p, count=count, partitioner=settings.kafka.partitioner)
            for kind, name, fields in zip(
                RecordKind,
                self.names,
                (settings.log.impressions, settings.log.clicks, settings.log.conversions),
                strict=True,
            )
        ]

    def take(self, polled: Polled, places: dict[str, Place]) -> Arrivals:
        """What a look at this partition led to; moves the places of its streams."""
        self._set_idle(polled, False)
        blocks = []
        for stream, name in zip(self._streams, self.names, strict=True):
            place = places.get(name, Place(line=0))
            records = polled.records.get(name, [])
            if records and records[0][0] < place.line:  # handed on before; a broker's client may give them again
                records = [record for record in records if record[0] >= place.line]
            blocks.append(self._meet(stream, records, polled.now_ms))
            if records:
                places[name] = Place(records[-1][0] + 1, 0, self.clock.newest_ms(stream.kind))
        self._set_idle(polled, True)
        refused = [record for block in blocks for record in block.refused]
        counts = [len(block.events) for block in blocks]
        return Arrivals(
            times=np.concatenate([block.times for block in blocks]),
            watermarks=np.concatenate([block.watermarks for block in blocks]),
            kinds=np.repeat(np.array(RecordKind, np.int64), counts),
            events=list(chain.from_iterable(block.events for block in blocks)),
            lines=list(chain.from_iterable(block.lines for block in blocks)),
            names=self.names,
            files=np.repeat(np.arange(len(blocks)), counts),
            numbers=np.concatenate([block.offsets for block in blocks]),
            refused=refused,
            watermark_ms=self.clock.watermark_ms,
            is_last=False,
            p=self.p,
            is_idle=self.clock.is_idle,
            now_ms=polled.now_ms,
            held_ms=self.clock.held_ms,
            is_away=polled.is_away,
        )

    def _set_idle(self, polled: Polled, is_idle: bool) -> None:
        for kind, name in zip(RecordKind, self.names, strict=True):
            if polled.idle.get(name) is is_idle:
                self.clock.set_idle(kind, is_idle)

    def _meet(self, stream: PolledStream, records: list[PolledRecord], now_ms: int) -> _Block:
        """Lets the records of a stream meet the watermark."""
        offsets, events, lines, refused = stream.tell_apart(records)
        times = np.fromiter([event.event_time_ms for event in events], np.int64, len(events))
        watermarks, is_future = self.clock.observe(stream.kind, times, now_ms)
        if is_future.any():
            for index in np.flatnonzero(is_future).tolist():
                offset = int(offsets[index])
                reason = f"stamped more than future_skew_ms ahead of the time at which it was read, {now_ms}"
                future = refuse(stream.kind, stream.name, (offset, None, lines[index]), reason, events[index])
                refused[offset] = replace(future, is_future=True, watermark_ms=int(watermarks[index]))
            kept = ~is_future
            times, watermarks, offsets = times[kept], watermarks[kept], offsets[kept]
            events, lines = list(compress(events, kept)), list(compress(lines, kept))
        return _Block(times, watermarks, events, lines, offsets, [refused[offset] for offset in sorted(refused)])


def start_places(offsets: Mapping[str, int]) -> dict[str, Place]:
    """Places at which nothing was read yet."""
    return {name: Place(offset, 0, NEVER) for name, offset in offsets.items()}
