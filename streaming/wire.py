"""Deliveries as bytes, for a pipe between two processes of one run. Must not know the pipe.

Columns travel as their memory and raw features as byte strings, so that neither side spends more than a copy on them.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.batch import Aged, Batch, Inputs, Matured
from streaming.batching import Group, is_row
from streaming.deliveries import Delivery, IngestState
from streaming.events import Impression, Served
from streaming.examples import Example, Examples, Kind
from streaming.metrics import IngestFigures

_Array = tuple[str, tuple[int, ...], bytes]
"""dtype, shape and memory of an array."""


class _Examples(msgspec.Struct, frozen=True, array_like=True):
    """Impressions as columns (what few of them have, by number), then the columns of `Examples`, then what its others say."""

    names: list[str]
    times: _Array
    features: list[bytes]
    served: dict[int, Served]
    join_keys: dict[int, str]
    due_ms: _Array
    kinds: _Array
    places: _Array
    ps: _Array
    others: list[tuple[int, int | None, int | None, bool, float | None]]


class _Group(msgspec.Struct, frozen=True, array_like=True):
    examples: _Examples
    inputs: list[_Array]
    rows: list[_Array]
    aged_inputs: list[_Array]
    aged: list[_Array]
    matured_inputs: list[_Array] | None
    matured: list[_Array] | None
    at_ms: int


class _Delivery(msgspec.Struct, frozen=True, array_like=True):
    records: int
    read_bytes: int
    lines: list[tuple[str, bytes]]
    groups: list[_Group]
    figures: IngestFigures
    cut: IngestState | None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Delivery)


def encode_delivery(delivery: Delivery) -> bytes:
    """A delivery as msgpack."""
    groups = [_packed_group(group) for group in delivery.groups]
    return _ENCODER.encode(
        _Delivery(delivery.records, delivery.read_bytes, delivery.lines, groups, delivery.figures, delivery.cut)
    )


def decode_delivery(data: bytes) -> Delivery:
    """What `encode_delivery` was given.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    found = _DECODER.decode(data)
    groups = [_group(group) for group in found.groups]
    return Delivery(found.records, found.read_bytes, found.lines, groups, found.figures, found.cut)


def _packed_group(group: Group) -> _Group:
    batch, matured = group.batch, group.matured
    columns: tuple[npt.NDArray[Any], ...] = (
        batch.events,
        batch.converted,
        batch.click_ms,
        batch.delay_ms,
        batch.looks,
        batch.age_ms,
    )
    return _Group(
        _packed_examples(group.examples),
        _packed_inputs(batch.inputs),
        list(map(_packed, columns)),
        _packed_inputs(group.aged.inputs),
        [_packed(group.aged.edges), _packed(group.aged.in_bin)],
        None if matured is None else _packed_inputs(matured.inputs),
        None if matured is None else [_packed(matured.observed), _packed(matured.converted)],
        group.at_ms,
    )


def _group(packed: _Group) -> Group:
    examples = _examples(packed.examples)
    events, converted, click_ms, delay_ms, looks, age_ms = map(_array, packed.rows)
    matured = None
    if packed.matured_inputs is not None and packed.matured is not None:
        matured = Matured(_inputs(packed.matured_inputs), *map(_array, packed.matured))
    return Group(
        examples,
        examples.where(is_row(examples)),
        Batch(_inputs(packed.inputs), events, converted, click_ms, delay_ms, looks, age_ms),
        Aged(_inputs(packed.aged_inputs), *map(_array, packed.aged)),
        matured,
        packed.at_ms,
    )


def _packed_examples(examples: Examples) -> _Examples:
    shown = examples.impressions
    return _Examples(
        [one.impression_id for one in shown],
        _packed(np.fromiter([one.event_time_ms for one in shown], np.int64, len(shown))),
        [bytes(one.features) for one in shown],
        {number: one.served for number, one in enumerate(shown) if one.served is not None},
        {number: one.join_key for number, one in enumerate(shown) if one.join_key is not None},
        _packed(examples.due_ms),
        _packed(examples.kinds),
        _packed(examples.places),
        _packed(examples.ps),
        [(one.slot, one.click_ms, one.conversion_ms, one.converted, one.value) for one in examples.others],
    )


def _examples(packed: _Examples) -> Examples:
    served, join_keys = packed.served.get, packed.join_keys.get
    shown = [
        Impression(name, time_ms, msgspec.Raw(features), served(number), join_keys(number))
        for number, (name, time_ms, features) in enumerate(
            zip(packed.names, _array(packed.times).tolist(), packed.features, strict=True)
        )
    ]
    due_ms, kinds, places, ps = map(_array, (packed.due_ms, packed.kinds, packed.places, packed.ps))
    of = places.tolist()
    facts = zip(of, due_ms[of].tolist(), kinds[of].tolist(), ps[of].tolist(), packed.others, strict=True)
    others = [
        Example(due, Kind(kind), slot, p, shown[place], click_ms, conversion_ms, converted, value)
        for place, due, kind, p, (slot, click_ms, conversion_ms, converted, value) in facts
    ]
    return Examples(shown, due_ms, kinds, places, others, ps)


def _packed_inputs(inputs: Inputs) -> list[_Array]:
    columns: tuple[npt.NDArray[Any], ...] = (inputs.ids, inputs.bag_ids, inputs.bag_offsets, inputs.numbers)
    return list(map(_packed, columns))


def _inputs(packed: list[_Array]) -> Inputs:
    return Inputs(*map(_array, packed))


def _packed(array: npt.NDArray[Any]) -> _Array:
    return array.dtype.str, array.shape, array.tobytes()


def _array(packed: _Array) -> npt.NDArray[Any]:
    dtype, shape, memory = packed
    return np.frombuffer(bytearray(memory), dtype).reshape(shape)  # its own, and to be written to, as torch wants it
