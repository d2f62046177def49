"""The rows of the Criteo delayed-feedback file (`data.txt`): 19 cells, no header; must not know what becomes of them.

    [0] click, seconds since the log began   [1] conversion, same clock, or empty   [2..9] integers   [10..18] hashed categories

Any feature may be empty. A million clicks a minute is the least, and there are 16 million: a well-formed row costs one match of
a regular expression, and only what does not match is looked at cell by cell.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from streaming.lab.csv_rows import SourceError

INTEGERS = tuple(f"int_{number}" for number in range(1, 9))
CATEGORIES = tuple(f"cat_{number}" for number in range(1, 10))
CELLS = 2 + len(INTEGERS) + len(CATEGORIES)
_NAMES = (*INTEGERS, *CATEGORIES)
_TIMES = ("click timestamp", "conversion timestamp")

_MOST_SECONDS = 999_999_999  # 30 years: the log has 90 days, and an epoch time in their place is refused
_SECONDS = rb"0|[1-9][0-9]{0,8}"
_INTEGER = rb"(-?(?:0|[1-9][0-9]{0,14})|)"  # as JSON writes it, and exact as a double
_CATEGORY = rb'([^\t"\\\x00-\x1f\x7f-\xff]*)'  # what JSON takes as it is
_WELL_FORMED = re.compile(
    rb"\t".join([b"(%b)" % _SECONDS, b"(%b|)" % _SECONDS, *[_INTEGER] * len(INTEGERS), *[_CATEGORY] * len(CATEGORIES)])
    + rb"\r?"
).fullmatch

# `"int_1":5` and `"cat_1":"ab"` out of a cell: what stands before it, and behind it.
_OPENINGS = tuple(b'"%b":' % name.encode() for name in INTEGERS) + tuple(
    b'"%b":"' % name.encode() for name in CATEGORIES
)
_OPEN_CELLS = tuple(zip(_OPENINGS, (b"",) * len(INTEGERS) + (b'"',) * len(CATEGORIES), strict=True))


class ClickRow(NamedTuple):
    """One click.

    Args:
        click_s, conversion_s: seconds since the log began; None is no conversion.
        integers: the eight cells in decimal, empty where missing.
        features: all that is not missing, as the text of a JSON object.
    """

    click_s: int
    conversion_s: int | None
    integers: tuple[bytes, ...]
    features: bytes


def click_row(line: bytes) -> ClickRow:
    r"""The click that a line tells of.

    Args:
        line: without its end.

    Raises:
        SourceError: it is no row of this file; the message names the cell, what it holds and the rule.

    Example:
        >>> row = click_row(b"60\t3600\t5" + b"\t" * 8 + b"a1" + b"\t" * 8)
        >>> row.click_s, row.conversion_s, row.features
        (60, 3600, b'{"int_1":5,"cat_1":"a1"}')
    """
    match = _WELL_FORMED(line)
    cells = match.groups() if match is not None else _mended(line)
    click_s, conversion_s = int(cells[0]), int(cells[1]) if cells[1] else None
    if conversion_s is not None and conversion_s < click_s:
        raise SourceError(f"conversion timestamp must not be before the click's, {click_s} (got {conversion_s})")
    members = [opening + cell + end for (opening, end), cell in zip(_OPEN_CELLS, cells[2:], strict=True) if cell]
    return ClickRow(click_s, conversion_s, cells[2:10], b"{%b}" % b",".join(members))


def _mended(line: bytes) -> tuple[bytes, ...]:
    """The cells of an unusual row as JSON would have them, or why there are none."""
    cells = line.removesuffix(b"\r").split(b"\t")
    if len(cells) != CELLS:
        raise SourceError(f"has {len(cells)} cells (rule: {CELLS}, separated by tabs)")
    times = [_seconds(name, cell) for name, cell in zip(_TIMES, cells[:2], strict=True)]
    if not times[0]:
        raise SourceError("click timestamp must not be empty")
    integers = [_integer(name, cell) for name, cell in zip(INTEGERS, cells[2:10], strict=True)]
    categories = [_escaped(name, cell) for name, cell in zip(CATEGORIES, cells[10:], strict=True)]
    return (*times, *integers, *categories)


def _seconds(name: str, cell: bytes) -> bytes:
    if cell and not (cell.isdigit() and int(cell) <= _MOST_SECONDS):
        raise SourceError(
            f"{name} must be whole seconds since the log began, {_MOST_SECONDS:,} at most (got {_shown(cell)})"
        )
    return cell and b"%d" % int(cell)


def _integer(name: str, cell: bytes) -> bytes:
    digits = cell.removeprefix(b"-")
    if cell and not (digits.isdigit() and len(digits) <= 15):
        raise SourceError(f"{name} must be a whole number of at most 15 digits, or empty (got {_shown(cell)})")
    return cell and b"%d" % int(cell)


def _escaped(name: str, cell: bytes) -> bytes:
    try:
        return msgspec.json.encode(cell.decode())[1:-1]
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8 (got {_shown(cell)})") from None


def _shown(cell: bytes) -> str:
    text = cell.decode(errors="backslashreplace")
    return repr(text if len(text) <= 40 else text[:40] + "...")
