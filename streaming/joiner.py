"""One join partition as a value machine: polled records in, blocks of examples and side-output lines out. Must not know who polls or appends.

    looks at three streams --meet the watermark--> Arrivals --join--> Dues --label--> Examples --encode--> blocks for `examples[p]`

Whoever takes over p from a snapshot reads what was appended to `examples[p]` after it: those examples are known by identity, and leave
no second time, whatever is read anew and however it is divided into looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streaming.counting import count_arrivals, count_leaving
from streaming.deliveries import PartitionState
from streaming.example_blocks import encode_block
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

Identity = tuple[str, int, int]
"""Of an example: impression_id, the impression's event time, slot."""


class JoinerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A join partition between two records.

    Args:
        p: which. partitions: of how many.
        places: `topic[partition]` -> how far it was read. clock: of p. state: all that is open in it.
        examples_end: offset in `examples[p]` up to which what was emitted is acknowledged.
        emitted: identity and due time of examples that were appended before p was last taken over, and that this joiner has not come to yet.
        rules: the settings that the state depends on.
    """

    p: int
    partitions: int
    places: dict[str, Place]
    clock: ClockSnapshot
    state: PartitionState
    examples_end: int
    emitted: list[tuple[str, int, int, int]]
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
        self._windows = settings.windows
        self._polled = PolledPartition(p, partitions, settings)
        self._policy = policy_of(settings, p=p)
        self._join = Join(join_windows(settings), self._policy.schedule)
        self.places = dict(places)
        """How far each of its streams was read."""
        self._emitted: dict[Identity, int] = {}
        self._shown: tuple[int | None, bool, int] = None, False, 0
        self.figures = IngestFigures()
        """Counted since this joiner was made."""
        self.repeated = 0
        """Examples that had been appended before p was taken over, and were left out."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its streams: `topic[partition]`, in the order of `RecordKind`."""
        return self._polled.names

    def ahead(self) -> Iterator[str]:
        """The streams that are to be read no further for now."""
        return (self.names[kind] for kind in self._polled.clock.ahead())

    def take(self, polled: Polled) -> Step:
        """Takes in a look at its three streams; what is due by then leaves, in the order (due time, impression_id, slot)."""
        arrivals = self._polled.take(polled, self.places)
        count_arrivals(self.figures, arrivals)
        lines = [(door_of(refused), refused_line(refused)) for refused in arrivals.refused]
        self._join.on_arrivals(arrivals)
        reached = arrivals.watermark_ms, arrivals.is_idle, arrivals.held_ms
        examples = Examples.of([])
        if arrivals.watermark_ms is not None:
            dues, sides = self._join.on_watermark(arrivals.watermark_ms)
            examples = self._policy.on_due(dues)
            count_leaving(self.figures, examples, sides)
            lines += [(side.door, side_line(side)) for side in sides]
            examples = self._not_yet_emitted(examples)
        blocks = list(self._blocks(examples, reached)) if len(examples) or reached != self._shown else []
        self._shown = reached
        return Step(blocks, lines)

    def _blocks(self, examples: Examples, reached: tuple[int | None, bool, int]) -> Iterator[bytes]:
        """Only the last says how far p has come by them: before it, something is still to come."""
        sizes = np.fromiter([len(bytes(shown.features)) for shown in examples.impressions], np.int64, len(examples))
        start = 0
        while len(examples) - start > 1:
            end = start + max(1, int(np.searchsorted(np.cumsum(sizes[start : start + BLOCK_EXAMPLES]), BLOCK_BYTES)))
            if end >= len(examples):
                break
            watermark_ms, is_idle, held_ms = self._shown
            yield encode_block(self.p, examples[start:end], watermark_ms=watermark_ms, is_idle=is_idle, held_ms=held_ms)
            start = end
        watermark_ms, is_idle, held_ms = reached
        yield encode_block(self.p, examples[start:], watermark_ms=watermark_ms, is_idle=is_idle, held_ms=held_ms)

    def know_emitted(self, examples: Iterable[Example]) -> None:
        """Takes in examples that were appended before p was taken over: they leave no second time."""
        for example in examples:
            self._emitted[identity_of(example)] = example.due_ms

    def _not_yet_emitted(self, examples: Examples) -> Examples:
        if not self._emitted or not len(examples):
            return examples
        is_new = np.fromiter(
            (self._emitted.pop(identity_of(example), None) is None for example in examples), np.bool_, len(examples)
        )
        self.repeated += int(len(examples) - is_new.sum())
        return examples.where(is_new)

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
        """All of it, as a value.

        Args:
            examples_end: the offset after the last block that was acknowledged.
        """
        watermark_ms, is_idle, _ = self._shown
        longest_ms = self._windows.click_window_ms + self._windows.attribution_window_ms
        return JoinerSnapshot(
            p=self.p,
            partitions=self._partitions,
            places=dict(self.places),
            clock=self._polled.clock.snapshot(),
            state=PartitionState(watermark_ms, is_idle, join=self._join.snapshot()),
            examples_end=examples_end,
            emitted=[
                (*identity, due_ms)
                for identity, due_ms in self._emitted.items()
                if watermark_ms is None or due_ms + longest_ms >= watermark_ms  # else its impression has left
            ],
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
        self.places = dict(snapshot.places)
        self._polled.clock.restore(snapshot.clock)
        assert snapshot.state.join is not None
        self._join.restore(snapshot.state.join)
        self._shown = snapshot.state.watermark_ms, snapshot.state.is_idle, self._polled.clock.held_ms
        self._emitted = {(name, time_ms, slot): due_ms for name, time_ms, slot, due_ms in snapshot.emitted}


def _different(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _different(f"{path}.{key}" if path else key, one.get(key), other.get(key))
    elif one != other:
        yield f"{path}: {one!r} != {other!r}"
