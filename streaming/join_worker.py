"""The join partitions that a worker holds: takes them over, feeds them, keeps snapshots of them, lets them go. Must not know who told it which.

Who holds p is decided in `examples[p]`: whoever claimed it last (`example_blocks`). To take p over is to claim it, and then to do again what its holders told
between the newest snapshot and that claim (`takeover`).

A snapshot, in this order. What a crash costs, after each step: nothing but time. What was told since the last snapshot is done again, and what was read
since and led to nothing is read again.

    1. what was done is told, and acknowledged by the brokers      crash: it is read back from `examples[p]` and done again, not emitted again
    2. the snapshot is written, under a name of its own            crash: it is newer than what is committed, and taken up all the same
    3. the group's offsets are committed, by the caller            crash: as after 2, or all is done

A worker that was asleep, and whose partitions others have claimed, finds that out in what it appends: its blocks do not follow on each other. It lets go of
those partitions without a snapshot. What a snapshot holds, no newer claim precedes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import chain, islice

from streaming.counting import copy_figures, with_figures
from streaming.example_blocks import BlockError, encode_claim
from streaming.idleness import Idleness
from streaming.join_ports import EXAMPLES, Appends, JoinError, Offsets, Snapshots, refuse_gone
from streaming.joiner import DivergedError, Joiner, Step
from streaming.live import Polled, start_places
from streaming.metrics import IngestFigures, RunMetrics
from streaming.records import PolledRecord
from streaming.settings import Settings
from streaming.takeover import Script, redo

_STILL_MS = 60_000
"""How long a record may be there and not come, while we read, before the client is taken for dead."""

SIDE_TOPICS = {"late": "late"}
"""Where the lines of a door go; those of every other door go to `dead-letters`, and say which it was."""


class _Held:
    """A partition that is held."""

    def __init__(self, joiner: Joiner, idleness: Idleness, end: int) -> None:
        self.joiner, self.idleness = joiner, idleness
        self.end = end  # of `examples[p]`, up to which no newer claim is known to be
        self.sent = 0  # blocks since then
        self.is_changed = True  # since the last snapshot
        self.still: dict[str, tuple[int, int]] = {}  # offset and since when, by stream that shows nothing
        self.lacking: dict[
            str, int
        ] = {}  # up to where the client has given, by stream of which it must be read once more


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
        self._lost: dict[int, dict[str, int]] = {}  # up to where the client has given, by stream
        self._gone = IngestFigures()  # counted in partitions that were let go
        self._is_broker_away = False  # when they were last asked

    @property
    def held(self) -> frozenset[int]:
        """The partitions that it holds."""
        return frozenset(self._held)

    @property
    def lost(self) -> frozenset[int]:
        """Those that another has claimed while this one held them: to be held again, by a new claim, or dropped."""
        return frozenset(self._lost)

    def hold(self, p: int) -> None:
        """Takes a partition over, at exactly where whoever held it before came to.

        Raises:
            SnapshotError: the group has come further than any snapshot. SettingsError: it was joined under other settings.
            JoinError: what would have to be read is gone. BrokerError: the topics cannot be used.
        """
        partitions = self._offsets.partitions()
        joiner = Joiner(self._settings, p=p, partitions=partitions, places={})
        names, examples = joiner.names, f"{self._settings.kafka.topic(EXAMPLES)}[{p}]"
        snapshot = self._snapshots.newest(p, self._offsets.committed(names), names)
        if snapshot is not None:
            joiner.restore(snapshot)
        claimed_at = self._claim(p)
        bounds = self._offsets.bounds([*names, examples])
        first, _ = bounds[examples]
        if snapshot is None:
            script = self._read(Script(), examples, first, claimed_at)
        else:
            refuse_gone(examples, snapshot.examples_end, first, claimed_at)
            script = self._read(Script(snapshot.last), examples, snapshot.examples_end, claimed_at)
        acts = script.acts
        if snapshot is None or script.begins is not None:
            firsts = tuple(bounds[name][0] for name in names)
            starts = script.begins or (acts[0].starts if acts else firsts)
            is_whole = script.begins is not None or (first == 0 and not script.is_cut)
            if snapshot is None and not (is_whole and all(map(int.__ge__, starts, firsts))):
                # Nobody knows what was before: somebody has deleted group and snapshots, so that p begins anew with what there is.
                starts, acts = firsts, []
                claimed_at = self._claim(p, starts)
            places = start_places(dict(zip(names, starts, strict=True)))
            joiner = Joiner(self._settings, p=p, partitions=partitions, places=places)
        for ends in (joiner.ends(), *(act.looks[-1].ends for act in acts[-1:])):
            for name, end in zip(names, ends, strict=True):
                refuse_gone(name, end, *bounds[name])
        joiner.last = claimed_at, 0
        try:
            step = redo(joiner, acts, self._offsets.records)
        except DivergedError:
            raise JoinError(
                f"{examples}: what is joined anew from {joiner.ends()} of {', '.join(names)} on is not what was appended there before: "
                "join on with the version and the settings that appended it, or start anew under another kafka.model"
            ) from None
        held = _Held(joiner, Idleness(names, timeout_ms=self._settings.event_time.idle_timeout_ms), claimed_at + 1)
        held.lacking = {name: at for name, at in self._lost.pop(p, {}).items() if at > joiner.places[name].line}
        self._held[p] = held
        self._p_of |= dict.fromkeys(names, p)
        self._append(held, step)
        self._acknowledge()

    def _claim(self, p: int, starts: tuple[int, ...] = ()) -> int:
        """Claims a partition; the offset of the claim. With `starts`, p begins anew there."""
        self._sink.send(EXAMPLES, encode_claim(p, starts), partition=p)
        self._sink.flush()
        if not (end := self._sink.end(EXAMPLES, p)):
            raise JoinError(
                f"{self._settings.kafka.topic(EXAMPLES)}[{p}]: the brokers do not say where they have appended: start the worker again"
            )
        return end - 1

    def _read(self, script: Script, name: str, start: int, end: int) -> Script:
        """The script that the blocks between two offsets tell."""
        for offset, _, value in self._offsets.records(name, start, end):
            try:
                script.read(offset, value)
            except BlockError as error:
                raise JoinError(
                    f"{name}@{offset} is no block of examples ({error}): kafka.topics.examples must name a topic that only joiners append to"
                ) from error
        return script

    def take(self, records: Mapping[str, list[PolledRecord]], now_ms: int) -> None:
        """Takes in records, by `topic[partition]` in the order of their offsets; those read before, or of a partition not held, are passed over.

        Raises:
            JoinError: records that the client has left out are no longer there.
        """
        self._catch_up(now_ms)
        for name, some in records.items():
            p = self._p_of.get(name)
            if p is not None and some[0][0] > self._held[p].joiner.places[name].line:
                self._read_on(p, name, some[0][0], now_ms)
        for given in self._lost.values():
            given |= {name: some[-1][0] + 1 for name, some in records.items() if name in given}
        looks: dict[int, Polled] = {}
        for name, some in records.items():
            if (p := self._p_of.get(name)) is None:
                continue
            line = self._held[p].joiner.places[name].line
            fresh = some if some[0][0] >= line else [record for record in some if record[0] >= line]
            if fresh:
                looks.setdefault(p, Polled(now_ms, {}, {})).records[name] = fresh
        for p, look in sorted(looks.items()):
            look.idle.update(self._held[p].idleness.on_records(list(look.records)))
            self._step(p, look)
        # A look is acknowledged before the next one is taken: a worker that dies has lines of its last look alone on their way.
        self._acknowledge()

    def _catch_up(self, now_ms: int) -> None:
        """Reads what a client gave while the partition was lost, and will not give again."""
        for p, held in sorted(self._held.items()):
            for name, end in list(held.lacking.items()):
                self._read_on(p, name, end, now_ms)
                if p not in self._held:  # lost once more; what it lacks is kept with what is lost
                    break
                del held.lacking[name]

    def _read_on(self, p: int, name: str, end: int, now_ms: int) -> None:
        """Reads a stream up to where the client goes on: it passes records over where partitions change hands while it fetches, and nothing of them is committed.

        Offsets are missing where a transaction ended, too, and then there is nothing to read.
        """
        if (held := self._held.get(p)) is None:
            return
        line = held.joiner.places[name].line
        refuse_gone(name, line, *self._offsets.bounds([name])[name])
        missing = self._offsets.records(name, line, end)
        while p in self._held and (some := list(islice(missing, self._settings.kafka.max_poll_records))):
            self._step(p, Polled(now_ms, {name: some}, held.idleness.on_records([name])))
            self._acknowledge()

    def look(self, *, paused: Collection[str], now_ms: int, monotonic_ms: int) -> None:
        """Looks where the streams end, for their idleness.

        Args:
            paused: streams that are not read now. now_ms, monotonic_ms: processing time; the second never runs backwards.

        Raises:
            JoinError: a record has been there for long, and the client does not give it.
        """
        self._catch_up(now_ms)
        names = self.stream_names()
        ends = self._offsets.ends(names)
        self._is_broker_away = len(ends) < len(names)
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
        self._acknowledge()

    def _step(self, p: int, look: Polled) -> None:
        held = self._held[p]
        held.is_changed = True
        self._append(held, held.joiner.take(look))

    def _append(self, held: _Held, step: Step) -> None:
        for block in step.blocks:
            self._sink.send(EXAMPLES, block, partition=held.joiner.p)
            held.sent += 1
        for door, line in step.lines:
            self._sink.append(SIDE_TOPICS.get(door, "dead-letters"), line)

    def _acknowledge(self) -> None:
        """Waits until everything appended is there; lets go of partitions that another has claimed before all of it was."""
        self._sink.flush()
        for p, held in sorted(self._held.items()):
            if not held.sent:
                continue
            end = self._sink.end(EXAMPLES, p) or 0
            if end - held.end > held.sent and self._is_claimed(p, held.end, end):
                self._lose(p)
            elif end - held.end < held.sent:
                raise JoinError(
                    f"{self._settings.kafka.topic(EXAMPLES)}[{p}]: {held.sent} blocks were appended from {held.end} on, and the brokers say they end at {end}: "
                    "start the worker again; it goes on from its snapshot"
                )
            held.end, held.sent = end, 0

    def _is_claimed(self, p: int, start: int, end: int) -> bool:
        """Whether there is a claim among what others have appended in between."""
        examples, last = f"{self._settings.kafka.topic(EXAMPLES)}[{p}]", self._held[p].joiner.last
        assert last is not None
        return self._read(Script((last[0], 0)), examples, start, end).claimed_at != last[0]

    def _lose(self, p: int) -> None:
        """Lets go of a partition that is another's: what was done since its claim is void."""
        held = self._held.pop(p)
        self._gone = _sum([self._gone, held.joiner.figures])
        names = held.joiner.names
        self._lost[p] = dict(zip(names, held.joiner.ends(), strict=True)) | held.lacking
        for name in names:
            del self._p_of[name]

    def save(self) -> dict[str, int]:
        """Keeps a snapshot of each partition in which something happened; the offsets to be committed then, by `topic[partition]`."""
        changed = {p: held for p, held in sorted(self._held.items()) if held.is_changed}
        if not changed:
            return {}
        self._at_step(1)
        for held in changed.values():
            self._append(held, Step(held.joiner.tell(), []))
        self._acknowledge()
        self._at_step(2)
        offsets: dict[str, int] = {}
        for p, held in changed.items():
            if p not in self._held:
                continue
            self._snapshots.write(held.joiner.snapshot(held.end), held.joiner.names)
            held.is_changed = False
            offsets |= {name: held.joiner.places[name].line for name in held.joiner.names}
        self._at_step(3)
        return offsets

    def drop(self) -> None:
        """Lets every partition go, as it stands."""
        self._gone = _sum([self._gone, *(held.joiner.figures for held in self._held.values())])
        self._held.clear()
        self._lost.clear()
        self._p_of.clear()

    def paused(self) -> frozenset[str]:
        """The streams that are to be read no further for now."""
        ahead = (name for held in self._held.values() for name in held.joiner.ahead())
        return frozenset(chain(ahead, *self._lost.values()))

    def stream_names(self) -> list[str]:
        """The streams of what it holds."""
        return list(self._p_of)

    def metrics(self) -> RunMetrics:
        """What was counted, and how far each partition has come."""
        shown = [held.joiner.shown() for held in self._held.values()]
        total = _sum([self._gone, *shown])
        total.is_broker_away = self._is_broker_away
        return with_figures(RunMetrics(), total)


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
