"""Values to 64-bit ids, the same on every machine and in every language; must not know what a feature is.

The rule is part of the format of published weights: whoever serves them must come to the same ids. XXH3 is the 64-bit
XXH3 of the bytes, seeded as said, else with 0; every id is read as two's complement.

    seed     XXH3(salt as UTF-8)
    value    XXH3(text as UTF-8, seed)     text: a string as it is, an integer in decimal, true as 1, false as 0
    bucket   the value of its number       the lowest bucket is 0
    missing  XXH3(byte FF, seed)           no UTF-8 text holds the bytes FF and FE: no value has this id by its text
    crossed  XXH3(byte FE, seed), then for each input id in order: x = mix(x xor id)
    mix      x ^= x >> 30; x *= BF58476D1CE4E5B9; x ^= x >> 27; x *= 94D049BB133111EB; x ^= x >> 31      (modulo 2^64)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import repeat
from typing import cast

import numpy as np
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from models.batch import Int64
from streaming.texts import Value
from streaming.xxh3 import Uint64

# Integers below this come from a table: 50 ns in place of 170. Hours, weekdays, positions and small codes all do;
# at 200 KB the table of a salt stays in the cache of a core, and a salt that meets strings alone has none.
_TABLED = 4096

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Salt:
    """A space of ids of its own: equal values under two salts have different ids.

    Hashing anew costs 85 ns a string however many there are. A dict from string to id costs 55 ns for a handful, 250 for
    20,000 and 420 for 100,000 (each look-up then waits for memory), and would need a bound: so there is none.

    Example:
        >>> item = Salt("item")
        >>> item.ids(["7", 7, None]).tolist()
        [8098538636854032550, 8098538636854032550, 5506271789694507056]
        >>> bool(item.ids(["7"]) == Salt("user").ids(["7"]))
        False
    """

    def __init__(self, text: str) -> None:
        self.seed = xxh3_64_intdigest(text.encode())
        self.crossing = xxh3_64_intdigest(b"\xfe", self.seed)
        self._missing = xxh3_64_digest(b"\xff", self.seed)

    @cached_property
    def _tabled(self) -> dict[int | None, bytes]:
        numbers: dict[int | None, bytes] = {
            number: xxh3_64_digest(b"%d" % number, self.seed) for number in range(_TABLED)
        }
        return numbers | {None: self._missing}

    @property
    def missing(self) -> int:
        """The id of a missing value."""
        return int(np.frombuffer(self._missing, ">i8")[0])

    def digests(self, values: Sequence[Value]) -> bytes:
        """The ids of these values, 8 bytes each, most significant first: parts of a column are joined before `from_digests`."""
        try:
            # All strings, the usual column: nothing but C.
            return b"".join(map(xxh3_64_digest, map(str.encode, cast(Sequence[str], values)), repeat(self.seed)))
        except TypeError:
            pass
        seed, missing = self.seed, self._missing
        try:
            # Strings, or missing; the first number ends it.
            strings = cast(Sequence[str | None], values)
            return b"".join([missing if text is None else xxh3_64_digest(text.encode(), seed) for text in strings])
        except AttributeError:
            pass
        try:
            # Small integers, or missing.
            return b"".join(map(self._tabled.__getitem__, cast(Sequence[int | None], values)))
        except KeyError:
            return b"".join(map(self._digest, values))

    def _digest(self, value: Value) -> bytes:
        if isinstance(value, str):
            return xxh3_64_digest(value.encode(), self.seed)
        digest = self._tabled.get(value)
        return xxh3_64_digest(b"%d" % cast(int, value), self.seed) if digest is None else digest

    def ids(self, values: Sequence[Value]) -> Int64:
        """The ids of these values, (len(values),)."""
        return from_digests(self.digests(values))

    def cross(self, inputs: Sequence[Int64]) -> Int64:
        """The id of each combination of ids; the order of the inputs matters.

        Args:
            inputs: columns of ids, each (B,); at least one.

        Returns:
            (B,)

        Example:
            >>> a, b = Salt("a").ids(["x", "y"]), Salt("b").ids(["x", "x"])
            >>> Salt("a,b").cross([a, b]).tolist()
            [1163225094415222025, -8941617194406272048]

        Source:
            Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (the mix is SplitMix64's).
        """
        return crossed(np.array([[self.crossing]], np.uint64), [ids[None] for ids in inputs]).reshape(-1)


def from_digests(digests: bytes) -> Int64:
    """Ids out of their bytes, (len(digests) / 8,)."""
    return np.frombuffer(digests, ">i8").astype(np.int64)


def crossed(crossings: Uint64, inputs: Sequence[Int64]) -> Int64:
    """The ids of C crossed features at once, where `Salt.cross` makes those of one.

    Args:
        crossings: (C, 1) of their salts.
        inputs: (C, B) each: the first column of ids of each feature, then the second, and so on.

    Returns:
        (C, B)
    """
    x: Uint64 = crossings.repeat(inputs[0].shape[1], axis=1)
    for ids in inputs:
        x ^= ids.view(np.uint64)
        x ^= x >> np.uint64(30)
        x *= _MIX_1
        x ^= x >> np.uint64(27)
        x *= _MIX_2
        x ^= x >> np.uint64(31)
    return x.view(np.int64)
