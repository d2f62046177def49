"""Raw features to the inputs of a model; must not know whose features they are or what they are to teach."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from models.batch import Float32, Float64, Inputs, Int64
from models.features import Columns, salt_of
from models.schema import Feature
from streaming.fields import Column, Field, FieldReader, Form, Raw
from streaming.ids import Salt, from_digests

# Rows that are parsed and hashed before the next are looked at. Their values, about 2.5 KB a row as Python objects, then
# stay in the cache of a core: 6.3 us a row (7.7 beside busy neighbours), where 2,048 at once take 7.3 (11.1), 16 at once 7.9 (9.3).
_CHUNK = 64


class FeatureReader:
    """Turns raw feature objects into ids and numbers, as the settings describe them.

    A list longer than `max_length` keeps its last values; a value that a list repeats counts as often as it stands there.

    Args:
        features: the features of the settings, already checked there.

    Attributes:
        faults: feature -> values taken as missing because they had a wrong type, in every row read so far. A number too large
            for a float32 is one of them. Write into it to go on counting from a cut.

    Raises:
        ValueError: a path cannot stand in JSON without escapes.

    Example:
        >>> reader = FeatureReader([
        ...     Feature(name="item", kind="categorical"),
        ...     Feature(name="history", kind="sequence", ids_of="item"),
        ...     Feature(name="price", kind="numeric", transform="log"),
        ... ])
        >>> inputs = reader.read([b'{"item":"a","history":["b","a"],"price":0}', b'{"price":"9.99"}'])
        >>> bool(inputs.ids[0, 0] == inputs.bag_ids[1]), inputs.bag_offsets.tolist(), inputs.numbers.tolist()
        (True, [0, 2, 3], [[0.0], [nan]])
        >>> reader.faults
        {'price': 1}
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        columns = Columns.of(features)
        salts = {salt_of(feature): Salt(salt_of(feature)) for feature in columns.embedded}
        of_single = {feature.name: number for number, feature in enumerate(columns.single)}
        # What is parsed: the categorical and bucketed features, in the order of their columns, then bags, then numbers.
        self._words = [(of_single[f.name], salts[salt_of(f)]) for f in columns.single if f.kind == "categorical"]
        self._buckets = [
            (of_single[f.name], _Buckets(f, salts[salt_of(f)])) for f in columns.single if f.kind == "numeric"
        ]
        self._crosses = [
            (of_single[f.name], salts[salt_of(f)], [of_single[name] for name in f.inputs])
            for f in columns.single
            if f.kind == "crossed"
        ]
        self._bags = [(feature.max_length, salts[salt_of(feature)]) for feature in columns.bags]
        self._numbers = columns.numbers
        self._width = len(columns.single)
        read = [f for f in (*columns.single, *columns.bags, *columns.numbers) if f.kind != "crossed"]
        self._fields = FieldReader([Field(f.name, f.name if f.path is None else f.path, _form(f)) for f in read])
        self.faults = self._fields.faults

    def read(self, raws: Sequence[Raw]) -> Inputs:
        """The inputs of these rows, in their order.

        Args:
            raws: B JSON objects, each whole; none is fine.
        """
        rows = len(raws)
        words: list[list[bytes]] = [[] for _ in self._words]
        bags = [_Bag(max_length, salt) for max_length, salt in self._bags]
        buckets: list[list[float | None]] = [[] for _ in self._buckets]
        numbers: list[list[float | None]] = [[] for _ in self._numbers]
        for start in range(0, rows, _CHUNK):
            columns = iter(self._fields.read(raws[start : start + _CHUNK]))
            for digests, (_, salt) in zip(words, self._words, strict=True):
                digests.append(salt.digests(next(columns)))
            for values in buckets:
                values.extend(next(columns))
            for bag in bags:
                bag.extend(next(columns))
            for values in numbers:
                values.extend(next(columns))

        ids = np.empty((rows, self._width), np.int64)  # (B, F)
        for digests, (column, _) in zip(words, self._words, strict=True):
            ids[:, column] = from_digests(b"".join(digests))
        for values, (column, bucket) in zip(buckets, self._buckets, strict=True):
            ids[:, column] = bucket.ids(_floats(values))
        for column, salt, inputs in self._crosses:
            ids[:, column] = salt.cross([ids[:, other] for other in inputs])
        bag_ids, lengths = _joined([bag.ids() for bag in bags])  # (N,), (G * B,)
        plain = np.empty((rows, len(self._numbers)), np.float32)  # (B, K)
        for column, (values, feature) in enumerate(zip(numbers, self._numbers, strict=True)):
            plain[:, column] = self._transformed(feature, _floats(values))
        return Inputs(
            ids=ids,
            bag_ids=bag_ids,
            bag_offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            numbers=plain,
        )

    def _transformed(self, feature: Feature, x: Float64) -> Float32:
        with np.errstate(over="ignore"):
            if feature.transform == "log":
                x = np.sign(x) * np.log1p(np.abs(x))
            transformed = ((x - feature.center) / feature.scale).astype(np.float32)
        too_large = np.isinf(transformed)
        if too_large.any():
            transformed[too_large] = np.nan
            self.faults[feature.name] = self.faults.get(feature.name, 0) + int(too_large.sum())
        return transformed


class _Buckets:
    """The id of the bucket a number falls in."""

    def __init__(self, feature: Feature, salt: Salt) -> None:
        self._boundaries = np.array(feature.boundaries, np.float64)
        self._ids = salt.ids([*range(len(feature.boundaries) + 1), None])  # the last for missing

    def ids(self, x: Float64) -> Int64:
        bucket = np.searchsorted(self._boundaries, x, side="right")
        bucket[np.isnan(x)] = len(self._ids) - 1
        return self._ids[bucket]


class _Bag:
    """One column of lists on its way to ids."""

    def __init__(self, max_length: int, salt: Salt) -> None:
        self._max_length = max_length
        self._salt = salt
        self._digests: list[bytes] = []
        self._lengths: list[int] = []

    def extend(self, column: Column) -> None:
        lengths = [len(values) if values else 0 for values in column]
        if max(lengths) > self._max_length:
            column = [values and values[-self._max_length :] for values in column]
            lengths = [min(length, self._max_length) for length in lengths]
        self._lengths += lengths
        self._digests.append(self._salt.digests(list(chain.from_iterable(filter(None, column)))))

    def ids(self) -> tuple[Int64, Int64]:
        """The ids of all lists, one behind the other, and the length of each; what is empty holds the id of missing."""
        ids = from_digests(b"".join(self._digests))
        lengths = np.array(self._lengths, np.int64)
        empty = lengths == 0
        if empty.any():
            starts = np.cumsum(lengths) - lengths
            ids = np.insert(ids, starts[empty], self._salt.missing)
            lengths[empty] = 1
        return ids, lengths


def _form(feature: Feature) -> Form:
    if feature.kind == "numeric":
        return "number"
    return "words" if feature.is_bag else "word"


def _floats(values: list[float | None]) -> Float64:
    return np.array(values, np.float64)  # None becomes NaN


def _joined(bags: list[tuple[Int64, Int64]]) -> tuple[Int64, Int64]:
    nothing = np.empty(0, np.int64)
    return np.concatenate([nothing, *(ids for ids, _ in bags)]), np.concatenate(
        [nothing, *(lengths for _, lengths in bags)]
    )
