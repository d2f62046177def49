"""What came out of verifying a run, as values and in words; must not know how the truth was found."""

from __future__ import annotations

from typing import Any

import msgspec

UNFINISHED = (
    "RUN did not come to the end of LOG (it was stopped, or is still running): "
    "go on with afterclick replay LOG --out RUN --resume, then verify again"
)
OF_ANOTHER_LOG = (
    "RUN is of another log: hardly any impression of its examples is in LOG; name the log that it was made from"
)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One promise, and whether the run keeps it.

    Args:
        name: `examples`, a side output, or a law.
        expected, got: how many there must be, and how many there are; for a law that forbids, 0 and the breaches.
        broken: places where the two sides differ. differences: the first of them, in words.
    """

    name: str
    expected: int
    got: int
    broken: int = 0
    differences: tuple[str, ...] = ()

    @property
    def agreed(self) -> bool:
        """Whether nothing differs."""
        return self.expected == self.got and not self.broken


class ClickCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the clicks of the log went in the run.

    Args:
        logged: well-formed clicks in the log. clicked: CLICKED examples of the run.
        elsewhere: clicks by the side output they left by; `open` for those that may still come to something, and
            `unaccounted` for what is left over (0 where every check agrees).
        surplus: clicks that the run tells of beyond those of the log (0 where every check agrees).
    """

    logged: int
    clicked: int
    elsewhere: dict[str, int]
    surplus: int = 0

    @property
    def share(self) -> float | None:
        """Of the clicks logged, how many made a CLICKED example; None if there were none."""
        return self.clicked / self.logged if self.logged else None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of verifying a run.

    Args:
        records: read from the log, malformed ones included. checks: every promise looked at.
        clicks: where the clicks went. open: what must still be open at the end, as `RunMetrics` calls it.
        is_finished: the run came to the end of the log; a run that does not say counts as finished.
        is_of_another_log: next to none of its examples is of an impression of the log.
    """

    records: int
    checks: tuple[Check, ...]
    clicks: ClickCoverage
    open: dict[str, int]
    is_finished: bool = True
    is_of_another_log: bool = False

    @property
    def agreed(self) -> bool:
        """Whether the run came to the end, and every check agrees."""
        return self.is_finished and all(check.agreed for check in self.checks)

    def lines(self) -> list[str]:
        """The verdict in words, a line a check, differences below it; before them, why there is no point in comparing."""
        told = []
        if self.is_of_another_log:
            told.append(OF_ANOTHER_LOG)
        elif not self.is_finished:
            told.append(UNFINISHED)
        for check in self.checks:
            state = "agreed" if check.agreed else "DIFFERS"
            told.append(f"{state:8}{check.name:30}expected {check.expected:>10,}   got {check.got:>10,}")
            told += [f"          {difference}" for difference in check.differences]
            if check.broken > len(check.differences):
                told.append(f"          and {check.broken - len(check.differences):,} more")
        share = (
            "no clicks" if self.clicks.share is None else f"{self.clicks.share:.2%} of {self.clicks.logged:,} clicks"
        )
        where = [f"{count:,} {place}" for place, count in self.clicks.elsewhere.items() if count]
        if self.clicks.surplus:
            where.append(f"{self.clicks.surplus:,} more in the run than in the log")
        told.append(f"clicks: {share} ended in a CLICKED example" + (f"; else {', '.join(where)}" if where else ""))
        told.append("open at the end: " + ", ".join(f"{count:,} {what}" for what, count in self.open.items()))
        return told


def difference(what: str, want: Any, got: Any) -> str:
    """One difference in words.

    Example:
        >>> difference("a click", {"due_ms": 5, "kind": "CLICKED"}, {"due_ms": 6, "kind": "CLICKED"})
        'a click: due_ms expected 5, got 6'
        >>> difference("a click", None, {"due_ms": 6, "click_ms": None})
        'a click: not expected, got due_ms 6'
    """
    if want is None:
        return f"{what}: not expected, got {_short(got)}"
    if got is None:
        return f"{what}: missing, expected {_short(want)}"
    if isinstance(want, dict) and isinstance(got, dict):
        unequal = [name for name in want if want[name] != got[name]]
        return f"{what}: " + "; ".join(
            f"{name} expected {_text(want[name])}, got {_text(got[name])}" for name in unequal
        )
    return f"{what}: expected {want}, got {got}"


def _short(side: Any) -> str:
    if not isinstance(side, dict):
        return _text(side)
    return ", ".join(f"{name} {_text(value)}" for name, value in side.items() if value is not None)


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 120 else text[:120] + "…"
