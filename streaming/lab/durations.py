"""Lengths of time that a person would choose, and how a person would say them; must not know what is being timed."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1))
_STEPS = {
    "s": (1, 2, 5, 10, 15, 20, 30),
    "min": (1, 2, 5, 10, 15, 20, 30),
    "h": (1, 2, 3, 4, 6, 8, 12),
    "d": (1, 2, 3, 4, 5, 7, 10, 14, 21, 30, 45, 60, 90),
}
CLEAN_MS = tuple(count * dict(_UNITS)[unit] for unit, counts in _STEPS.items() for count in counts)
"""Every length that is suggested: 1 s to 90 d."""


def clean_above(ms: float) -> int:
    """The shortest clean length that is not shorter.

    Example:
        >>> clean_above(61_000), clean_above(0), clean_above(10**12)
        (120000, 1000, 7776000000)
    """
    return CLEAN_MS[min(bisect_left(CLEAN_MS, ms), len(CLEAN_MS) - 1)]


def clean_near(ms: float) -> int:
    """The clean length whose ratio to `ms` is nearest to 1.

    Example:
        >>> clean_near(65_000)
        60000
    """
    return min(CLEAN_MS, key=lambda clean: max(clean, ms) / max(min(clean, ms), 1e-9))


def in_words(ms: float) -> str:
    """A length in the largest unit that keeps it at 1 or more.

    Example:
        >>> in_words(900_000), in_words(46_341_000), in_words(-1500), in_words(0)
        ('15 min', '12.9 h', '-1.5 s', '0 ms')
    """
    unit, size = next(((unit, size) for unit, size in _UNITS if abs(ms) >= size), _UNITS[-1])
    return f"{ms / size:.3g} {unit}"


def utc(event_time_ms: int, *, to_ms: bool = False) -> str:
    """A time as people read it, to the second or millisecond; what no calendar holds is called so.

    Example:
        >>> utc(1_700_000_000_123)
        '2023-11-14 22:13:20 UTC'
        >>> utc(1_700_000_000_123, to_ms=True)
        '2023-11-14 22:13:20.123 UTC'
        >>> utc(1 << 53)
        'beyond the year 9999'
    """
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event_time_ms)
    except OverflowError:
        return "beyond the year 9999" if event_time_ms > 0 else "before the year 1"
    return f"{moment:%Y-%m-%d %H:%M:%S}" + (f".{event_time_ms % 1000:03d}" if to_ms else "") + " UTC"
