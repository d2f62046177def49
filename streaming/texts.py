"""Many short texts in one run of bytes; must not know what field they stood in or what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias, cast

import numpy as np

from models.batch import Int64

Value: TypeAlias = str | int | None
"""What a text is of: a string as it is, an integer in decimal, a bool as the integer it equals; None is missing."""

# Stands for a missing value among strings. No JSON holds it, and it is written as the byte FF, which is in no text.
MISSING = "\udcff"
_ESCAPE = "surrogateescape"


class _Decimals(dict[int | None, str]):
    """The texts of what is no string. Those of small integers stand ready: hours, weekdays, positions and small codes."""

    def __missing__(self, value: int | None) -> str:
        return str(int(cast(int, value)))


_DECIMALS = _Decimals({number: str(number) for number in range(4096)} | {None: MISSING})


@dataclass(frozen=True, slots=True)
class Texts:
    """n texts, and where they lie in the bytes that hold them.

    Args:
        buffer: the texts as UTF-8, in their order, with anything between them; a missing one is the byte FF.
        ends: (n,) where each ends.
        lengths: (n,) of each in bytes.

    Example:
        >>> texts = Texts.split([joined(["a", 7]), joined([True, "größe", None])], 5)
        >>> texts.ends.tolist(), texts.lengths.tolist()
        ([1, 3, 5, 13, 15], [1, 1, 1, 7, 1])
    """

    buffer: bytes
    ends: Int64
    lengths: Int64

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def split(cls, pieces: Sequence[bytes], count: int) -> Texts | None:
        """The texts of what `joined` gave; None if one of them holds a NUL and nobody knows where it ends.

        Args:
            pieces: one for each call of `joined`.
            count: how many values they were made of.
        """
        buffer = b"\0".join([*pieces, b""])
        ends = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 0)
        if len(ends) != count:
            return None
        lengths = ends.copy()
        lengths[1:] -= ends[:-1] + 1
        return cls(buffer, ends, lengths)

    @classmethod
    def together(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of at least one part, one part behind the other."""
        starts = accumulate((len(part.buffer) for part in parts), initial=0)
        return cls(
            b"".join([part.buffer for part in parts]),
            np.concatenate([part.ends + start for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.lengths for part in parts]),
        )


def joined(values: Sequence[Value]) -> bytes:
    """The texts of at least one value, with a NUL between two of them: 25 ns a value where all are strings."""
    try:
        return "\0".join(cast(Sequence[str], values)).encode(errors=_ESCAPE)
    except TypeError:
        texts = [value if isinstance(value, str) else _DECIMALS[value] for value in values]
        return "\0".join(texts).encode(errors=_ESCAPE)
