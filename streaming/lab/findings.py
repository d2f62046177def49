"""What was found in a log, as values that can be printed or sent; must not know how it was found or what to make of it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.lab.durations import in_words, utc

Row = tuple[str, str]

_PLACES = re.compile(r" \(byte \d+\)| at byte \d+")
_VARYING = re.compile(r"(?<=got )'[^']*'|(?<![\w-])(?:0x[0-9a-f]+|\d+)")


def kind_of(reason: str) -> str:
    """A reason without the values and places that it quotes: what a million of one kind have in common.

    Example:
        >>> kind_of("not JSON: JSON is malformed: invalid character (byte 5)"), kind_of("t is 7, which looks like seconds")
        ('not JSON: JSON is malformed: invalid character', 't is …, which looks like seconds')
    """
    return _VARYING.sub("…", without_place(reason))


def without_place(reason: str) -> str:
    """A reason without where in its line the record breaks.

    Example:
        >>> without_place("not UTF-8: invalid start byte at byte 68")
        'not UTF-8: invalid start byte'
    """
    return _PLACES.sub("", reason)


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of lengths of time, milliseconds; `n` of them were there."""

    n: int
    p01: int
    p50: int
    p90: int
    p99: int
    p995: int
    p999: int
    max: int

    @classmethod
    def of(cls, values: npt.NDArray[np.int64]) -> Quantiles | None:
        """Quantiles of these values, each one of them; None of no values.

        Example:
            >>> Quantiles.of(np.arange(1001)).p99
            990
        """
        if not len(values):
            return None
        points = np.quantile(values, [0.01, 0.5, 0.9, 0.99, 0.995, 0.999, 1.0], method="higher").tolist()
        return cls(**dict(zip(("p01", "p50", "p90", "p99", "p995", "p999", "max"), points, strict=True)), n=len(values))

    @property
    def nearly_all(self) -> int:
        """What 999 of 1,000 stay within; 99 of 100 where fewer than 10,000 were seen, since ten values make no tail."""
        return self.p999 if self.n >= 10_000 else self.p99

    def in_words(self) -> str:
        """On one line, as a person reads it."""
        points = (("half", self.p50), ("90 %", self.p90), ("99 %", self.p99), ("99.9 %", self.p999), ("all", self.max))
        return ", ".join(f"{share} within {in_words(ms)}" for share, ms in points)


class Refusal(msgspec.Struct, frozen=True):
    """A record that cannot be used: `at` is file:line, `record` its start, bytes that are not UTF-8 replaced."""

    at: str
    reason: str
    record: str


class StreamFindings(msgspec.Struct, frozen=True, kw_only=True):
    """One stream by itself.

    Args:
        stem: impressions, clicks or conversions. files: its parts. records: in all, malformed ones included, blank lines not.
        malformed: records that cannot be used. malformed_reasons: the commonest, with numbers and quotations left out, and their
            counts. malformed_samples: the first ones.
        future: records stamped so far ahead of those around them that they would be refused.
        ahead_ms: how far the furthest of these is ahead of the rest of the log, if all of them stand at the ends of their files:
            late facts may look like that. None otherwise.
        first_ms, last_ms: smallest and largest event time of the rest, None without records.
        behind_ms: how far records were behind the newest of their file before them. late: those beyond `out_of_orderness_ms`.
        broken: files that could not be read to their end. strangers: files in the stream's folder that are no part of it.
    """

    stem: str
    files: list[str]
    records: int
    malformed: int
    malformed_reasons: dict[str, int]
    malformed_samples: list[Refusal]
    future: int
    ahead_ms: int | None
    first_ms: int | None
    last_ms: int | None
    behind_ms: Quantiles | None
    late: int
    broken: list[str]
    strangers: list[str]

    @property
    def usable(self) -> int:
        """Records that take part."""
        return self.records - self.malformed - self.future


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one stream held against what they follow: clicks against impressions, conversions against first clicks.

    Args:
        facts: usable records. orphaned: those whose id is nowhere among what they could follow. before: those stamped
            before it by more than `clock_skew_ms`. beyond: those after their window. repeated: those within, but not the first.
        followed: how many were followed by a fact within the window, of `owners`. rate: their share, None of none.
        delay_ms: delays of the first fact of each, whatever the window; negative is before.
    """

    facts: int
    orphaned: int
    before: int
    beyond: int
    repeated: int
    followed: int
    owners: int
    rate: float | None
    delay_ms: Quantiles | None


class Gap(msgspec.Struct, frozen=True):
    """A stretch in which a stream was silent although `expected` of its records should have come."""

    stem: str
    from_ms: int
    to_ms: int
    expected: int


class WindowAdvice(msgspec.Struct, frozen=True):
    """What a setting is, and what the log suggests for it; None where the log has too little to say."""

    key: str
    now_ms: int
    suggested_ms: int | None


class Problem(msgspec.Struct, frozen=True):
    """Something that a person should know. An `error` makes a run useless, a `warning` makes it worse, a `note` is as it may be."""

    severity: Literal["error", "warning", "note"]
    what: str
    remedy: str


class LogFindings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a look over a whole log found.

    Args:
        clicks, conversions: how they follow impressions and clicks. Joined by id alone, whatever the order of arrival.
        view_through: orphaned conversions whose impression is there, without a click.
        repeated_impressions: records whose impression_id was there before.
        open_impressions, open_clicks: those whose window ends after the log: they stay unlabelled at its end.
        sampled: impressions whose features were looked at. values: how many of them have a value, by the path of the feature.
    """

    log: str
    streams: list[StreamFindings]
    repeated_impressions: int
    clicks: Following
    conversions: Following
    view_through: int
    open_impressions: int
    open_clicks: int
    sampled: int
    values: dict[str, int]
    gaps: list[Gap]
    advice: list[WindowAdvice]
    problems: list[Problem] = []

    def rows(self) -> list[Row]:
        """What was found, without the problems, as (label, value) pairs for a table."""
        found: list[Row] = []
        for stream in self.streams:
            span = (
                ""
                if stream.first_ms is None or stream.last_ms is None
                else f", {utc(stream.first_ms)} to {utc(stream.last_ms)}"
            )
            found.append((stream.stem, f"{stream.records:,} in {_count(len(stream.files), 'file')}{span}"))
            refused = (
                (stream.malformed, "malformed"),
                (stream.future, "in the future"),
                (stream.late, "out of order beyond the bound"),
            )
            found += [("  " + what, f"{count:,}") for count, what in refused if count]
            if stream.behind_ms is not None and stream.behind_ms.max:
                found.append(("  disorder", stream.behind_ms.in_words()))
        if self.repeated_impressions:
            found.append(("repeated impressions", f"{self.repeated_impressions:,}"))
        for name, following, of in (
            ("click rate", self.clicks, "impressions"),
            ("conversions a click", self.conversions, "clicks"),
        ):
            if following.rate is None:
                continue
            found.append((name, f"{following.rate:.4g} ({following.followed:,} of {following.owners:,} {of})"))
            if following.delay_ms is not None:
                found.append(("  delay", following.delay_ms.in_words()))
            doors = ("orphaned", "before", "beyond", "repeated")
            found += [(f"  {door}", f"{count:,}") for door in doors if (count := getattr(following, door))]
        found += [
            (f"silent {gap.stem}", f"{utc(gap.from_ms)} to {utc(gap.to_ms)}, {gap.expected:,} expected")
            for gap in self.gaps
        ]
        found.append(("open at the end", f"{self.open_impressions:,} impressions, {self.open_clicks:,} clicks"))
        for advice in self.advice:
            suggested = (
                "too little seen to suggest one"
                if advice.suggested_ms is None
                else f"suggested {in_words(advice.suggested_ms)}"
            )
            found.append((advice.key, f"{in_words(advice.now_ms)}; {suggested}"))
        return found

    def problem_rows(self) -> list[tuple[str, str, str]]:
        """The problems as (severity, what, remedy) for a table, the worst first."""
        return [(problem.severity, problem.what, problem.remedy) for problem in self.problems]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
