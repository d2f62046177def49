"""What came late, by impression, and what it says about it; must not know what was taught or how."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

import msgspec

from streaming.events import Click, Conversion, EventDecoder, Impression, RecordKind
from streaming.ledger import Account
from streaming.outputs import SideLine
from streaming.settings import Log, Settings

_KIND_OF = {kind.name.lower(): kind for kind in RecordKind}


class LateClick(msgspec.Struct, frozen=True, gc=False):
    """A click in a side output: when it was, and where its record stands."""

    click_ms: int
    at: str


class LateConversion(msgspec.Struct, frozen=True, gc=False):
    """A conversion in a side output: when it was, what it was worth, and where its record stands."""

    conversion_ms: int
    value: float | None
    at: str


class LateFacts(msgspec.Struct, gc=False):
    """The records of one id that left the join without having taught.

    Args:
        impressions: event time -> as logged, and where; those that had closed when they arrived.
        clicks, conversions: late ones, and orphans that may belong to what came late; in any order.
    """

    impressions: dict[int, tuple[Impression, str]] = {}
    clicks: list[LateClick] = []
    conversions: list[LateConversion] = []


class Truth(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of one impression, late facts included; beside `Account`, which says what was taught.

    Args:
        click_ms, conversion_ms: when its facts count as having happened; None if they did not. value: of a conversion that came late.
        is_click_final, is_label_final: whether nothing can come any more that changes the one or the other.
        logged: the impression, if it came late itself. at: the late records that say so.
    """

    click_ms: int | None
    conversion_ms: int | None
    value: float | None
    is_click_final: bool
    is_label_final: bool
    logged: Impression | None
    at: tuple[str, ...]


def read_late(late: Iterable[bytes], orphans: Iterable[bytes], log: Log) -> dict[str, LateFacts]:
    """The late records of a run, by id, and with them the orphans of these ids.

    A fact that was on time is an orphan if what it belongs to came late: a click before its late impression, or a conversion
    after a late click.

    Args:
        late, orphans: lines of late.jsonl and orphans.jsonl.
        log: how records are read.
    """
    decoders = {kind: EventDecoder(kind, getattr(log, kind.stem)) for kind in RecordKind}
    decode = msgspec.json.Decoder(SideLine).decode
    found: dict[str, LateFacts] = {}
    for line in map(decode, late):
        assert line.impression_id is not None  # what could not be read is no late record but a dead letter
        _add(found.setdefault(line.impression_id, LateFacts()), line, decoders)
    for line in map(decode, orphans):
        if line.impression_id in found:
            _add(found[line.impression_id], line, decoders)
    return found


def _add(facts: LateFacts, line: SideLine, decoders: Mapping[RecordKind, EventDecoder]) -> None:
    record = base64.b64decode(line.record_base64) if line.record is None else line.record.encode()  # type: ignore[arg-type]
    (event,) = decoders[_KIND_OF[line.kind]].decode([record])
    if isinstance(event, Impression):
        facts.impressions.setdefault(event.event_time_ms, (event, line.at))
    elif isinstance(event, Click):
        facts.clicks.append(LateClick(event.event_time_ms, line.at))
    elif isinstance(event, Conversion):
        facts.conversions.append(LateConversion(event.event_time_ms, event.value, line.at))


def truths_of(
    facts: LateFacts, accounts: Mapping[int, Account], settings: Settings, *, at_ms: int
) -> list[tuple[Account, Truth]]:
    """What is known of each impression that an id stood for; those of them that late facts have nothing to say of, too.

    The earliest click in its window makes the label, and the earliest conversion in its; a late fact never displaces one that is
    there. A fact that fits nothing is left out: it was outside of its window, or its impression was never seen.

    Args:
        facts: late ones of the id.
        accounts: of the impressions of this id, by their event time.
        settings: of the run.
        at_ms: how far the watermark of the stream has come.

    Example:
        >>> minute = 60_000
        >>> facts = LateFacts(clicks=[LateClick(3 * minute, "clicks.jsonl:7"), LateClick(2 * minute, "clicks.jsonl:9")])
        >>> ((account, truth),) = truths_of(facts, {0: Account(0, is_joined=True)}, Settings(), at_ms=60 * minute)
        >>> truth.click_ms // minute, truth.at, truth.is_click_final, truth.is_label_final
        (2, ('clicks.jsonl:9',), True, False)
    """
    windows, skew_ms, hold_ms = settings.windows, settings.event_time.clock_skew_ms, settings.orphan_hold_ms
    conversions = sorted(facts.conversions, key=lambda late: late.conversion_ms)
    found: list[tuple[Account, Truth]] = []
    for impression_ms in sorted(
        {*accounts, *facts.impressions}, reverse=True
    ):  # an id used again: the newest that fits
        account = accounts.get(impression_ms) or Account(impression_ms)
        logged, at = facts.impressions.get(impression_ms, (None, None))
        places = [] if account.is_joined or at is None else [at]
        click_ms, conversion_ms, value = account.click_ms, account.conversion_ms, None
        if click_ms is None:
            fitting = [
                late for late in facts.clicks if -skew_ms <= late.click_ms - impression_ms <= windows.click_window_ms
            ]
            if fitting:
                first = min(fitting, key=lambda late: late.click_ms)
                click_ms = max(first.click_ms, impression_ms)
                places.append(first.at)
        if click_ms is not None and conversion_ms is None:
            after_ms, window_ms = click_ms, windows.attribution_window_ms
            late = next((one for one in conversions if -skew_ms <= one.conversion_ms - after_ms <= window_ms), None)
            if late is not None:
                conversions.remove(late)
                conversion_ms, value = max(late.conversion_ms, click_ms), late.value
                places.append(late.at)
        closes_ms = impression_ms + windows.click_window_ms + hold_ms
        truth = Truth(
            click_ms=click_ms,
            conversion_ms=conversion_ms,
            value=value,
            is_click_final=account.is_joined or at_ms > closes_ms,
            # A click that the stream joined is final with its OUTCOME; one that came late once orphans of it have left, too.
            is_label_final=click_ms is not None
            and (
                account.label is not None
                if account.is_joined and account.click_ms is not None and not account.came_late
                else at_ms > click_ms + windows.attribution_window_ms + hold_ms
            ),
            logged=None if account.is_joined else logged,
            at=tuple(places),
        )
        found.append((account, truth))
    return found
