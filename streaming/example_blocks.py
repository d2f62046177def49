"""What a joiner sends to trainers, as the records of the `examples` topic. Must not know who sends or reads them.

Partition p of the topic is the log of what the holders of join partition p did, a block a record:

    claim     C appended it, and holds p from there on
    block     examples in the order in which they left, then how far p has come by them; its first part tells the looks that led to it

A block tells the claim under which it was sent, and the how many-th under that it is. One that stands behind a newer claim is void, whoever sent it whenever, and so is one that a
client has appended twice: nobody learns it, nobody goes on from it.

    offset      0        1        2        3        4        5        6
                claim    block    block    claim    block    block    block
    claimed at           0        0                 3        0        3
                                                             void

Whoever reads p knows after each block that is not void: nothing that is due before its watermark is still to come.
"""

from __future__ import annotations

import msgspec

from streaming.examples import Examples
from streaming.packed import PackedExamples, pack_examples, unpack_examples

FORMAT = 2


class Look(msgspec.Struct, frozen=True, array_like=True):
    """A look at three streams, as far as it can be done again: the records themselves are in their topics.

    Args:
        now_ms: processing time.
        ends: how far each stream had been read after it, in the order of `RecordKind`.
        idle: of each stream, whether it became idle (true) or was so no longer (false); None if neither was told.
    """

    now_ms: int
    ends: tuple[int, ...]
    idle: tuple[bool | None, ...]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a holder of p tells of what it did.

    Args:
        claimed_at: the offset of its claim; None of a claim itself. number: of its blocks, from 1 on; 0 of the claim.
        starts: how far each stream had been read before the looks; of a claim: where p begins anew, without what was before. Empty if there is nothing to say.
        looks: those that led to the examples of this block and of the blocks behind it that tell none.
    """

    claimed_at: int | None
    number: int
    starts: tuple[int, ...] = ()
    looks: tuple[Look, ...] = ()


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A record of the topic, as msgpack.

    Args:
        format: of this structure. p: the join partition. examples: in the order in which they left.
        watermark_ms: of p, once they have; None before there is one. is_idle: whether nobody need wait for p.
        held_ms: event time that p holds back because a stream of it has stalled.
        told: by whom, and what led to it.
    """

    format: int
    p: int
    examples: PackedExamples
    watermark_ms: int | None
    is_idle: bool
    held_ms: int
    told: Told


class BlockError(ValueError):
    """A record is no block; the message says why."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Block)


def encode_block(
    p: int, examples: Examples, *, watermark_ms: int | None, is_idle: bool, held_ms: int = 0, told: Told
) -> bytes:
    """A block as the value of a record."""
    return _ENCODER.encode(Block(FORMAT, p, pack_examples(examples), watermark_ms, is_idle, held_ms, told))


def encode_claim(p: int, starts: tuple[int, ...] = ()) -> bytes:
    """A claim as the value of a record; `starts` if p begins anew."""
    return encode_block(p, Examples.of([]), watermark_ms=None, is_idle=False, told=Told(None, 0, starts))


def decode_block(data: bytes) -> tuple[Block, Examples]:
    """A block, and its examples.

    Raises:
        BlockError: it is something else, or of another format.
    """
    try:
        block = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        found = _format_of(data)
        if found is not None and found != FORMAT:
            raise BlockError(_other_format(found)) from error
        raise BlockError(f"no block of examples: {error}") from error
    if block.format != FORMAT:
        raise BlockError(_other_format(block.format))
    return block, unpack_examples(block.examples)


def _format_of(data: bytes) -> int | None:
    try:
        first = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return None
    return first[0] if isinstance(first, list) and first and type(first[0]) is int else None


def _other_format(found: int) -> str:
    return f"a block of format {found}, this version reads {FORMAT}: read it with the version that wrote it"


Sent = tuple[int, int]
"""Claim and number of a block."""


class Tenure:
    """Who holds a join partition, as its part of the topic says: whoever claimed it last.

    Args:
        last: the block that came last so far; None before the first.

    Example:
        >>> tenure = Tenure()
        >>> tenure.admits(0, Told(None, 0)), tenure.admits(1, Told(0, 1)), tenure.admits(2, Told(0, 1))  # appended twice
        (True, True, False)
        >>> tenure.admits(3, Told(None, 0)), tenure.admits(4, Told(0, 2)), tenure.admits(5, Told(3, 1))
        (True, False, True)
    """

    def __init__(self, last: Sent | None = None) -> None:
        self.last = last

    def admits(self, offset: int, told: Told) -> bool:
        """Takes in a record of the topic, in the order of their offsets; False if it is void."""
        sent = (offset if told.claimed_at is None else told.claimed_at), told.number
        if self.last is not None and sent <= self.last:
            return False
        self.last = sent
        return True
