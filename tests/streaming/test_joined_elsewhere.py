"""Examples that come from joiners: learned once each, in batches that do not depend on how they came."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from joined_elsewhere import blocks_of
from worlds import HOUR_MS, small_log, small_settings

from streaming.deliveries import IngestState
from streaming.example_blocks import Block, Told, decode_block, encode_block, encode_claim
from streaming.examples import Examples
from streaming.ingest import Ingest
from streaming.live import Polled
from streaming.log_file import Place
from streaming.partitions import ExamplePartition
from streaming.polled_blocks import BlockSource
from streaming.settings import Settings

P = 3
Key = tuple[str, int, int]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("elsewhere") / "log", impressions=3_000, days=2.0)


@pytest.fixture(scope="module")
def settings(log: Path) -> Settings:
    return small_settings(log, labels={"method": "survival"}, cuts={"cut_interval_ms": 2 * HOUR_MS})


@pytest.fixture(scope="module")
def blocks(log: Path, settings: Settings) -> list[list[bytes]]:
    return blocks_of(log, settings, P)


class DealtPolls:
    """Blocks by partition, some of each at a time; nothing of what is paused."""

    def __init__(self, blocks: list[list[bytes]], topic: str, places: dict[str, Place], seed: int, most: int) -> None:
        self._rng, self._most = random.Random(seed), most
        self._blocks = {f"{topic}[{p}]": own for p, own in enumerate(blocks)}
        self._at = {name: places[name].line for name in self._blocks}
        self.paused_once = False
        self._looks_left = 1

    def poll(self, paused: frozenset[str]) -> Polled | None:
        if all(self._at[name] >= len(own) for name, own in self._blocks.items()):
            self._looks_left -= 1  # nothing more comes, and that is seen
            return Polled(1_000, {}, {}) if self._looks_left >= 0 else None
        records = {}
        for name, own in self._blocks.items():
            self.paused_once |= name in paused
            at, count = self._at[name], 0 if name in paused else self._rng.randint(0, self._most)
            if own[at : at + count]:
                records[name] = [(at + n, None, value) for n, value in enumerate(own[at : at + count])]
                self._at[name] = min(at + count, len(own))
        return Polled(1_000, records, {})


def ingest_of(
    blocks: list[list[bytes]], settings: Settings, *, seed: int, most: int = 4, state: IngestState | None = None
) -> Iterator[tuple[list[tuple[Key, ...]], IngestState | None, Ingest]]:
    topic = settings.kafka.topic("examples")
    places = {f"{topic}[{p}]": Place(line=0) for p in range(P)} if state is None else state.places
    source = BlockSource(DealtPolls(blocks, topic, places, seed, most), settings, partitions=P, places=places)
    ingest = Ingest(settings, source, partition_of=lambda p: ExamplePartition())
    if state is not None:
        ingest.restore(state)
    for delivery in ingest.deliveries():
        yield [keys_of(group.examples) for group in delivery.groups], delivery.cut, ingest


def keys_of(examples: Examples) -> tuple[Key, ...]:
    return tuple((one.impression.impression_id, one.slot, one.due_ms) for one in examples)


def batches_of(blocks: list[list[bytes]], settings: Settings, *, seed: int, most: int = 4) -> list[tuple[Key, ...]]:
    return [batch for batches, _, _ in ingest_of(blocks, settings, seed=seed, most=most) for batch in batches]


def all_of(blocks: list[list[bytes]]) -> list[Key]:
    return [key for own in blocks for block in own for key in keys_of(decode_block(block)[1])]


def test_every_example_comes_once_in_order_of_due_time(blocks: list[list[bytes]], settings: Settings) -> None:
    batches = batches_of(blocks, settings, seed=0)
    found = [key for batch in batches for key in batch]
    assert Counter(found) == Counter(all_of(blocks))
    assert len(found) > 3_000
    dues = [due_ms for *_, due_ms in found]
    assert dues == sorted(dues)


@pytest.mark.parametrize("seed", range(1, 5))
def test_batches_do_not_depend_on_how_blocks_come(blocks: list[list[bytes]], settings: Settings, seed: int) -> None:
    assert batches_of(blocks, settings, seed=seed, most=1 + 5 * seed) == batches_of(blocks, settings, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_what_a_joiner_sends_again_is_learned_once(blocks: list[list[bytes]], settings: Settings, seed: int) -> None:
    rng = random.Random(seed)
    again = [_resent(own, rng) for own in blocks]
    found = [key for batch in batches_of(again, settings, seed=seed) for key in batch]
    assert Counter(found) == Counter(all_of(blocks))
    *_, (_, _, ingest) = ingest_of(again, settings, seed=seed)
    assert ingest._figures.duplicate_examples == len(all_of(again)) - len(all_of(blocks))
    assert ingest._figures.duplicate_examples > 0


def _resent(own: list[bytes], rng: random.Random) -> list[bytes]:
    """All blocks in order, and among them stretches of what had been sent before, cut into other blocks too."""
    claim, *rest = own
    sent: list[tuple[Block, Examples]] = []
    for number, value in enumerate(rest):
        sent.append(decode_block(value))
        if rng.random() < 0.1:
            for old in rest[max(0, number - rng.randint(0, 6)) : number + 1]:
                block, examples = decode_block(old)
                cut = rng.randint(0, len(examples))
                sent += [(block, examples[:cut]), (block, examples[cut:])]
    return [claim, *(_numbered(block, examples, number) for number, (block, examples) in enumerate(sent, 1))]


def _numbered(block: Block, examples: Examples, number: int) -> bytes:
    told = Told(0, number)
    return encode_block(block.p, examples, watermark_ms=block.watermark_ms, is_idle=block.is_idle, told=told)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_void_is_not_learned(blocks: list[list[bytes]], settings: Settings, seed: int) -> None:
    rng = random.Random(seed)
    spoiled = []
    for own in blocks:
        taken = rng.randint(1, len(own) - 1)
        before, after = own[:taken], [_again(value, taken, number) for number, value in enumerate(own[taken:], 1)]
        sent = [*before, encode_claim(decode_block(own[0])[0].p)]
        for value in after:
            sent += [_ahead(rng.choice(own[1:]), taken + rng.randint(0, 9)), value]
        spoiled.append(sent)
    found = [key for batch in batches_of(spoiled, settings, seed=seed) for key in batch]
    assert Counter(found) == Counter(all_of(blocks))


def _again(value: bytes, claimed_at: int, number: int) -> bytes:
    block, examples = decode_block(value)
    told = Told(claimed_at, number)
    return encode_block(block.p, examples, watermark_ms=block.watermark_ms, is_idle=block.is_idle, told=told)


def _ahead(value: bytes, number: int) -> bytes:
    """Of one that slept, and has come to think of a far watermark."""
    block, examples = decode_block(value)
    far_ms = (block.watermark_ms or 0) + HOUR_MS
    return encode_block(block.p, examples, watermark_ms=far_ms, is_idle=True, told=Told(0, number))


def test_one_that_is_idle_is_not_waited_for(blocks: list[list[bytes]], settings: Settings) -> None:
    idle = encode_block(0, Examples.of([]), watermark_ms=1, is_idle=True, told=Told(0, 1))
    found = batches_of([[blocks[0][0], idle], *blocks[1:]], settings, seed=0)
    assert Counter(key for batch in found for key in batch) == Counter(all_of(blocks[1:]))


def test_cut_anywhere_it_goes_on_alike(blocks: list[list[bytes]], settings: Settings) -> None:
    whole = batches_of(blocks, settings, seed=0)
    learned = 0
    states = []
    for batches, cut, _ in ingest_of(blocks, settings, seed=3):
        learned += len(batches)
        if cut is not None:
            states.append((learned, msgspec.msgpack.decode(msgspec.msgpack.encode(cut), type=IngestState)))
    assert len(states) > 10
    for count, state in states:
        rest = [batch for batches, _, _ in ingest_of(blocks, settings, seed=count, state=state) for batch in batches]
        assert whole[:count] + rest == whole


def test_one_that_is_far_ahead_is_not_read_on(blocks: list[list[bytes]], settings: Settings) -> None:
    topic = settings.kafka.topic("examples")
    places = {f"{topic}[{p}]": Place(line=0) for p in range(P)}
    polls = DealtPolls(blocks, topic, places, 0, 4)
    for _ in Ingest(
        settings, BlockSource(polls, settings, partitions=P, places=places), partition_of=lambda p: ExamplePartition()
    ).deliveries():
        pass
    assert polls.paused_once


def test_what_is_no_block_becomes_a_dead_letter(blocks: list[list[bytes]], settings: Settings) -> None:
    spoiled = [[*own[:3], b"garbage", *own[3:]] for own in blocks]
    spoiled[1].insert(5, blocks[0][0])  # of another partition
    topic = settings.kafka.topic("examples")
    places = {f"{topic}[{p}]": Place(line=0) for p in range(P)}
    source = BlockSource(DealtPolls(spoiled, topic, places, 0, 4), settings, partitions=P, places=places)
    ingest = Ingest(settings, source, partition_of=lambda p: ExamplePartition())
    lines = [line for delivery in ingest.deliveries() for _, line in delivery.lines]
    told = [msgspec.json.decode(line) for line in lines]
    assert sorted(row["at"] for row in told) == [f"{topic}[0]@3", f"{topic}[1]@3", f"{topic}[1]@5", f"{topic}[2]@3"]
    assert {row["reason"].split(":")[0] for row in told} == {"no block of examples", "a block of join partition 0"}
    assert ingest._figures.side_outputs == {"dead_letters": {"block": 4}}
