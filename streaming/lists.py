"""Lists of words out of their JSON, those of a whole column at once; must not know whose they are or how a fault is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.json import Decoder

from models.batch import Bool, Int64
from streaming.texts import Texts

Uint8: TypeAlias = npt.NDArray[np.uint8]

_QUOTE, _COMMA, _SPACE, _OPEN, _NULL, _NEWLINE = b'", [n\n'
_ZERO = np.uint8(ord("0"))
_OF_INTEGERS = np.zeros(256, np.bool_)
_OF_INTEGERS[list(b"0123456789,[]\n")] = True
# msgspec refuses one of more than 4,300; an id has not that many.
_MOST_DIGITS = 18
_NO_LIST = b"0"

_words: Decoder[list[str | int | bool] | None] = Decoder(list[str | int | bool] | None)


@dataclass(frozen=True, slots=True)
class Lists:
    """The words of B lists.

    Args:
        words: N of them, list after list.
        counts: (B,) how many words each list has.
    """

    words: Texts
    counts: Int64

    @classmethod
    def read(cls, pieces: Sequence[bytes], count: int) -> tuple[Lists, Bool]:
        """The words of the lists that are plainly written, as mostly all are.

        Plain is a list of strings that need no escapes, or of integers of at most 18 digits and no sign; with nothing between two of
        them but a comma and perhaps a space behind it; and null. So a word costs 35 ns, where it costs 80 as a Python object.

        Args:
            pieces: one for each call of `lines`.
            count: how many values they were made of.

        Returns:
            the words, and for each value whether it is a plain list, (B,). What is not may have words, but not its own.

        Example:
            >>> lists, is_plain = Lists.read([lines([b'["a","b"]', None]), lines([b'["c"]', b'["d",1.5]'])], 4)
            >>> lists.counts.tolist(), is_plain.tolist()
            ([2, 0, 1, 1], [True, True, True, False])
        """
        text = b"\n".join([*pieces, b""])
        if b"\\" in text or not _is_utf8(text):
            text = b"\n".join(map(_unescaped, text.split(b"\n")))
        is_of_strings = b'"' in text
        if not is_of_strings:
            text = text.replace(b" ", b"")
        characters = np.frombuffer(text, np.uint8)
        line_ends = np.flatnonzero(characters == _NEWLINE)
        if len(line_ends) != count:  # a value in several lines, nobody knows which
            nothing = np.zeros(0, np.int64)
            return cls(Texts(b"", nothing, nothing), np.zeros(count, np.int64)), np.zeros(count, np.bool_)
        sizes = _steps(line_ends)
        sizes[1:] -= 1
        first = characters[line_ends - sizes]

        if is_of_strings:
            quotes = np.flatnonzero(characters == _QUOTE)
            starts, ends = quotes[::2] + 1, quotes[1::2]
        else:
            edges = np.flatnonzero(np.diff(characters - _ZERO < 10, prepend=False))
            starts, ends = edges[::2], edges[1::2]
        lengths = ends - starts
        so_far = np.searchsorted(starts, line_ends)
        counts = _steps(so_far)

        # What is well-formed and starts with a bracket is a list. With n strings somewhere in it, it has n + 1 characters outside of
        # them at the least, or the two of []. If it has no more, they are its brackets and the commas of a plain list.
        # So it is with n runs of digits, except that more than commas and brackets can be just one character between two of them.
        outside = counts + 1 + (sizes == 2)
        inside = lengths + 2 if is_of_strings else lengths
        is_plain = first == _OPEN
        if not is_plain.all() or sizes.sum() != inside.sum() + outside.sum():
            if is_of_strings:
                inside += _spaces(characters, starts, ends)
            is_plain &= sizes == _sums(inside, so_far) + outside
        if not is_of_strings:
            odd = np.concatenate([np.flatnonzero(~_OF_INTEGERS[characters]), starts[lengths > _MOST_DIGITS]])
            is_plain[np.searchsorted(line_ends, odd)] = False
        return cls(Texts(text, ends, lengths), counts), is_plain | (first == _NULL)

    def without(self, rows: Bool) -> Lists:
        """The same, but with no words in these lists, (B,)."""
        kept = (~rows).repeat(self.counts)
        words = Texts(self.words.buffer, self.words.ends[kept], self.words.lengths[kept])
        return Lists(words, np.where(rows, 0, self.counts))


def lines(column: Sequence[msgspec.Raw | bytes | None]) -> bytes:
    """At least one value, well-formed JSON, each on a line; one that is missing is an empty list."""
    try:
        return b"\n".join(cast(Sequence[bytes], column))
    except TypeError:
        return b"\n".join([b"[]" if raw is None else raw for raw in column])


def _unescaped(line: bytes) -> bytes:
    """A list without escapes; something that is no list in place of one that needs them, or has other things than words."""
    if b"\\" not in line and _is_utf8(line):
        return line
    try:
        line = msgspec.json.encode(_words.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _NO_LIST
    return _NO_LIST if b"\\" in line else line


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _steps(so_far: Int64) -> Int64:
    """By how much each is more than the one before it; the first, more than 0."""
    steps = so_far.copy()
    steps[1:] -= so_far[:-1]
    return steps


def _sums(values: Int64, so_far: Int64) -> Int64:
    """The sum of the values of each list; `so_far` many are of it and those before it."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return _steps(sums[so_far])


def _spaces(characters: Uint8, starts: Int64, ends: Int64) -> Bool:
    """For each string whether a comma, a space and the next string follow it."""
    behind = ends[:-1]
    follow = (starts[1:] - behind == 4) & (characters[behind + 1] == _COMMA) & (characters[behind + 2] == _SPACE)
    return np.append(follow, False)
