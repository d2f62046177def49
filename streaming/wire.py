"""Deliveries as bytes, for a pipe between two processes of one run. Must not know the pipe.

Columns travel as their memory and raw features as byte strings, so that neither side spends more than a copy on them.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy.typing as npt

from models.batch import Aged, Batch, Inputs, Matured
from streaming.batching import Group, is_row
from streaming.deliveries import Delivery, IngestState
from streaming.metrics import IngestFigures
from streaming.packed import Array, PackedExamples, pack_array, pack_examples, unpack_array, unpack_examples


class _Group(msgspec.Struct, frozen=True, array_like=True):
    examples: PackedExamples
    inputs: list[Array]
    rows: list[Array]
    aged_inputs: list[Array]
    aged: list[Array]
    matured_inputs: list[Array] | None
    matured: list[Array] | None
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
        pack_examples(group.examples),
        _packed_inputs(batch.inputs),
        list(map(pack_array, columns)),
        _packed_inputs(group.aged.inputs),
        [pack_array(group.aged.edges), pack_array(group.aged.in_bin)],
        None if matured is None else _packed_inputs(matured.inputs),
        None if matured is None else [pack_array(matured.observed), pack_array(matured.converted)],
        group.at_ms,
    )


def _group(packed: _Group) -> Group:
    examples = unpack_examples(packed.examples)
    events, converted, click_ms, delay_ms, looks, age_ms = map(unpack_array, packed.rows)
    matured = None
    if packed.matured_inputs is not None and packed.matured is not None:
        matured = Matured(_inputs(packed.matured_inputs), *map(unpack_array, packed.matured))
    return Group(
        examples,
        examples.where(is_row(examples)),
        Batch(_inputs(packed.inputs), events, converted, click_ms, delay_ms, looks, age_ms),
        Aged(_inputs(packed.aged_inputs), *map(unpack_array, packed.aged)),
        matured,
        packed.at_ms,
    )


def _packed_inputs(inputs: Inputs) -> list[Array]:
    columns: tuple[npt.NDArray[Any], ...] = (inputs.ids, inputs.bag_ids, inputs.bag_offsets, inputs.numbers)
    return list(map(pack_array, columns))


def _inputs(packed: list[Array]) -> Inputs:
    return Inputs(*map(unpack_array, packed))
