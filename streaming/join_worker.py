"""The join partitions that a worker holds: takes them over, feeds them, keeps snapshots of them, lets them go. Must not know who told it which.

A snapshot, in this order. What a crash costs, after each step: nothing but time. What comes after the last snapshot is read again, and what was
emitted since is known from `examples[p]`.

    1. what was emitted is acknowledged by the brokers      crash: it is read back from `examples[p]` and not emitted again
    2. the snapshot is written, under a name of its own     crash: it is newer than what is committed, and taken up all the same
    3. the group's offsets are committed, by the caller     crash: as after 2, or all is done
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol

from streaming.counting import copy_figures, with_figures
from streaming.example_blocks import BlockError, decode_block
from streaming.idleness import Idleness
from streaming.joiner import Joiner, JoinerSnapshot, Step
from streaming.live import Polled, start_places
from streaming.metrics import IngestFigures, RunMetrics
from streaming.records import PolledRecord
from streaming.settings import Settings

EXAMPLES = "examples"
_STILL_MS = 60_000
"""How long a record may be there and not come, while we read, before the client is taken for dead."""

SIDE_TOPICS = {"late": "late"}
"""Where the lines of a door go; those of every other door go to `dead-letters`, and say which it was."""


class JoinError(Exception):
    """A join partition cannot be held; the message names it, what is wrong and what to do."""


class Appends(Protocol):
    """Appends to the topics of the model."""

    def send(self, stem: str, value: bytes | None, *, key: bytes | None = None, partition: int | None = None) -> None:
        """Appends a record; it is there once `flush` has returned."""

    def append(self, stem: str, data: bytes) -> None:
        """Appends lines, a record each."""

    def flush(self) -> None:
        """Waits until everything appended is acknowledged."""

    def end(self, stem: str, partition: int) -> int | None:
        """The offset after the last record that was acknowledged there; None if there was none yet."""


class Offsets(Protocol):
    """What the brokers know of the topics, and of the group that shares the join."""

    def partitions(self) -> int:
        """How many the topics have, asked anew; errors if not all as many."""

    def committed(self, names: Collection[str]) -> dict[str, int | None]:
        """How far the group has come in each `topic[partition]`; None if it has committed nothing there."""

    def bounds(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        """The first offset there is, and the one after the last."""

    def ends(self, names: Collection[str]) -> dict[str, int]:
        """The offset after the last; left out where the brokers do not say."""

    def records(self, name: str, start: int, end: int) -> Iterator[tuple[int, bytes | None]]:
        """Offset and value of each record from `start` on and before `end`."""


class Snapshots(Protocol):
    """Keeps snapshots."""

    def write(self, snapshot: JoinerSnapshot, names: Iterable[str]) -> str:
        """Makes a snapshot durable."""

    def newest(self, p: int, committed: Mapping[str, int | None], names: Iterable[str]) -> JoinerSnapshot | None:
        """The newest at or past what is committed."""


class _Held:
    """A partition that is held."""

    def __init__(self, joiner: Joiner, idleness: Idleness, examples_end: int) -> None:
        self.joiner, self.idleness, self.examples_end = joiner, idleness, examples_end
        self.is_changed = True  # since the last snapshot
        self.still: dict[str, tuple[int, int]] = {}  # offset and since when, by stream that shows nothing


class JoinWorker:
    """Join partitions on one thread: whoever calls it, calls it one at a time.

    Args:
        settings: of the model. sink, offsets, snapshots: see the ports.
        at_step: called before each numbered step, for tests that crash there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sink: Appends,
        offsets: Offsets,
        snapshots: Snapshots,
        at_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._settings, self._at_step = settings, at_step
        self._sink, self._offsets, self._snapshots = sink, offsets, snapshots
        self._held: dict[int, _Held] = {}
        self._p_of: dict[str, int] = {}
        self._gone = IngestFigures()  # counted in partitions that were let go

    @property
    def held(self) -> frozenset[int]:
        """The partitions that it holds."""
        return frozenset(self._held)

    def hold(self, p: int) -> None:
        """Takes a partition over, from where whoever held it before came to.

        Raises:
            SnapshotError: the group has come further than any snapshot. SettingsError: it was joined under other settings.
            JoinError: what would have to be read is gone. BrokerError: the topics cannot be used.
        """
        partitions = self._offsets.partitions()
        joiner = Joiner(self._settings, p=p, partitions=partitions, places={})
        names = joiner.names
        snapshot = self._snapshots.newest(p, self._offsets.committed(names), names)
        examples = f"{self._settings.kafka.topic(EXAMPLES)}[{p}]"
        bounds = self._offsets.bounds([*names, examples])
        first, end = bounds[examples]
        if snapshot is None:
            joiner.places = start_places({name: bounds[name][0] for name in names})
        else:
            joiner.restore(snapshot)
            for name in names:
                _refuse_gone(name, joiner.places[name].line, *bounds[name])
            first = max(first, snapshot.examples_end)
        for offset, value in self._offsets.records(examples, first, end):
            try:
                joiner.know_emitted(decode_block(value or b"")[1])
            except BlockError as error:
                raise JoinError(
                    f"{examples}@{offset} is no block of examples ({error}): kafka.topics.examples must name a topic that only joiners append to"
                ) from error
        self._held[p] = _Held(joiner, Idleness(names, timeout_ms=self._settings.event_time.idle_timeout_ms), end)
        self._p_of |= dict.fromkeys(names, p)

    def take(self, records: Mapping[str, list[PolledRecord]], now_ms: int) -> None:
        """Takes in records, by `topic[partition]` in the order of their offsets; those read before, or of a partition not held, are passed over.

        Raises:
            JoinError: records are missing in between.
        """
        looks: dict[int, Polled] = {}
        for name, some in records.items():
            if (p := self._p_of.get(name)) is None:
                continue
            held = self._held[p]
            line = held.joiner.places[name].line
            fresh = some if some[0][0] >= line else [record for record in some if record[0] >= line]
            if not fresh:
                continue
            self._refuse_hole(name, line, fresh[0][0])
            looks.setdefault(p, Polled(now_ms, {}, {})).records[name] = fresh
        for p, look in sorted(looks.items()):
            look.idle.update(self._held[p].idleness.on_records(list(look.records)))
            self._step(p, look)
        # A look is acknowledged before the next one is taken: of two blocks of p on their way, the first might be lost and the second not.
        self._sink.flush()

    def _refuse_hole(self, name: str, line: int, offset: int) -> None:
        """Offsets are missing where a transaction ended, and nowhere else: a client that loses records is not believed."""
        if offset == line:
            return
        first, _ = self._offsets.bounds([name])[name]
        _refuse_gone(name, line, first, offset)
        if (missing := next(self._offsets.records(name, line, offset), None)) is not None:
            raise JoinError(
                f"{name}: reading was to go on at offset {line}, the client gave {offset}, and there is a record at {missing[0]}: "
                "start the worker again; it goes on from its snapshot"
            )

    def look(self, *, paused: Collection[str], now_ms: int, monotonic_ms: int) -> None:
        """Looks where the streams end, for their idleness.

        Args:
            paused: streams that are not read now. now_ms, monotonic_ms: processing time; the second never runs backwards.

        Raises:
            JoinError: a record has been there for long, and the client does not give it.
        """
        ends = self._offsets.ends(self.stream_names())
        for p, held in sorted(self._held.items()):
            places = {name: held.joiner.places[name].line for name in held.joiner.names}
            for name, at in places.items():
                if name in paused or at >= ends.get(name, 0) or held.still.get(name, (-1, 0))[0] != at:
                    held.still[name] = at, monotonic_ms
                elif next(self._offsets.records(name, at, ends[name]), None) is None:
                    places[name] = ends[name]  # what is left is the end of a transaction
                elif monotonic_ms - held.still[name][1] > _STILL_MS:
                    raise JoinError(
                        f"{name}: nothing has come for {_STILL_MS // 1_000} s, and there is a record at {at}: start the worker again; it goes on from its snapshot"
                    )
            if changed := held.idleness.on_ends(ends, positions=places, paused=paused, now_ms=monotonic_ms):
                self._step(p, Polled(now_ms, {}, changed))
        self._sink.flush()

    def _step(self, p: int, look: Polled) -> None:
        held = self._held[p]
        held.is_changed = True
        step: Step = held.joiner.take(look)
        for block in step.blocks:
            self._sink.send(EXAMPLES, block, partition=p)
        for door, line in step.lines:
            self._sink.append(SIDE_TOPICS.get(door, "dead-letters"), line)

    def save(self) -> dict[str, int]:
        """Keeps a snapshot of each partition in which something happened; the offsets to be committed then, by `topic[partition]`."""
        changed = [held for _, held in sorted(self._held.items()) if held.is_changed]
        if not changed:
            return {}
        self._at_step(1)
        self._sink.flush()
        self._at_step(2)
        offsets: dict[str, int] = {}
        for held in changed:
            joiner = held.joiner
            end = self._sink.end(EXAMPLES, joiner.p)
            held.examples_end = max(held.examples_end, end or 0)
            self._snapshots.write(joiner.snapshot(held.examples_end), joiner.names)
            held.is_changed = False
            offsets |= {name: joiner.places[name].line for name in joiner.names}
        self._at_step(3)
        return offsets

    def drop(self) -> None:
        """Lets every partition go, as it stands."""
        self._gone = _sum([self._gone, *(held.joiner.figures for held in self._held.values())])
        self._held.clear()
        self._p_of.clear()

    def paused(self) -> frozenset[str]:
        """The streams that are to be read no further for now."""
        return frozenset(name for held in self._held.values() for name in held.joiner.ahead())

    def stream_names(self) -> list[str]:
        """The streams of what it holds."""
        return list(self._p_of)

    def metrics(self) -> RunMetrics:
        """What was counted, and how far each partition has come."""
        shown = [held.joiner.shown() for held in self._held.values()]
        return with_figures(RunMetrics(), _sum([self._gone, *shown]))


def _sum(figures: list[IngestFigures]) -> IngestFigures:
    """Of several partitions as of one; its watermark is the least of theirs, where nobody waits for those that are idle."""
    total = IngestFigures()
    for own in figures:
        for kind, count in own.events.items():
            total.events[kind] = total.events.get(kind, 0) + count
        for kind, count in own.examples.items():
            total.examples[kind] = total.examples.get(kind, 0) + count
        for door, counts in own.side_outputs.items():
            side = total.side_outputs.setdefault(door, {})
            for kind, count in counts.items():
                side[kind] = side.get(kind, 0) + count
        for key in ("open_impressions", "open_clicks", "remembered_impressions", "pending_records", "held_facts"):
            setattr(total, key, getattr(total, key) + getattr(own, key))
        total.partitions |= own.partitions
        if own.max_event_time_ms is not None:
            total.max_event_time_ms = max(total.max_event_time_ms or 0, own.max_event_time_ms)
    waited = [own.watermark_ms for own in total.partitions.values() if not own.is_idle]
    known = [ms for ms in waited if ms is not None]
    if waited:
        total.watermark_ms = min(known) if len(known) == len(waited) else None
    else:
        total.watermark_ms = max((own.watermark_ms or 0 for own in total.partitions.values()), default=None)
    return copy_figures(total)


def _refuse_gone(name: str, offset: int, first: int, last: int) -> None:
    if offset < first:
        raise JoinError(
            f"{name}: reading was to go on at offset {offset}, and the earliest there is is {first}: {first - offset} records have expired unread. "
            "Start anew under another kafka.model, and let topics keep records for longer (kafka.retention_ms) than the join may stand still"
        )
    if offset > last:
        raise JoinError(
            f"{name}: reading was to go on at offset {offset}, and it ends at {last}: it is not the topic that was read, or lost its end. "
            "Start anew under another kafka.model"
        )
