"""Raw features to the inputs of a model; must not know whose features they are or what they are to teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from models.batch import Bool, Float32, Float64, Inputs, Int64
from models.features import Columns, salt_of
from models.schema import Feature
from streaming.fields import Column, Field, FieldReader, Form, Raw
from streaming.ids import Salt, crossed, from_digests
from streaming.lists import Lists, lines
from streaming.texts import Texts, joined
from streaming.xxh3 import Uint64, xxh3_64

# Rows that are decoded before the next are looked at. Their values, about 1 KB a row as Python objects, then stay in the
# cache of a core.
_CHUNK = 128
# With fewer rows than this the calls of numpy that a glance makes, some 150, cost more than they spare: 0.2 ms.
_FEW = 128


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
        words = [feature for feature in columns.single if feature.kind == "categorical"]
        bucketed = [feature for feature in columns.single if feature.kind == "numeric"]
        # What is read, in this order.
        read = [*words, *columns.bags, *bucketed, *columns.numbers]
        self._fields = FieldReader([Field(f.name, f.name if f.path is None else f.path, _form(f)) for f in read])
        self.faults = self._fields.faults

        self._words = len(words)
        self._salts = [salts[salt_of(feature)] for feature in (*words, *columns.bags)]
        self._seeds = np.array([salt.seed for salt in self._salts], np.uint64)
        self._bags = [(feature.max_length, salts[salt_of(feature)].missing) for feature in columns.bags]
        self._buckets = [_Buckets(feature, salts[salt_of(feature)]) for feature in bucketed]
        self._crosses = _Crosses.of(columns.single, salts)
        self._width = len(columns.single)
        self._numbers = columns.numbers
        self._is_log = np.array([feature.transform == "log" for feature in columns.numbers], np.bool_)
        # (K, 1)
        self._centers = np.array([feature.center for feature in columns.numbers], np.float64)[:, None]
        self._scales = np.array([feature.scale for feature in columns.numbers], np.float64)[:, None]

    def read(self, raws: Sequence[Raw]) -> Inputs:
        """The inputs of these rows, in their order.

        Args:
            raws: B JSON objects, each whole; none is fine.
        """
        if len(raws) < _FEW:
            return self._inputs(self._read(raws))
        found, odd = self._glance(raws)
        if odd.any():
            rows = np.flatnonzero(odd)
            found.put(rows, self._read([raws[row] for row in rows.tolist()]))
        return self._inputs(found)

    def read_beside(self, shared: Raw, raws: Sequence[Raw]) -> Inputs:
        """The inputs of rows that have a part in common: a row's own value counts where it has one, else the common one.

        What is common is parsed and hashed once: of 100 rows with 10 of 20 features in common it takes half of what `read` does.

        Args:
            shared: a JSON object, whole.
            raws: B JSON objects, each whole; none is fine.
        """
        rows = len(raws)
        own, common = self._fields.read(raws), self._fields.read([shared])
        digests: list[bytes] = []
        lengths: list[Int64] = []
        numbers = np.empty((len(own) - len(self._salts), rows), np.float64)
        for place, (column, (value,)) in enumerate(zip(own, common, strict=True)):
            is_shared = column.count(None) == rows
            if place >= self._words and place < len(self._salts):
                value = (value or ())[-self._bags[place - self._words][0] :]  # before it is said of every row
            if not is_shared and value is not None:
                column = [value if each is None else each for each in column]
            if place >= len(self._salts):
                numbers[place - len(self._salts)] = (
                    np.nan if is_shared and value is None else value if is_shared else column
                )
            elif place < self._words:
                salt = self._salts[place]
                digests.append(salt.digests([value]) * rows if is_shared else salt.digests(column))
            elif is_shared:
                lengths.append(np.full(rows, len(value), np.int64))
                digests.append(self._salts[place].digests(value) * rows)
            else:
                lists = [words or () for words in column]
                lengths.append(np.fromiter(map(len, lists), np.int64, rows))
                digests.append(self._salts[place].digests(list(chain.from_iterable(lists))))
        return self._inputs(self._found(from_digests(b"".join(digests)), lengths, numbers))

    def _glance(self, raws: Sequence[Raw]) -> tuple[_Found, Bool]:
        """What rows hold in which nothing is wrong or unusually written, mostly all; and which are odd, (B,).

        The lists of an odd row hold nothing, and what else is found there is not to be used. Of 2,048 rows with 18 words each it
        takes 3.8 us a row where `_read` takes 6.0, and 6.0 where that takes 10.6 beside busy neighbours.
        """
        rows = len(raws)
        odd = np.zeros(rows, np.bool_)
        words: list[list[bytes]] = [[] for _ in range(self._words)]
        bags: list[list[bytes]] = [[] for _ in self._bags]
        numbers = np.empty((len(self._buckets) + len(self._numbers), rows), np.float64)
        for start in range(0, rows, _CHUNK):
            columns, strays = self._fields.glance(raws[start : start + _CHUNK])
            odd[[start + row for row in strays]] = True
            column = iter(columns)
            for pieces in words:
                pieces.append(joined(next(column)))
            for pieces in bags:
                pieces.append(lines(next(column)))
            numbers[:, start : start + _CHUNK] = _floats(list(column), min(_CHUNK, rows - start))

        texts = Texts.split(list(chain.from_iterable(words)), len(words) * rows)
        if texts is None:  # a word holds a NUL, nobody knows which
            return self._read(raws), np.zeros(rows, np.bool_)
        lists = []
        for pieces in bags:
            of_bag, is_plain = Lists.read(pieces, rows)
            lists.append(of_bag)
            odd |= ~is_plain
        if odd.any():
            lists = [of_bag.without(odd) for of_bag in lists]
        seeds = self._seeds.repeat([rows] * self._words + [len(of_bag.words) for of_bag in lists])
        ids = xxh3_64(Texts.together([texts, *(of_bag.words for of_bag in lists)]), seeds).view(np.int64)
        return self._found(ids, [of_bag.counts for of_bag in lists], numbers), odd

    def _read(self, raws: Sequence[Raw]) -> _Found:
        """What rows hold, however odd; what is wrong in them is counted."""
        columns = iter(self._fields.read(raws))
        digests = [salt.digests(next(columns)) for salt in self._salts[: self._words]]
        lengths = []
        for salt in self._salts[self._words :]:
            lists = [words or () for words in next(columns)]
            lengths.append(np.fromiter(map(len, lists), np.int64, len(lists)))
            digests.append(salt.digests(list(chain.from_iterable(lists))))
        return self._found(from_digests(b"".join(digests)), lengths, _floats(list(columns), len(raws)))

    def _found(self, ids: Int64, lengths: list[Int64], numbers: Float64) -> _Found:
        """Takes apart the ids of all words, feature after feature, and of all lists behind them."""
        rows = numbers.shape[1]
        end = self._words * rows
        words, bags = ids[:end].reshape(self._words, rows), []
        for of_bag in lengths:
            start, end = end, end + int(of_bag.sum())
            bags.append((ids[start:end], of_bag))
        return _Found(words, bags, numbers)

    def _inputs(self, found: _Found) -> Inputs:
        rows = found.numbers.shape[1]
        ids = np.empty((self._width, rows), np.int64)
        ids[: self._words] = found.words
        for place, (buckets, x) in enumerate(zip(self._buckets, found.numbers, strict=False), self._words):
            ids[place] = buckets.ids(x)
        for crosses in self._crosses:
            ids[crosses.places] = crossed(crosses.crossings, [ids[places] for places in crosses.inputs])
        bags = [
            _filled(*_shortened(of_bag, lengths, max_length), missing)
            for (of_bag, lengths), (max_length, missing) in zip(found.bags, self._bags, strict=True)
        ]
        return Inputs(
            ids=ids.T.copy(),
            bag_ids=np.concatenate([np.empty(0, np.int64), *(of_bag for of_bag, _ in bags)]),
            bag_offsets=np.concatenate([np.zeros(1, np.int64), *(lengths for _, lengths in bags)]).cumsum(),
            numbers=self._transformed(found.numbers[len(self._buckets) :]),
        )

    def _transformed(self, x: Float64) -> Float32:
        """(K, B) to (B, K)."""
        with np.errstate(over="ignore"):
            logs = x[self._is_log]
            x[self._is_log] = np.sign(logs) * np.log1p(np.abs(logs))
            numbers = ((x - self._centers) / self._scales).astype(np.float32)
        too_large = np.isinf(numbers)
        if too_large.any():
            numbers[too_large] = np.nan
            for feature, faults in zip(self._numbers, too_large.sum(axis=1).tolist(), strict=True):
                if faults:
                    self.faults[feature.name] = self.faults.get(feature.name, 0) + faults
        return numbers.T.copy()


class _Buckets:
    """The id of the bucket a number falls in."""

    def __init__(self, feature: Feature, salt: Salt) -> None:
        # NaN, which is missing, is sorted behind every number: in a bucket of its own.
        self._boundaries = np.array([*feature.boundaries, np.nan], np.float64)
        self._ids = salt.ids([*range(len(feature.boundaries) + 1), None])

    def ids(self, x: Float64) -> Int64:
        return self._ids[np.searchsorted(self._boundaries, x, side="right")]


@dataclass(frozen=True, slots=True)
class _Crosses:
    """C features that are crossed of equally many others, n, and so at once.

    Args:
        places: (C,) which of the single-valued features they are.
        crossings: (C, 1) of their salts.
        inputs: (n, C) which of the single-valued features they are made of.
    """

    places: Int64
    crossings: Uint64
    inputs: Int64

    @classmethod
    def of(cls, single: Sequence[Feature], salts: dict[str, Salt]) -> list[_Crosses]:
        place = {feature.name: number for number, feature in enumerate(single)}
        alike: dict[int, list[Feature]] = {}
        for feature in single:
            if feature.kind == "crossed":
                alike.setdefault(len(feature.inputs), []).append(feature)
        return [
            cls(
                places=np.array([place[feature.name] for feature in crosses]),
                crossings=np.array([[salts[salt_of(feature)].crossing] for feature in crosses], np.uint64),
                inputs=np.array([[place[name] for name in feature.inputs] for feature in crosses]).T.copy(),
            )
            for crosses in alike.values()
        ]


@dataclass(slots=True)
class _Found:
    """What B rows hold, as ids and numbers.

    Args:
        words: (W, B) ids of the categorical features.
        bags: for each bag the ids of all its lists, one behind the other, and (B,) the length of each list.
        numbers: (K, B) the bucketed ones, then the others; NaN is missing.
    """

    words: Int64
    bags: list[tuple[Int64, Int64]]
    numbers: Float64

    def put(self, rows: Int64, other: _Found) -> None:
        """Replaces what these rows hold; their lists are empty before."""
        self.words[:, rows] = other.words
        self.numbers[:, rows] = other.numbers
        for bag, ((ids, lengths), (new, new_lengths)) in enumerate(zip(self.bags, other.bags, strict=True)):
            starts = np.cumsum(lengths) - lengths
            lengths[rows] = new_lengths
            self.bags[bag] = np.insert(ids, np.repeat(starts[rows], new_lengths), new), lengths


def _shortened(ids: Int64, lengths: Int64, max_length: int) -> tuple[Int64, Int64]:
    """Lists with no more than their last `max_length` ids."""
    if lengths.max(initial=0) <= max_length:
        return ids, lengths
    to_go = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
    return ids[to_go <= max_length], np.minimum(lengths, max_length)


def _filled(ids: Int64, lengths: Int64, missing: int) -> tuple[Int64, Int64]:
    """Lists with the id of missing in each that is empty."""
    if np.count_nonzero(lengths) == len(lengths):
        return ids, lengths
    empty = lengths == 0
    lengths = np.maximum(lengths, 1)
    is_found = np.ones(lengths.sum(), np.bool_)
    is_found[np.cumsum(lengths)[empty] - 1] = False
    filled = np.full(len(is_found), missing)
    filled[is_found] = ids
    return filled, lengths


def _form(feature: Feature) -> Form:
    if feature.kind == "numeric":
        return "number"
    return "words" if feature.is_bag else "word"


def _floats(columns: Sequence[Column], rows: int) -> Float64:
    """(len(columns), rows); None becomes NaN."""
    return np.fromiter(chain.from_iterable(columns), np.float64, len(columns) * rows).reshape(len(columns), rows)
