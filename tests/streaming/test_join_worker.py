"""What a worker does with the partitions it holds: takes them over, reads what its client passes over, keeps things in an order that a crash may cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pytest
from brokers import replaced
from polled_logs import NOW_MS, polled_log

from streaming.example_blocks import decode_block
from streaming.join_ports import JoinError
from streaming.join_worker import JoinWorker
from streaming.joiner import JoinerSnapshot, identity_of
from streaming.live import start_places
from streaming.records import PolledRecord
from streaming.settings import Settings

Records = dict[str, list[PolledRecord]]


class Broker:
    """Topics in memory: where they begin, what is in them, what the group has committed; and who asked for what, in order."""

    def __init__(self, records: Records, model: str) -> None:
        self.source, self.examples, self.model = records, list[bytes](), model
        self.side: list[tuple[str, bytes]] = []
        self.first = dict.fromkeys(records, 0)
        self.last = {name: len(some) for name, some in records.items()}
        self.commits: dict[str, int] = {}
        self.done: list[str] = []

    def send(self, stem: str, value: bytes | None, *, key: bytes | None = None, partition: int | None = None) -> None:
        assert (stem, partition) == ("examples", 0)
        self.examples.append(value or b"")

    def append(self, stem: str, data: bytes) -> None:
        self.side.append((stem, data))

    def flush(self) -> None:
        self.done.append("flush")

    def end(self, stem: str, partition: int) -> int | None:
        return len(self.examples) or None

    def partitions(self) -> int:
        return 1

    def committed(self, names: Collection[str]) -> dict[str, int | None]:
        return {name: self.commits.get(name) for name in names}

    def bounds(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        examples = f"{self.model}.examples[0]"
        return {
            name: (0, len(self.examples)) if name == examples else (self.first[name], self.last[name]) for name in names
        }

    def ends(self, names: Collection[str]) -> dict[str, int]:
        return {name: self.last[name] for name in names}

    def records(self, name: str, start: int, end: int) -> Iterator[PolledRecord]:
        if name in self.source:
            return (record for record in self.source[name] if start <= record[0] < end)
        return ((offset, None, self.examples[offset]) for offset in range(start, end))


class Store:
    """Keeps snapshots in memory."""

    def __init__(self, broker: Broker) -> None:
        self.kept: list[JoinerSnapshot] = []
        self._broker = broker

    def write(self, snapshot: JoinerSnapshot, names: Iterable[str]) -> str:
        self._broker.done.append("snapshot")
        self.kept.append(snapshot)
        return ""

    def newest(self, p: int, committed: Mapping[str, int | None], names: Iterable[str]) -> JoinerSnapshot | None:
        return self.kept[-1] if self.kept else None


class World:
    """A worker, and all that is around it."""

    def __init__(self, log: tuple[Settings, Records]) -> None:
        self.settings, records = log
        self.broker = Broker(records, self.settings.kafka.model)
        self.store = Store(self.broker)
        self.steps: list[int] = []
        self.impressions, self.clicks, self.conversions = records

    def worker(self) -> JoinWorker:
        worker = JoinWorker(
            self.settings, sink=self.broker, offsets=self.broker, snapshots=self.store, at_step=self.steps.append
        )
        worker.hold(0)
        return worker

    def give(self, worker: JoinWorker, share: tuple[float, float]) -> None:
        a, b = share
        some = {name: own[int(a * len(own)) : int(b * len(own))] for name, own in self.broker.source.items()}
        worker.take({name: own for name, own in some.items() if own}, NOW_MS)

    def identities(self) -> list[Any]:
        return [identity_of(example) for block in self.broker.examples for example in decode_block(block)[1]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Records]:
    path = tmp_path_factory.mktemp("worker") / "log"
    return polled_log(path, impressions=300, days=1.0, late_share=0.0, future_share=0.0)


@pytest.fixture
def world(log: tuple[Settings, Records]) -> World:
    return World((log[0], {name: list(some) for name, some in log[1].items()}))


def test_a_worker_that_takes_over_emits_what_is_missing_and_nothing_twice(world: World) -> None:
    whole = World((world.settings, world.broker.source))
    whole.give(whole.worker(), (0.0, 1.0))

    first = world.worker()
    world.give(first, (0.0, 0.4))
    offsets = first.save()
    world.give(
        first, (0.4, 0.7)
    )  # it dies; the broker gives its successor what is past the commit, and what was committed before, once more
    second = world.worker()
    world.give(second, (0.2, 1.0))
    assert offsets[world.impressions] == int(0.4 * len(world.broker.source[world.impressions]))
    assert sorted(world.identities()) == sorted(whole.identities())
    assert len(set(world.identities())) == len(world.identities())


def test_examples_are_acknowledged_before_the_snapshot_and_that_is_written_before_the_commit(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 0.5))
    world.broker.done.clear()
    offsets = worker.save()
    assert (world.broker.done, world.steps) == (["flush", "snapshot"], [1, 2, 3])
    assert offsets == {name: len(own) // 2 for name, own in world.broker.source.items()}
    assert world.store.kept[-1].examples_end == len(world.broker.examples)
    assert worker.save() == {}  # nothing has happened since


def test_what_takes_no_part_goes_to_the_topic_of_its_door(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 1.0))
    doors = {stem for stem, _ in world.broker.side}
    assert doors == {"dead-letters"}
    assert any(b'"door":"orphans"' in line for _, line in world.broker.side)


@pytest.mark.parametrize("most", [1, 7, 5_000])
def test_records_that_a_client_passes_over_are_read_all_the_same(world: World, most: int) -> None:
    whole = World((world.settings, world.broker.source))
    whole.give(whole.worker(), (0.0, 1.0))

    world.settings = replaced(world.settings, max_poll_records=most)
    worker = world.worker()
    world.give(worker, (0.2, 0.5))
    world.give(worker, (0.6, 0.7))
    offsets = worker.save()
    assert offsets == {name: int(0.7 * len(own)) for name, own in world.broker.source.items()}
    world.give(worker, (0.7, 1.0))
    assert sorted(world.identities()) == sorted(whole.identities())
    assert len(set(world.identities())) == len(world.identities())


def test_records_that_a_client_passes_over_and_that_have_expired_are_told(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 0.5))
    world.broker.first[world.clicks] = int(0.55 * len(world.broker.source[world.clicks]))
    with pytest.raises(JoinError, match=r"clicks\[0\]: reading was to go on .* have expired unread"):
        world.give(worker, (0.6, 0.7))


def test_where_a_transaction_ended_there_is_no_record_and_nothing_is_lost(world: World) -> None:
    worker = world.worker()
    own = world.broker.source[world.clicks]
    gone = own.pop(20)[0]
    worker.take({world.clicks: own[:20]}, NOW_MS)
    worker.take({world.clicks: own[20:30]}, NOW_MS)
    assert own[20][0] == gone + 1


def test_records_that_expired_unread_are_told(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 0.5))
    worker.save()
    world.broker.first[world.clicks] = len(world.broker.source[world.clicks]) - 1
    with pytest.raises(JoinError, match=r"clicks\[0\]: reading was to go on .* have expired unread"):
        world.worker()
    world.broker.first[world.clicks] = world.broker.last[world.clicks] = 0
    with pytest.raises(JoinError, match="it is not the topic that was read"):
        world.worker()


def test_a_topic_of_examples_that_holds_something_else_is_refused(world: World) -> None:
    world.broker.examples.append(b"{}")
    with pytest.raises(JoinError, match=r"examples\[0\]@0 is no block of examples"):
        world.worker()


def test_a_stream_is_idle_once_nothing_but_the_end_of_a_transaction_is_left(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 1.0))
    for name in world.broker.last:
        world.broker.last[name] += 1
    for now_ms in (0, 1_000, 40_000):
        worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=now_ms)
    assert worker.metrics().partitions[0].watermark_ms == decode_block(world.broker.examples[-1])[0].watermark_ms
    held = worker._held[0]
    assert list(held.idleness._is_idle.values()) == [True, True, True]


def test_a_record_that_is_there_and_does_not_come_keeps_a_stream_busy_and_then_ends_the_worker(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 0.9))
    for now_ms in (0, 1_000, 40_000):
        worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=now_ms)
    assert not any(worker._held[0].idleness._is_idle.values())
    worker.look(paused=list(world.broker.source), now_ms=NOW_MS, monotonic_ms=50_000)  # we do not read: no wonder
    worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=100_000)
    with pytest.raises(JoinError, match="nothing has come for 60 s, and there is a record"):
        worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=170_001)


def test_it_says_whether_the_brokers_are_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = world.worker()
    with monkeypatch.context() as patch:
        patch.setattr(type(world.broker), "ends", lambda broker, names: {})
        worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=0)
        assert worker.metrics().is_broker_away
    worker.look(paused=(), now_ms=NOW_MS, monotonic_ms=1)
    assert not worker.metrics().is_broker_away


def test_what_it_counts_is_of_all_that_it_holds_and_held(world: World) -> None:
    worker = world.worker()
    world.give(worker, (0.0, 1.0))
    before = worker.metrics()
    assert before.events["impression"] > 200
    assert before.open_impressions >= 0
    worker.drop()
    after = worker.metrics()
    assert (after.events, after.examples, after.partitions) == (before.events, before.examples, {})
    assert worker.held == frozenset()
    world.give(worker, (0.0, 1.0))  # of a partition that is not held: passed over
    assert worker.metrics().events == before.events


def test_places_start_at_the_first_offsets_there_are(world: World) -> None:
    for name in world.broker.first:
        world.broker.first[name] = 5
    worker = world.worker()
    assert worker._held[0].joiner.places == start_places(dict.fromkeys(world.broker.first, 5))
