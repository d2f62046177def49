"""What a joiner sends to trainers, as the records of the `examples` topic. Must not know who sends or reads them.

Partition p of the topic holds what left join partition p, in the order in which it left, a block a record: examples, then how far p has
come by that. A block without examples says only the latter. Whoever reads p knows after each block: nothing that is due before its
watermark is still to come.
"""

from __future__ import annotations

import msgspec

from streaming.examples import Examples
from streaming.packed import PackedExamples, pack_examples, unpack_examples

FORMAT = 1


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A record of the topic, as msgpack.

    Args:
        format: of this structure. p: the join partition. examples: in the order in which they left.
        watermark_ms: of p, once they have; None before there is one. is_idle: whether nobody need wait for p.
        held_ms: event time that p holds back because a stream of it has stalled.
    """

    format: int
    p: int
    examples: PackedExamples
    watermark_ms: int | None
    is_idle: bool
    held_ms: int = 0


class BlockError(ValueError):
    """A record is no block; the message says why."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Block)


def encode_block(p: int, examples: Examples, *, watermark_ms: int | None, is_idle: bool, held_ms: int = 0) -> bytes:
    """A block as the value of a record."""
    return _ENCODER.encode(Block(FORMAT, p, pack_examples(examples), watermark_ms, is_idle, held_ms))


def decode_block(data: bytes) -> tuple[Block, Examples]:
    """A block, and its examples.

    Raises:
        BlockError: it is something else, or of another format.
    """
    try:
        block = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise BlockError(f"no block of examples: {error}") from error
    if block.format != FORMAT:
        raise BlockError(
            f"a block of format {block.format}, this version reads {FORMAT}: read it with the version that wrote it"
        )
    return block, unpack_examples(block.examples)
