"""What goes over the `examples` topic comes back as it was, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from fakes import ListLog
from test_wire import plain
from worlds import lines_of, small_log, small_settings

from streaming.example_blocks import FORMAT, BlockError, Look, Tenure, Told, decode_block, encode_block, encode_claim
from streaming.examples import Examples
from streaming.ingest import Ingest


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log", impressions=800, days=1.0)
    settings = small_settings(log)
    for delivery in Ingest(settings, ListLog(lines_of(log), settings)).deliveries():
        for group in delivery.groups:
            told = Told(7, 4, (1, 2, 3), (Look(5, (4, 2, 3), (None, False, True)),))
            data = encode_block(3, group.examples, watermark_ms=group.at_ms, is_idle=True, held_ms=5, told=told)
            block, examples = decode_block(data)
            assert plain(examples) == plain(group.examples)
            assert (block.p, block.watermark_ms, block.is_idle, block.held_ms) == (3, group.at_ms, True, 5)
            assert block.told == told


def test_one_without_examples_says_how_far_p_has_come() -> None:
    block, examples = decode_block(encode_block(0, Examples.of([]), watermark_ms=None, is_idle=False, told=Told(0, 1)))
    assert (block.watermark_ms, len(examples)) == (None, 0)


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(BlockError, match="no block of examples"):
        decode_block(b'{"impression_id":"a"}')
    block, _ = decode_block(encode_block(0, Examples.of([]), watermark_ms=1, is_idle=False, told=Told(0, 1)))
    with pytest.raises(BlockError, match=f"format {FORMAT + 1}, this version reads {FORMAT}"):
        decode_block(msgspec.msgpack.encode(msgspec.structs.replace(block, format=FORMAT + 1)))
    old = [1, *msgspec.msgpack.decode(encode_claim(0))[1:6]]  # as the version before wrote them
    with pytest.raises(BlockError, match=f"format 1, this version reads {FORMAT}"):
        decode_block(msgspec.msgpack.encode(old))


def test_a_claim_holds_nothing_and_may_say_where_p_begins_anew() -> None:
    for starts in ((), (4, 5, 6)):
        block, examples = decode_block(encode_claim(2, starts))
        assert (block.p, block.told, len(examples)) == (2, Told(None, 0, starts), 0)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param("C 0.1 0.2 C 0.3 3.1 C 3.2 6.1", "yyyynyyny", id="what stands behind a newer claim is void"),
        pytest.param("5.7 5.8 3.9 C 5.9", "yynyn", id="read from the middle, blocks tell of claims too"),
        pytest.param("C C 0.1 1.1", "yyny", id="a claim after a claim"),
        pytest.param("C 0.1 0.1 0.2 0.1 0.2 0.3", "yynynny", id="what a client appended twice is void"),
    ],
)
def test_who_holds_it_is_whoever_claimed_it_last(sent: str, expected: str) -> None:
    tenure = Tenure()
    told = [Told(None, 0) if one == "C" else Told(*map(int, one.split("."))) for one in sent.split()]
    start = 0 if told[0].claimed_at is None else 20
    assert "".join("ny"[tenure.admits(start + at, one)] for at, one in enumerate(told)) == expected
