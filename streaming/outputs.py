"""The lines that a run writes: examples, predictions, side outputs and refused batches, as bytes. Must not know where they go."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import repeat

import msgspec

from models.batch import Float64
from streaming.batching import is_row
from streaming.joined import Side
from streaming.label import Example, Kind, slot_name
from streaming.log_file import Refused
from streaming.scoring import Prediction

_ENCODER = msgspec.json.Encoder()
_KIND_NAMES = {kind: kind.name for kind in Kind}
_slot_name = cache(slot_name)  # there are 256 slots at most


class ExampleLine(msgspec.Struct, frozen=True, gc=False):
    """A line of examples.jsonl; the fields are told in docs/formats.md."""

    kind: str
    slot: str
    p: int
    due_ms: int
    impression_id: str
    impression_ms: int
    click_ms: int | None
    conversion_ms: int | None
    converted: bool
    value: float | None
    pos: float | None
    neg: float | None
    step: int | None


class SideLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a side output; the fields are told in docs/formats.md."""

    door: str
    kind: str
    reason: str
    at: str
    impression_id: str | None
    event_time_ms: int | None
    watermark_ms: int | None
    record: str | None = None
    record_base64: str | None = None


def example_lines(
    examples: Sequence[Example], positive: Float64 | None, negative: Float64 | None, step: int | None
) -> bytes:
    """Examples as lines, in order.

    Args:
        examples: of one batch.
        positive, negative: the weights a+ and a- of those that went to the network, in order; None if none was taught.
        step: the gradient step that taught them; None if none did.
    """
    nothing: tuple[float | None, float | None] = None, None
    taught: Iterable[tuple[float | None, float | None]] = repeat(nothing)
    if positive is not None and negative is not None:
        pairs = iter(zip(positive.tolist(), negative.tolist(), strict=True))
        taught = (next(pairs) if row else nothing for row in is_row(examples).tolist())
    return _ENCODER.encode_lines(
        [
            # Nearly all are unclicked, and the facts that those cannot have need not be looked up.
            ExampleLine(
                "UNCLICKED",
                "click",
                example.p,
                example.due_ms,
                example.impression.impression_id,
                example.impression.event_time_ms,
                None,
                None,
                False,
                None,
                pos,
                neg,
                None if pos is None else step,
            )
            if example.kind == Kind.UNCLICKED
            else _clicked_line(example, pos, neg, None if pos is None else step)
            for example, (pos, neg) in zip(examples, taught, strict=False)
        ]
    )


def _clicked_line(example: Example, pos: float | None, neg: float | None, step: int | None) -> ExampleLine:
    return ExampleLine(
        _KIND_NAMES[example.kind],
        _slot_name(example.slot),
        example.p,
        example.due_ms,
        example.impression.impression_id,
        example.impression.event_time_ms,
        example.click_ms,
        example.conversion_ms,
        example.converted,
        example.value,
        pos,
        neg,
        step,
    )


def prediction_lines(predictions: Sequence[Prediction]) -> bytes:
    """Predictions as lines, in order."""
    return _ENCODER.encode_lines(predictions)


def side_line(side: Side) -> bytes:
    """A record that left the join by a side door, as a line."""
    record = side.record
    return _side_line(
        side.door,
        record.kind.name.lower(),
        side.reason,
        record.at,
        record.event.impression_id,
        record.event.event_time_ms,
        record.watermark_ms,
        record.line,
    )


def refused_line(refused: Refused) -> bytes:
    """A malformed or future record, as a line."""
    return _side_line(
        door_of(refused),
        refused.kind.name.lower(),
        refused.reason,
        refused.at,
        refused.impression_id,
        refused.event_time_ms,
        refused.watermark_ms,
        refused.line,
    )


def door_of(refused: Refused) -> str:
    """The side output that a refused record goes to."""
    return "future" if refused.is_future else "dead_letters"


def _side_line(
    door: str,
    kind: str,
    reason: str,
    at: str,
    impression_id: str | None,
    event_time_ms: int | None,
    watermark_ms: int | None,
    line: bytes,
) -> bytes:
    try:
        record, record_base64 = line.decode(), None
    except UnicodeDecodeError:
        record, record_base64 = None, base64.b64encode(line).decode()
    fields = SideLine(door, kind, reason, at, impression_id, event_time_ms, watermark_ms, record, record_base64)
    return _ENCODER.encode(fields) + b"\n"


def refused_batch_lines(examples: Sequence[Example], reason: str) -> bytes:
    """A batch that was not learned: a line with the reason, then its examples with their raw features."""
    head = _ENCODER.encode({"reason": reason, "examples": len(examples)}) + b"\n"
    plain = example_lines(examples, None, None, None).splitlines()
    whole = [
        line[:-1] + b',"features":' + bytes(example.impression.features) + b"}\n"
        for line, example in zip(plain, examples, strict=True)
    ]
    return head + b"".join(whole)
