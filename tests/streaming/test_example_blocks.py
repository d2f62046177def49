"""What goes over the `examples` topic comes back as it was, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from fakes import ListLog
from test_wire import plain
from worlds import lines_of, small_log, small_settings

from streaming.example_blocks import FORMAT, BlockError, decode_block, encode_block
from streaming.examples import Examples
from streaming.ingest import Ingest


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log", impressions=800, days=1.0)
    settings = small_settings(log)
    for delivery in Ingest(settings, ListLog(lines_of(log), settings)).deliveries():
        for group in delivery.groups:
            data = encode_block(3, group.examples, watermark_ms=group.at_ms, is_idle=True, held_ms=5)
            block, examples = decode_block(data)
            assert plain(examples) == plain(group.examples)
            assert (block.p, block.watermark_ms, block.is_idle, block.held_ms) == (3, group.at_ms, True, 5)


def test_one_without_examples_says_how_far_p_has_come() -> None:
    block, examples = decode_block(encode_block(0, Examples.of([]), watermark_ms=None, is_idle=False))
    assert (block.watermark_ms, len(examples)) == (None, 0)


def test_what_is_no_block_is_refused() -> None:
    with pytest.raises(BlockError, match="no block of examples"):
        decode_block(b'{"impression_id":"a"}')
    block, _ = decode_block(encode_block(0, Examples.of([]), watermark_ms=1, is_idle=False))
    with pytest.raises(BlockError, match=f"format {FORMAT + 1}, this version reads {FORMAT}"):
        decode_block(msgspec.msgpack.encode(msgspec.structs.replace(block, format=FORMAT + 1)))
