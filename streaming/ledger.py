"""What each impression has been taught so far, by the files of a run; must not know what it should have been taught."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TypeVar

import msgspec

from streaming.outputs import ExampleLine

T = TypeVar("T")

_OF_NO_CLICK = ("UNCLICKED", "CLICKED")
_FINAL = ("OUTCOME", "MATURED")


class BackfilledLine(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A line of backfilled.jsonl; the fields are told in docs/formats.md."""

    impression_id: str
    impression_ms: int
    click_ms: int | None
    conversion_ms: int | None
    converted: bool | None
    value: float | None
    clicked: float
    unclicked: float
    kappa: float
    pos: float
    neg: float
    step: int
    weights_version: int
    at: list[str]


class RebuiltHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a rebuilt/NNNNNN.jsonl.zst; the fields are told in docs/formats.md."""

    from_ms: int
    at_ms: int
    examples_bytes: int
    backfilled_bytes: int


class Account(msgspec.Struct, gc=False):
    """One impression: its facts as the stream joined them, and what the model in use has been taught of it.

    Args:
        is_joined: whether the stream had an example of it; else all there is came late.
        is_amended: whether it has been taught something that came late.
        click_ms: as joined, or else as it came late. came_late: whether it did. conversion_ms: likewise.
        clicked, unclicked: weights of the CTR labels. kappa: of its negative in the product loss, as one without a click.
        pos, neg: sums of a+ and a- on the click.
        label: the final conversion label that was told; None if none was.
    """

    impression_ms: int
    is_joined: bool = False
    is_amended: bool = False
    click_ms: int | None = None
    came_late: bool = False
    conversion_ms: int | None = None
    clicked: float = 0.0
    unclicked: float = 0.0
    kappa: float = 0.0
    pos: float = 0.0
    neg: float = 0.0
    label: bool | None = None


class Ledger:
    """The accounts of some impressions, out of the lines of a run, oldest first.

    Args:
        wanted: ids of the impressions to keep accounts of.
    """

    def __init__(self, wanted: Set[str]) -> None:
        self._wanted = wanted
        self.accounts: dict[str, dict[int, Account]] = {}

    def on_examples(self, lines: Iterable[bytes], *, is_taught: bool = True) -> None:
        """Takes lines of examples.jsonl.

        Args:
            lines: as they stand there.
            is_taught: whether the model in use was; one that was rebuilt since was not, and learns their facts from here alone.
        """
        for line in _of(lines, self._wanted, ExampleLine):
            account = self._account(line.impression_id, line.impression_ms)
            account.is_joined = True
            self._take(account, line, is_taught)

    def on_rebuilt(self, lines: Iterable[bytes]) -> None:
        """Takes the lines of a rebuilt/NNNNNN.jsonl.zst but for its head; what was told late is among them."""
        for line in _of(lines, self._wanted, ExampleLine):
            account = self._account(line.impression_id, line.impression_ms)
            self._amend(account, line)
            self._take(account, line, True)

    def on_backfilled(self, lines: Iterable[bytes], *, is_taught: bool = True) -> None:
        """Takes lines of backfilled.jsonl."""
        for line in _of(lines, self._wanted, BackfilledLine):
            account = self._account(line.impression_id, line.impression_ms)
            self._amend(account, line)
            if is_taught:
                account.clicked += line.clicked
                account.unclicked += line.unclicked
                account.kappa += line.kappa
                account.pos += line.pos
                account.neg += line.neg
                account.label = account.label if line.converted is None else line.converted

    def _account(self, impression_id: str, impression_ms: int) -> Account:
        return self.accounts.setdefault(impression_id, {}).setdefault(impression_ms, Account(impression_ms))

    def _amend(self, account: Account, line: ExampleLine | BackfilledLine) -> None:
        """Takes facts that the stream did not join."""
        if line.click_ms is not None and account.click_ms is None:
            account.click_ms, account.came_late, account.is_amended = line.click_ms, True, True
        if line.conversion_ms is not None and account.conversion_ms is None:
            account.conversion_ms, account.is_amended = line.conversion_ms, True

    def _take(self, account: Account, line: ExampleLine, is_taught: bool) -> None:
        account.click_ms = account.click_ms if line.click_ms is None else line.click_ms
        account.conversion_ms = account.conversion_ms if line.conversion_ms is None else line.conversion_ms
        if line.kind in _FINAL:
            account.label = line.converted
        if not is_taught or line.step is None or line.pos is None or line.neg is None:
            return
        account.clicked += line.kind == "CLICKED"
        account.unclicked += line.kind == "UNCLICKED"
        if line.kind == "UNCLICKED":
            account.kappa += line.neg
        elif line.kind not in _OF_NO_CLICK:
            account.pos += line.pos
            account.neg += line.neg


class _Named(msgspec.Struct, gc=False):
    impression_id: str


def _of(lines: Iterable[bytes], wanted: Set[str], form: type[T]) -> Iterable[T]:
    """The lines of these impressions; the others are not decoded whole."""
    name, decode = msgspec.json.Decoder(_Named).decode, msgspec.json.Decoder(form).decode
    return (decode(line) for line in lines if name(line).impression_id in wanted)
