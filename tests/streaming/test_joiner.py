"""A join partition as a value machine: however its records are divided into looks, cut and read anew, the same examples leave, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polled_logs import looks_of, polled_log, split_at

from streaming.example_blocks import decode_block
from streaming.examples import Examples
from streaming.joiner import BLOCK_EXAMPLES, Joiner, JoinerSnapshot, identity_of
from streaming.live import Polled, start_places
from streaming.records import PolledRecord
from streaming.settings import Settings, SettingsError

Log = tuple[Settings, dict[str, list[PolledRecord]]]


class Told:
    """What every test is told, under a short name: hypothesis writes down the arguments of a test that fails."""

    def __init__(self, log: Log) -> None:
        self.log, self.whole = log, fed(joiner_of(*log), looks_of(log[1]))

    def __repr__(self) -> str:
        return "the log"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The records of one partition: all kinds of mishap, but none later than the bound."""
    path = tmp_path_factory.mktemp("joiner") / "log"
    return Told(polled_log(path, impressions=300, days=1.0, late_share=0.0, future_share=0.0))


def joiner_of(model: Settings, records: dict[str, list[PolledRecord]]) -> Joiner:
    joiner = Joiner(model, p=0, partitions=1, places=start_places(dict.fromkeys(records, 0)))
    joiner.last = 0, 0
    return joiner


def examples_of(blocks: list[bytes]) -> list[Any]:
    return [
        (
            identity_of(one),
            one.kind,
            one.due_ms,
            one.click_ms,
            one.conversion_ms,
            one.converted,
            one.value,
            bytes(one.impression.features),
        )
        for block in blocks
        for one in decode_block(block)[1]
    ]


def fed(joiner: Joiner, looks: list[Polled]) -> tuple[list[bytes], list[tuple[str, bytes]]]:
    blocks: list[bytes] = []
    lines: list[tuple[str, bytes]] = []
    for look in looks:
        step = joiner.take(look)
        blocks += step.blocks
        lines += step.lines
    return blocks, lines


def places_of(lines: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """By which door a record left; which watermark it met, its line says too, and that depends on the looks."""
    return sorted((door, msgspec.json.decode(line)["at"]) for door, line in lines)


cuts = st.lists(st.floats(0, 1), max_size=12)


@settings(max_examples=15, deadline=None)
@given(cuts)
def test_however_it_is_divided_into_looks_the_same_examples_leave_in_the_same_order(
    told: Told, at: list[float]
) -> None:
    model, records = told.log
    blocks, lines = fed(joiner_of(model, records), split_at(records, at))
    expected, expected_lines = told.whole
    assert examples_of(blocks) == examples_of(expected)
    assert len(examples_of(blocks)) > 300
    assert places_of(lines) == places_of(expected_lines)
    assert decode_block(blocks[-1])[0].watermark_ms == decode_block(expected[-1])[0].watermark_ms


@settings(max_examples=15, deadline=None)
@given(cuts, st.integers(0, 12))
def test_cut_anywhere_it_goes_on_as_if_nothing_had_been(told: Told, at: list[float], cut: int) -> None:
    model, records = told.log
    looks = split_at(records, at)
    whole = joiner_of(model, records)
    expected, _ = fed(whole, looks)
    first = joiner_of(model, records)
    blocks, _ = fed(first, looks[:cut])
    blocks += first.tell()
    kept = msgspec.msgpack.encode(first.snapshot(examples_end=len(blocks)))

    second = joiner_of(model, records)
    second.restore(msgspec.msgpack.decode(kept, type=JoinerSnapshot))
    blocks += fed(second, looks[cut:])[0]
    assert examples_of(blocks) == examples_of(expected)
    for joiner in (whole, second):
        joiner.tell()
        joiner.last = 0, 0  # one has sent a block more
    assert second.snapshot(0) == whole.snapshot(0)


@settings(max_examples=15, deadline=None)
@given(cuts)
def test_its_blocks_tell_every_look_once_and_where_each_ended(told: Told, at: list[float]) -> None:
    model, records = told.log
    looks = split_at(records, at)
    joiner = joiner_of(model, records)
    blocks = fed(joiner, looks)[0] + joiner.tell()
    said = [decode_block(block)[0].told for block in blocks]
    assert all(one.claimed_at == 0 for one in said)
    assert [look.now_ms for one in said for look in one.looks] == [look.now_ms for look in looks]
    ends = (0, 0, 0)
    for one in said:
        if one.looks:
            assert one.starts == ends
            ends = one.looks[-1].ends
    assert ends == tuple(len(some) for some in records.values())
    assert joiner.tell() == []


def test_looks_that_lead_to_nothing_are_told_when_there_are_many(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.joiner.UNTOLD_LOOKS", 4)
    joiner = joiner_of(*told.log)
    looks = [Polled(number, {}, {}) for number in range(9)]
    blocks = fed(joiner, looks)[0]
    assert [len(decode_block(block)[0].told.looks) for block in blocks] == [4, 4]
    assert len(joiner.tell()) == 1


def test_a_watermark_is_told_with_the_last_of_what_is_due_before_it(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.joiner.BLOCK_EXAMPLES", 7)
    assert BLOCK_EXAMPLES > 7
    expected = examples_of(told.whole[0])
    reached_ms: int | None = None
    joiner = joiner_of(*told.log)
    blocks, _ = fed(joiner, split_at(told.log[1], [0.4]))
    assert examples_of(blocks) == expected
    for data in blocks:
        block, examples = decode_block(data)
        assert len(examples) <= 7
        if reached_ms is not None and len(examples):
            assert min(examples.due_ms) >= reached_ms
        reached_ms = block.watermark_ms


def test_it_is_not_taken_over_under_other_settings_or_partitions(told: Told, tmp_path: Path) -> None:
    model, records = told.log
    snapshot = joiner_of(model, records).snapshot(0)
    other = msgspec.structs.replace(model, windows=msgspec.structs.replace(model.windows, click_window_ms=600_000))
    with pytest.raises(SettingsError, match=r"windows\.click_window_ms: \d+ != 600000"):
        joiner_of(other, records).restore(snapshot)
    with pytest.raises(SettingsError, match="over 1 partitions, the topics have 2: keys have moved"):
        Joiner(model, p=0, partitions=2, places={}).restore(snapshot)
    oracle = msgspec.structs.replace(model, labels=msgspec.structs.replace(model.labels, method="oracle"))
    with pytest.raises(SettingsError, match="looks into the future"):
        joiner_of(oracle, records)


def test_identity_is_of_the_impression_and_the_slot(told: Told) -> None:
    examples = Examples.joined([decode_block(block)[1] for block in told.whole[0]])
    identities = [identity_of(example) for example in examples]
    assert len(set(identities)) == len(identities)
