"""A join partition changes hands: whoever dies, sleeps and wakes up when, trainers learn what one holder of the same looks would have sent that never died."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polled_logs import NOW_MS, polled_log

from streaming.deliveries import PartitionState
from streaming.example_blocks import Block, Look, decode_block, encode_claim
from streaming.examples import Example, Examples
from streaming.join_ports import JoinError
from streaming.join_worker import JoinWorker
from streaming.joiner import Joiner, JoinerSnapshot, identity_of
from streaming.live import Polled, start_places
from streaming.metrics import IngestFigures
from streaming.partitions import ExamplePartition
from streaming.polled_blocks import BlockArrivals
from streaming.records import PolledRecord
from streaming.settings import Settings

Records = dict[str, list[PolledRecord]]
Log = tuple[Settings, Records]
IDLE_MS = 40_000
"""More than `idle_timeout_ms`."""


class KilledError(Exception):
    """A worker has died."""


class Desk:
    """One worker and what it sees of the world; others may act in between two of its appends."""

    def __init__(self, world: World, *, snapshot: int = -1) -> None:
        self._world, self._snapshot = world, snapshot
        self._end: int | None = None
        self._monotonic_ms = 0
        self.sends_left: int | None = None
        self.before_send: tuple[int, Callable[[], None]] | None = None
        self.is_dead = False
        self.lines: list[bytes] = []
        self.worker = JoinWorker(world.settings, sink=self, offsets=self, snapshots=self)
        self.at: dict[str, int] = {}

    # what the worker asks of the world

    def send(self, stem: str, value: bytes | None, *, key: bytes | None = None, partition: int | None = None) -> None:
        if stem != "examples":
            return
        if self.before_send is not None:
            number, meanwhile = self.before_send
            self.before_send = (number - 1, meanwhile) if number else None
            if not number:
                meanwhile()
        if self.sends_left is not None:
            self.sends_left -= 1
            if self.sends_left < 0:
                raise KilledError
        self._world.topic.append(value or b"")
        self._end = len(self._world.topic)

    def append(self, stem: str, data: bytes) -> None:
        assert stem in ("late", "dead-letters")
        self.lines.append(data)

    def flush(self) -> None:
        pass

    def end(self, stem: str, partition: int) -> int | None:
        return self._end

    def partitions(self) -> int:
        return 1

    def committed(self, names: Collection[str]) -> dict[str, int | None]:
        return dict.fromkeys(names)

    def bounds(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        return {name: (self._world.first.get(name, 0), len(self._world.records_of(name))) for name in names}

    def ends(self, names: Collection[str]) -> dict[str, int]:
        return dict(self.at)

    def records(self, name: str, start: int, end: int) -> Iterator[PolledRecord]:
        return iter(self._world.records_of(name)[start:end])

    def write(self, snapshot: JoinerSnapshot, names: Iterable[str]) -> str:
        self._world.kept.append(msgspec.msgpack.encode(snapshot))
        return ""

    def newest(self, p: int, committed: Mapping[str, int | None], names: Iterable[str]) -> JoinerSnapshot | None:
        """The newest, or one that is so many older; none at all is older than the first."""
        kept = [None, *self._world.kept]
        found = kept[max(self._snapshot, -len(kept))]
        return None if found is None else msgspec.msgpack.decode(found, type=JoinerSnapshot)

    # what is done with it

    def hold(self) -> None:
        self.worker.hold(0)
        if self.worker.held:
            self.at = dict(zip(self._world.source, self.worker._held[0].joiner.ends(), strict=True))

    def look(self, counts: Iterable[int]) -> None:
        """The client gives so many records of each stream more."""
        given = {}
        for (name, own), count in zip(self._world.source.items(), counts, strict=True):
            given[name] = own[self.at[name] : self.at[name] + count]
            self.at[name] += len(given[name])
        self.worker.take({name: some for name, some in given.items() if some}, self._world.now_ms())

    def idle(self, flags: Iterable[bool]) -> None:
        """These streams are at their ends for a while."""
        paused = [name for name, is_idle in zip(self._world.source, flags, strict=True) if not is_idle]
        for _ in range(2):
            self._monotonic_ms += IDLE_MS
            self.worker.look(paused=paused, now_ms=self._world.now_ms(), monotonic_ms=self._monotonic_ms)

    def save(self) -> None:
        self.worker.save()


class World:
    """Three streams, the topic that decides who holds them, snapshots, and workers that are alive in one way or another."""

    def __init__(self, log: Log) -> None:
        self.settings, self.source = log
        self.first: dict[str, int] = {}
        self.topic: list[bytes] = []
        self.kept: list[bytes] = []
        self.desks: list[Desk] = []
        self._now_ms = NOW_MS

    def now_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms

    def records_of(self, name: str) -> list[PolledRecord]:
        if name in self.source:
            return self.source[name]
        return [(offset, None, value) for offset, value in enumerate(self.topic)]

    def begin(self, snapshot: int = -1) -> Desk:
        desk = Desk(self, snapshot=snapshot)
        self.desks.append(desk)
        desk.hold()
        return desk

    def finish(self) -> Desk:
        """One takes over for good, reads what is left, and finds every stream at its end."""
        last = self.begin()
        last.look([10**6] * 3)
        last.idle([True] * 3)
        last.save()
        return last

    # the second writing: what is valid, in a few lines

    def valid(self) -> list[tuple[Block, Examples]]:
        found, newest, numbers = [], -1, set()
        for offset, value in enumerate(self.topic):
            block, examples = decode_block(value)
            if block.told.claimed_at is None:
                newest, numbers = offset, set()
            elif block.told.claimed_at == newest and block.told.number not in numbers:
                numbers.add(block.told.number)
                found.append((block, examples))
        return found

    def looks(self, end: int | None = None) -> list[Look]:
        """Those that valid blocks tell, of the first so many records of the topic."""
        whole, self.topic = self.topic, self.topic[:end]
        try:
            return [look for block, _ in self.valid() for look in block.told.looks]
        finally:
            self.topic = whole

    def uninterrupted(self, end: int | None = None) -> tuple[list[Example], Joiner]:
        """What one joiner makes of these looks, and how it is then."""
        joiner = Joiner(self.settings, p=0, partitions=1, places=start_places(dict.fromkeys(self.source, 0)))
        joiner.last = 0, 0
        examples: list[Example] = []
        for look in self.looks(end):
            records = {}
            for (name, own), start, stop in zip(self.source.items(), joiner.ends(), look.ends, strict=True):
                if stop > start:
                    records[name] = own[start:stop]
            idle = {name: flag for name, flag in zip(self.source, look.idle, strict=True) if flag is not None}
            step = joiner.take(Polled(look.now_ms, records, idle))
            examples += [example for block in step.blocks for example in decode_block(block)[1]]
        joiner.tell()
        return examples, joiner

    def learned(self, cut: int = 0) -> tuple[list[Example], int]:
        """What a trainer lets through that is stopped after so many records and goes on, and what it counts as sent twice or in vain."""
        blocks = [(offset, *decode_block(value)) for offset, value in enumerate(self.topic)]
        figures, found = IngestFigures(), list[Example]()
        partition = ExamplePartition()
        for part in (blocks[:cut], blocks[cut:]):
            partition.on_arrivals(BlockArrivals(0, NOW_MS, part, []), figures)
            found += [example for some in partition._held for example in some]
            partition._held.clear()
            state = msgspec.msgpack.encode(partition.snapshot())
            partition = ExamplePartition()
            partition.restore(msgspec.msgpack.decode(state, type=PartitionState))
        return found, figures.duplicate_examples

    def assert_as_if_nobody_had_died(self, cut: int = 0) -> None:
        expected, _ = self.uninterrupted()
        learned, in_vain = self.learned(cut)
        assert rows_of(learned) == rows_of(expected)  # none lost, none made up, in order
        assert len({identity_of(example) for example in learned}) == len(learned)
        appended = sum(len(decode_block(value)[1]) for value in self.topic)
        valid = sum(len(examples) for _, examples in self.valid())
        assert valid == len(learned)  # nothing that counts falls below the trainer's mark
        assert in_vain == appended - valid
        assert self.looks()[-1].ends == tuple(len(own) for own in self.source.values())
        for kept in self.kept:
            snapshot = msgspec.msgpack.decode(kept, type=JoinerSnapshot)
            _, joiner = self.uninterrupted(snapshot.examples_end)
            joiner.last = snapshot.last
            assert msgspec.msgpack.encode(joiner.snapshot(snapshot.examples_end)) == kept  # no void state, no other one


def rows_of(examples: Iterable[Example]) -> list[Any]:
    return [
        (*identity_of(one), one.kind, one.due_ms, one.click_ms, one.conversion_ms, one.converted, one.value)
        for one in examples
    ]


class Told:
    """What every law is told, under a short name: hypothesis writes down the arguments of a test that fails."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def world(self) -> World:
        return World(self.log)

    def __repr__(self) -> str:
        return "the log"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All kinds of mishap; blocks of few examples, so that most looks fill several. Every record moves its stream's clock."""
    yield from small_blocks(polled_log(tmp_path_factory.mktemp("takeover") / "log", alignment_ms=86_400_000, **TRAFFIC))


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The same with clicks and conversions so far apart, by this alignment, that one alone moves no clock."""
    yield from small_blocks(polled_log(tmp_path_factory.mktemp("takeover") / "log", **TRAFFIC))


TRAFFIC: dict[str, Any] = {"impressions": 240, "days": 1.0}


def small_blocks(log: Log) -> Iterator[Told]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.joiner.BLOCK_EXAMPLES", 6)
        patch.setattr("streaming.joiner.UNTOLD_LOOKS", 3)
        patch.setattr("streaming.takeover.PORTION_RECORDS", 50)
        yield Told(log)


def test_where_a_dead_worker_had_taken_a_stream_for_idle_nothing_that_follows_counts_as_sent_before(told: Told) -> None:
    #  impressions  |=========> read; clicks and conversions there, not read: taken for idle, and the watermark runs on without them
    #                          x  killed without a snapshot; who follows reads clicks, early ones among them, and would label them anew
    world = told.world()
    first = world.begin()
    first.idle([False, True, True])
    first.look([100, 0, 0])
    assert sum(len(examples) for _, examples in world.valid()) > 20
    second = world.begin()
    second.look([20, 10**6, 10**6])
    world.finish()
    world.assert_as_if_nobody_had_died()
    assert world.learned()[1] == 0


@pytest.mark.parametrize("parts", range(6))
def test_a_look_of_which_some_parts_are_there_is_ended_by_whoever_follows(told: Told, parts: int) -> None:
    world = told.world()
    first = world.begin()
    first.look([60, 20, 2])
    first.sends_left = parts
    with pytest.raises(KilledError):
        first.look([10**6] * 3)
    world.finish()
    world.assert_as_if_nobody_had_died()


def test_what_a_worker_that_slept_sends_is_void_and_it_lets_go_without_a_snapshot(told: Told) -> None:
    world = told.world()
    sleeper = world.begin()
    sleeper.look([60, 20, 2])
    sleeper.save()
    other = world.begin()
    other.look([30, 0, 0])
    other.idle([False, True, True])
    kept = len(world.kept)
    sleeper.look([90, 30, 5])
    assert (sleeper.worker.held, sleeper.worker.lost) == (frozenset(), {0})
    assert sleeper.worker.paused() == set(world.source)
    sleeper.look([1, 1, 1])  # passed over
    assert sleeper.worker.save() == {}
    assert len(world.kept) == kept
    other.look([10, 10, 1])
    assert other.worker.held == {0}  # what was void did not disturb it
    world.finish()
    world.assert_as_if_nobody_had_died()
    assert world.learned()[1] > 0
    sleeper.worker.drop()
    assert sleeper.worker.lost == sleeper.worker.paused() == frozenset()


def test_a_claim_that_comes_late_takes_p_away_and_who_holds_it_again_reads_once_more_what_was_void(told: Told) -> None:
    world = told.world()
    holder = world.begin()
    holder.look([60, 20, 2])
    world.topic.append(encode_claim(0))  # by one that fell asleep before it claimed, and holds nothing
    holder.look([20, 10, 1])
    assert holder.worker.lost == {0}
    holder.look([5, 5, 0])  # given by the client, which will not give it again
    at = dict(holder.at)
    holder.worker.hold(0)
    assert (holder.worker.held, holder.worker.lost) == ({0}, frozenset())
    assert holder.worker._held[0].joiner.ends() == (60, 20, 2)
    holder.at = at
    holder.look([1, 0, 0])
    assert dict(zip(world.source, holder.worker._held[0].joiner.ends(), strict=True)) == holder.at
    world.finish()
    world.assert_as_if_nobody_had_died()


def test_what_was_void_is_read_once_more_though_nothing_more_comes(told: Told) -> None:
    world = told.world()
    holder = world.begin()
    world.topic.append(encode_claim(0))
    holder.look([10**6] * 3)
    holder.worker.hold(0)
    holder.idle([True] * 3)
    holder.save()
    world.finish()
    world.assert_as_if_nobody_had_died()


def test_it_begins_anew_where_group_and_snapshots_are_gone_and_so_is_what_they_had_read(told: Told) -> None:
    world = told.world()
    world.begin().look([60, 20, 2])
    world.first = dict.fromkeys(world.source, 10)  # expired
    sent = world.learned()[0]
    second = world.begin()
    assert second.worker._held[0].joiner.ends() == (10, 10, 10)
    second.look([20, 5, 1])
    third = world.begin(snapshot=-1)  # none yet: it does again what was done since
    assert third.worker._held[0].joiner.ends() == (30, 15, 11)
    third.look([10**6] * 3)
    third.idle([True] * 3)
    learned, _ = world.learned()
    assert len({identity_of(example) for example in learned}) == len(learned) > len(sent)


def test_of_what_is_done_again_the_lines_of_the_last_look_alone_are_sent_again(told: Told) -> None:
    world = told.world()
    first = world.begin()
    looks = ([60, 20, 2], [60, 10, 2], [60, 5, 5])
    for counts in looks:
        first.lines.clear()
        first.look(counts)
    second = world.begin()
    assert second.lines == first.lines != []


def test_blocks_that_have_expired_undone_are_told(told: Told) -> None:
    world = told.world()
    first = world.begin()
    first.look([60, 20, 2])
    first.save()
    first.look([20, 5, 2])
    world.first[f"{world.settings.kafka.topic('examples')}[0]"] = len(world.topic)
    with pytest.raises(JoinError, match=r"examples\[0\]: reading was to go on at offset \d+, .* have expired unread"):
        world.begin()


def test_brokers_that_do_not_say_where_they_append_are_not_believed(told: Told) -> None:
    class Mute(Desk):
        says = 0

        def end(self, stem: str, partition: int) -> int | None:
            return self.says

    world = told.world()
    desk = Mute(world)
    with pytest.raises(JoinError, match=r"examples\[0\]: the brokers do not say where they have appended"):
        desk.hold()
    desk.says = len(world.topic) + 1
    desk.hold()
    with pytest.raises(JoinError, match=r"blocks were appended from \d+ on, and the brokers say they end at \d+"):
        desk.look([60, 20, 2])


def test_it_is_not_taken_over_where_blocks_of_others_were_joined_otherwise(told: Told) -> None:
    model, _ = told.log
    windows = msgspec.structs.replace(model.windows, click_window_ms=model.windows.click_window_ms // 2)
    world = told.world()
    world.settings = msgspec.structs.replace(model, windows=windows)
    first = world.begin()
    first.look([60, 20, 2])
    first.idle([True] * 3)
    world.settings = model
    with pytest.raises(JoinError, match=r"what is joined anew from .* is not what was appended there before"):
        world.begin()


counts = st.tuples(st.integers(0, 60), st.integers(0, 25), st.integers(0, 6))
acts = st.one_of(
    st.tuples(st.just("look"), counts),
    st.tuples(st.just("look"), counts),
    st.tuples(st.just("idle"), st.tuples(st.booleans(), st.booleans(), st.booleans())),
    st.tuples(st.just("save"), st.none()),
)
whos = st.integers(0, 3)
events = st.one_of(
    st.tuples(st.just("do"), whos, acts),
    st.tuples(st.just("do"), whos, acts),
    st.tuples(st.just("kill"), whos, acts, st.integers(0, 6)),
    st.tuples(st.just("begin"), st.integers(-4, -1)),
    st.tuples(st.just("begin while"), whos, acts, st.integers(0, 5), st.integers(-3, -1)),
    st.tuples(st.just("begin dying"), st.integers(-3, -1), st.integers(0, 3)),
    st.tuples(st.just("wake while"), whos, acts, st.integers(0, 5), acts),
    st.tuples(st.just("claim while"), whos, acts, st.integers(0, 5)),
    st.tuples(st.just("hold again"), whos),
    st.tuples(st.just("append twice"), st.integers(1, 4)),
)


def act(desk: Desk, what: tuple[str, Any]) -> None:
    name, argument = what
    getattr(desk, name)(*([] if argument is None else [argument]))


def play(world: World, event: tuple[Any, ...]) -> None:
    """Lets something happen; who is named by number, the newest worker that is alive first."""
    what, *rest = event
    if what == "begin":
        world.begin(rest[0])
        return
    if what == "append twice":
        world.topic.append(world.topic[-min(rest[0], len(world.topic))])
        return
    if what == "begin dying":
        desk = Desk(world, snapshot=rest[0])
        desk.sends_left = rest[1]
        try:
            desk.hold()
        except KilledError:
            return
        desk.sends_left = None
        world.desks.append(desk)
        return
    alive = [desk for desk in world.desks if not desk.is_dead][::-1]
    if not alive:
        return
    desk = alive[rest[0] % len(alive)]
    if what == "hold again":
        if desk.worker.lost:
            at = dict(desk.at)
            desk.worker.hold(0)
            desk.at = at
        return
    if what == "kill":
        desk.sends_left = rest[2]
    elif what == "begin while":
        desk.before_send = rest[2], lambda: play(world, ("begin", rest[3]))
    elif what == "wake while" and len(alive) > 1:
        other = alive[(rest[0] + 1) % len(alive)]
        desk.before_send = rest[2], lambda: act(other, rest[3])
    elif what == "claim while":
        desk.before_send = rest[2], lambda: world.topic.append(encode_claim(0))
    try:
        act(desk, rest[1])
    except KilledError:
        desk.is_dead = True
    desk.before_send = None
    desk.is_dead = desk.is_dead or what == "kill"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.lists(events, max_size=14), st.integers(0, 60))
def test_whoever_dies_sleeps_and_wakes_up_when_it_is_as_if_one_had_done_it_all(
    told: Told, thin: Told, is_thin: bool, happenings: list[tuple[Any, ...]], cut: int
) -> None:
    world = (thin if is_thin else told).world()
    world.begin()
    for event in happenings:
        play(world, event)
    last = world.finish()
    for desk in world.desks:
        if not desk.is_dead:
            desk.look([3, 3, 3])  # sleepers wake up
            desk.idle([True, True, True])
            desk.save()
    assert last.worker.held == {0}
    world.assert_as_if_nobody_had_died(cut)
