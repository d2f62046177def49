"""The lines that a run writes: examples, predictions, side outputs and refused batches, as bytes. Must not know where they go."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import cache
from itertools import repeat
from operator import attrgetter

import msgspec
import numpy as np

from models.batch import Float64, Int64
from streaming.batching import is_row
from streaming.events import Impression
from streaming.examples import Example, Examples, Kind, slot_name
from streaming.joined import Side
from streaming.log_file import Refused
from streaming.scoring import WHOSE, Predicted

_ENCODER = msgspec.json.Encoder()
_KIND_NAMES = {kind: kind.name for kind in Kind}
_impression_id, _event_time_ms = attrgetter("impression_id"), attrgetter("event_time_ms")
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


def example_lines(examples: Examples, positive: Float64 | None, negative: Float64 | None, step: int | None) -> bytes:
    """Examples as lines, in order.

    Args:
        examples: of one batch.
        positive, negative: the weights a+ and a- of those that went to the network, in order, NaN where nothing was to be learned;
            None if none was taught.
        step: the gradient step that taught them; None if none did.
    """
    unclicked = np.flatnonzero(examples.kinds == Kind.UNCLICKED)
    pos: Iterable[str] = repeat("null")
    neg: Iterable[str] = repeat("null")
    clicked_weights: list[tuple[float | None, float | None]] = [(None, None)] * len(examples.others)
    untaught: list[int] = []
    if positive is not None and negative is not None:
        is_taught = is_row(examples)
        weights = np.zeros((2, len(examples)))
        weights[:, is_taught] = positive, negative
        pos, neg = map(_number_texts, weights[:, unclicked])
        taught, (ups, downs) = is_taught[examples.places].tolist(), weights[:, examples.places].tolist()
        clicked_weights = [
            (up, down) if own and up == up else (None, None) for own, up, down in zip(taught, ups, downs, strict=True)
        ]
        untaught = np.flatnonzero(np.isnan(weights[0, unclicked])).tolist()
    shown = _chosen(examples.impressions, unclicked)
    # Nearly all are unclicked, and all of those alike but for five values: laid into a text they take 1 us, as objects 3.
    head = '{"kind":"UNCLICKED","slot":"click","p":'
    facts = '"click_ms":null,"conversion_ms":null,"converted":false,"value":null'
    tail = f',"step":{"null" if positive is None or step is None else step}}}\n'
    lines = [
        f'{head}{p},"due_ms":{due_ms},"impression_id":{name},"impression_ms":{impression_ms},{facts},"pos":{up},"neg":{down}{tail}'
        for p, due_ms, name, impression_ms, up, down in zip(
            examples.ps[unclicked].tolist(),
            examples.due_ms[unclicked].tolist(),
            _id_texts(shown),
            map(_event_time_ms, shown),
            pos,
            neg,
            strict=False,
        )
    ]
    for row in untaught:  # few, if any
        lines[row] = lines[row].removesuffix(tail) + ',"step":null}\n'
    merged: list[str] = []
    start = 0
    for number, (place, example, (up_weight, down_weight)) in enumerate(
        zip(examples.places.tolist(), examples.others, clicked_weights, strict=True)
    ):
        merged += lines[start : place - number]
        start = place - number
        merged.append(_clicked_line(example, up_weight, down_weight, None if up_weight is None else step))
    return "".join(merged + lines[start:]).encode()


def _clicked_line(example: Example, pos: float | None, neg: float | None, step: int | None) -> str:
    line = ExampleLine(
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
    return _ENCODER.encode(line).decode() + "\n"


def prediction_lines(predicted: Predicted) -> bytes:
    """Predictions as lines, in order: those that `Prediction` is."""
    whose = [f',"whose":"{name}"}}\n' for name in WHOSE]
    return "".join(
        [
            f'{{"impression_id":{name},"event_time_ms":{event_time_ms},"pctr":{pctr},"pcvr":{pcvr}{whose[served]}'
            for name, event_time_ms, pctr, pcvr, served in zip(
                _id_texts(predicted.impressions),
                predicted.event_time_ms.tolist(),
                _number_texts(predicted.pctr),
                _number_texts(predicted.pcvr),
                predicted.is_served.tolist(),
                strict=True,
            )
        ]
    ).encode()


def _chosen(impressions: list[Impression], numbers: Int64) -> list[Impression]:
    return impressions if len(numbers) == len(impressions) else [impressions[number] for number in numbers.tolist()]


def _id_texts(impressions: list[Impression]) -> list[str]:
    """Their ids as JSON."""
    names = list(map(_impression_id, impressions))
    together = "".join(names)
    if together.isprintable() and '"' not in together and "\\" not in together:
        return [f'"{name}"' for name in names]
    return [_ENCODER.encode(name).decode() for name in names]


def _number_texts(numbers: Float64) -> list[str]:
    """Numbers as JSON; NaN is null."""
    if not len(numbers):
        return []
    bits = np.ascontiguousarray(numbers).view(np.int64)
    if (bits == bits[0]).all():  # kappa, say
        return [_ENCODER.encode(float(numbers[0])).decode()] * len(numbers)
    return _ENCODER.encode(numbers.tolist())[1:-1].decode().split(",")


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


def unread_line(at: str, reason: str, value: bytes) -> bytes:
    """A record of the `examples` topic that is no block, as a line of the dead letters."""
    return _side_line("dead_letters", "block", reason, at, None, None, None, value)


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


def refused_batch_lines(examples: Examples, reason: str) -> bytes:
    """A batch that was not learned: a line with the reason, then its examples with their raw features."""
    head = _ENCODER.encode({"reason": reason, "examples": len(examples)}) + b"\n"
    plain = example_lines(examples, None, None, None).splitlines()
    whole = [
        line[:-1] + b',"features":' + bytes(example.impression.features) + b"}\n"
        for line, example in zip(plain, examples, strict=True)
    ]
    return head + b"".join(whole)
