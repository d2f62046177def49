"""Examples, and arrays, as values that msgpack can carry: columns as their memory, raw features as byte strings. Must not know where they go."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.events import Impression, Served
from streaming.examples import Example, Examples, Kind

Array = tuple[str, tuple[int, ...], bytes]
"""dtype, shape and memory of an array."""


class PackedExamples(msgspec.Struct, frozen=True, array_like=True):
    """Impressions as columns (what few of them have, by number), then the columns of `Examples`, then what its others say."""

    names: list[str]
    times: Array
    features: list[bytes]
    served: dict[int, Served]
    join_keys: dict[int, str]
    due_ms: Array
    kinds: Array
    places: Array
    ps: Array
    others: list[tuple[int, int | None, int | None, bool, float | None]]


def pack_examples(examples: Examples) -> PackedExamples:
    """Examples as columns that msgpack can carry."""
    shown = examples.impressions
    return PackedExamples(
        [one.impression_id for one in shown],
        pack_array(np.fromiter([one.event_time_ms for one in shown], np.int64, len(shown))),
        [bytes(one.features) for one in shown],
        {number: one.served for number, one in enumerate(shown) if one.served is not None},
        {number: one.join_key for number, one in enumerate(shown) if one.join_key is not None},
        pack_array(examples.due_ms),
        pack_array(examples.kinds),
        pack_array(examples.places),
        pack_array(examples.ps),
        [(one.slot, one.click_ms, one.conversion_ms, one.converted, one.value) for one in examples.others],
    )


def unpack_examples(packed: PackedExamples) -> Examples:
    """What `pack_examples` was given."""
    served, join_keys = packed.served.get, packed.join_keys.get
    shown = [
        Impression(name, time_ms, msgspec.Raw(features), served(number), join_keys(number))
        for number, (name, time_ms, features) in enumerate(
            zip(packed.names, unpack_array(packed.times).tolist(), packed.features, strict=True)
        )
    ]
    due_ms, kinds, places, ps = map(unpack_array, (packed.due_ms, packed.kinds, packed.places, packed.ps))
    of = places.tolist()
    facts = zip(of, due_ms[of].tolist(), kinds[of].tolist(), ps[of].tolist(), packed.others, strict=True)
    others = [
        Example(due, Kind(kind), slot, p, shown[place], click_ms, conversion_ms, converted, value)
        for place, due, kind, p, (slot, click_ms, conversion_ms, converted, value) in facts
    ]
    return Examples(shown, due_ms, kinds, places, others, ps)


def pack_array(array: npt.NDArray[Any]) -> Array:
    """An array as its type, shape and memory."""
    return array.dtype.str, array.shape, array.tobytes()


def unpack_array(packed: Array) -> npt.NDArray[Any]:
    """What `pack_array` was given."""
    dtype, shape, memory = packed
    return np.frombuffer(bytearray(memory), dtype).reshape(shape)  # its own, and to be written to, as torch wants it
