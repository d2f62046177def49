"""One join partition as a value machine: polled records in, blocks of examples and side-output lines out. Must not know who polls or appends.

    looks at three streams --meet the watermark--> Arrivals --join--> Dues --label--> Examples --encode--> blocks for `examples[p]`

The blocks tell the looks that led to them. Whoever takes p over from a snapshot does again what the blocks behind it tell, look by look, and is then, bit for bit,
where their sender was after the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streaming.counting import count_arrivals, count_leaving
from streaming.deliveries import PartitionState
from streaming.example_blocks import Look, Sent, Told, encode_block
from streaming.examples import Example, Examples
from streaming.join import Join
from streaming.live import Polled, PolledPartition
from streaming.log_file import Place
from streaming.metrics import IngestFigures, PartitionFigures
from streaming.outputs import door_of, refused_line, side_line
from streaming.partitions import join_windows, policy_of
from streaming.settings import Settings, SettingsError
from streaming.watermark import ClockSnapshot

BLOCK_EXAMPLES, BLOCK_BYTES = 2_000, 400_000
"""A block holds no more, or one example: brokers take records of 1 MB by default, and an id or a time is not much beside raw features."""

UNTOLD_LOOKS = 500
"""Looks that led to nothing are told with the next that does, or when there are so many: some 20 KB."""

Identity = tuple[str, int, int]
"""Of an example: impression_id, the impression's event time, slot."""

Shown = tuple[int | None, bool, int]
"""watermark_ms, is_idle, held_ms"""


class DivergedError(Exception):
    """What was joined anew is not what was appended."""


class JoinerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A join partition between two records.

    Args:
        p: which. partitions: of how many.
        places: `topic[partition]` -> how far it was read. clock: of p. state: all that is open in it.
        examples_end: it holds what the blocks before this offset in `examples[p]` tell, and nothing else. last: claim and number of the last of them; None if there is none.
        rules: the settings that the state depends on.
    """

    p: int
    partitions: int
    places: dict[str, Place]
    clock: ClockSnapshot
    state: PartitionState
    examples_end: int
    last: Sent | None
    rules: dict[str, Any]


class Step(NamedTuple):
    """What one look has led to: blocks for `examples[p]`, and (door, lines) of records that take no part, both in order."""

    blocks: list[bytes]
    lines: list[tuple[str, bytes]]


def identity_of(example: Example) -> Identity:
    """What makes two examples the same one."""
    return example.impression.impression_id, example.impression.event_time_ms, example.slot


def rules_of(settings: Settings) -> dict[str, Any]:
    """The settings that the state of a join depends on."""
    found = {section: msgspec.to_builtins(getattr(settings, section)) for section in ("log", "windows", "event_time")}
    for key in (
        "alignment_ms",
        "idle_timeout_ms",
        "stall_hold_ms",
        "future_skew_ms",
    ):  # of how it is read, not of what it holds
        del found["event_time"][key]
    return found | {"labels": {"method": settings.labels.method, "horizons": settings.labels.horizons}}


class Joiner:
    """A join partition.

    Args:
        settings: of the model. p: which partition. partitions: how many each topic has.
        places: where each of its streams is read from.
    """

    def __init__(self, settings: Settings, *, p: int, partitions: int, places: Mapping[str, Place]) -> None:
        if settings.labels.method == "oracle":
            raise SettingsError("labels.method = 'oracle' looks into the future: it is for replays of a log alone")
        self.p, self._partitions, self._rules = p, partitions, rules_of(settings)
        self._polled = PolledPartition(p, partitions, settings)
        self._policy = policy_of(settings, p=p)
        self._join = Join(join_windows(settings), self._policy.schedule)
        self.places = dict(places)
        """How far each of its streams was read."""
        self.last: Sent | None = None
        """Claim and number of what was sent last: a claim, before anything can be."""
        self._starts: tuple[int, ...] = ()
        self._untold: list[Look] = []
        self._shown: Shown = None, False, 0
        self.figures = IngestFigures()
        """Counted since this joiner was made."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its streams: `topic[partition]`, in the order of `RecordKind`."""
        return self._polled.names

    def ahead(self) -> Iterator[str]:
        """The streams that are to be read no further for now."""
        return (self.names[kind] for kind in self._polled.clock.ahead())

    def ends(self) -> tuple[int, ...]:
        """How far each of its streams was read, in the order of `RecordKind`."""
        return tuple(self.places[name].line for name in self.names)

    def take(self, polled: Polled) -> Step:
        """Takes in a look at its three streams; what is due by then leaves, in the order (due time, impression_id, slot)."""
        shown, starts = self._shown, self.ends()
        examples, lines = self._meet(polled)
        if not self._untold:
            self._starts = starts
        self._untold.append(Look(polled.now_ms, self.ends(), tuple(polled.idle.get(name) for name in self.names)))
        is_telling = len(examples) > 0 or self._shown != shown or len(self._untold) >= UNTOLD_LOOKS
        return Step(list(self._blocks(examples, shown)) if is_telling else [], lines)

    def tell(self) -> list[bytes]:
        """What it did and has not told yet: before a snapshot, which must hold nothing else than what was told."""
        return list(self._blocks(Examples.of([]), self._shown)) if self._untold else []

    def repeat(self, looks: Iterable[Polled], appended: Sequence[Identity]) -> Step:
        """Does again what blocks tell; what of it is appended leaves no second time, and what is missing of the last look leaves now.

        Args:
            looks: in their order, with their records. appended: the examples that they are known to have led to.

        Raises:
            DivergedError: they lead to others.
        """
        assert not self._untold
        shown = self._shown
        parts: list[Examples] = []
        lines: list[tuple[str, bytes]] = []
        for polled in looks:
            some, sides = self._meet(polled)
            parts.append(some)
            lines += sides
        examples = Examples.joined(parts)
        if [identity_of(example) for example in examples[: len(appended)]] != list(appended):
            raise DivergedError
        left = examples[len(appended) :]
        return Step(list(self._blocks(left, shown)) if len(left) else [], lines)

    def _meet(self, polled: Polled) -> tuple[Examples, list[tuple[str, bytes]]]:
        """What is due, and the records that take no part."""
        arrivals = self._polled.take(polled, self.places)
        count_arrivals(self.figures, arrivals)
        lines = [(door_of(refused), refused_line(refused)) for refused in arrivals.refused]
        self._join.on_arrivals(arrivals)
        self._shown = arrivals.watermark_ms, arrivals.is_idle, arrivals.held_ms
        if arrivals.watermark_ms is None:
            return Examples.of([]), lines
        dues, sides = self._join.on_watermark(arrivals.watermark_ms)
        examples = self._policy.on_due(dues)
        count_leaving(self.figures, examples, sides)
        return examples, lines + [(side.door, side_line(side)) for side in sides]

    def _blocks(self, examples: Examples, shown: Shown) -> Iterator[bytes]:
        """Only the first tells the looks, only the last says how far p has come by them: before it, something is still to come."""
        sizes = np.fromiter([len(bytes(one.features)) for one in examples.impressions], np.int64, len(examples))
        starts, looks = self._starts if self._untold else (), tuple(self._untold)
        self._untold.clear()
        start = 0
        while len(examples) - start > 1:
            end = start + max(1, int(np.searchsorted(np.cumsum(sizes[start : start + BLOCK_EXAMPLES]), BLOCK_BYTES)))
            if end >= len(examples):
                break
            yield self._block(examples[start:end], shown, starts, looks)
            start, starts, looks = end, (), ()
        yield self._block(examples[start:], self._shown, starts, looks)

    def _block(self, examples: Examples, shown: Shown, starts: tuple[int, ...], looks: tuple[Look, ...]) -> bytes:
        assert self.last is not None, "nobody sends who has not claimed p"
        claimed_at, number = self.last
        self.last = claimed_at, number + 1
        told = Told(*self.last, starts, looks)
        watermark_ms, is_idle, held_ms = shown
        return encode_block(self.p, examples, watermark_ms=watermark_ms, is_idle=is_idle, held_ms=held_ms, told=told)

    def shown(self) -> IngestFigures:
        """Its figures, and how far it has come."""
        watermark_ms, is_idle, held_ms = self._shown
        join = self._join
        return msgspec.structs.replace(
            self.figures,
            watermark_ms=watermark_ms,
            open_impressions=join.open_impressions,
            open_clicks=join.open_clicks,
            remembered_impressions=join.remembered_impressions,
            pending_records=join.pending_records,
            held_facts=join.held_facts,
            partitions={self.p: PartitionFigures(watermark_ms=watermark_ms, is_idle=is_idle, held_ms=held_ms)},
        )

    def snapshot(self, examples_end: int) -> JoinerSnapshot:
        """All of it, as a value; all that it did must have been told.

        Args:
            examples_end: the offset after the last block that was acknowledged.
        """
        assert not self._untold
        watermark_ms, is_idle, _ = self._shown
        return JoinerSnapshot(
            p=self.p,
            partitions=self._partitions,
            places=dict(self.places),
            clock=self._polled.clock.snapshot(),
            state=PartitionState(watermark_ms, is_idle, join=self._join.snapshot()),
            examples_end=examples_end,
            last=self.last,
            rules=self._rules,
        )

    def restore(self, snapshot: JoinerSnapshot) -> None:
        """Takes up where a snapshot was taken, in a new joiner.

        Raises:
            SettingsError: it was taken under other settings, or with another number of partitions.
        """
        if snapshot.partitions != self._partitions:
            raise SettingsError(
                f"join partition {self.p} was joined over {snapshot.partitions} partitions, the topics have {self._partitions}: keys have moved. "
                "Start anew under another kafka.model, with topics of that many partitions"
            )
        if snapshot.rules != self._rules:
            keys = ", ".join(_different("", snapshot.rules, self._rules))
            raise SettingsError(
                f"join partition {self.p} was joined under other settings ({keys}): join on with those, or start anew under another kafka.model"
            )
        assert snapshot.state.join is not None
        self.places, self.last = dict(snapshot.places), snapshot.last
        self._polled.clock.restore(snapshot.clock)
        self._join.restore(snapshot.state.join)
        self._shown = snapshot.state.watermark_ms, snapshot.state.is_idle, self._polled.clock.held_ms


def _different(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _different(f"{path}.{key}" if path else key, one.get(key), other.get(key))
    elif one != other:
        yield f"{path}: {one!r} != {other!r}"
