"""The labelling policies: which examples a joined impression yields, and when. Must not know how facts were gathered."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from streaming.events import Impression


class Kind(IntEnum):
    """What an example says about its impression."""

    UNCLICKED = 0
    CLICKED = 1
    IMMEDIATE_POSITIVE = 2
    OBSERVED_NEGATIVE = 3
    REVISIT = 4
    AGED = 5
    DELAYED_POSITIVE = 6
    REAL_NEGATIVE = 7
    MATURED = 8
    ORACLE = 9
    OUTCOME = 10


class Slot(IntEnum):
    """A place an impression's example can take; the first in a slot wins. The order at equal due time and impression."""

    CLICK = 0
    OBSERVED = 1
    REVISIT = 64  # + k, k = 1..63
    AGED = 128  # + k, k = 0..63
    SETTLED = 192
    OUTCOME = 193


class Example(msgspec.Struct, frozen=True, gc=False):
    """One labelled example, as it leaves the join.

    Args:
        due_ms: when it left, in event time. kind: what it says. slot: a `Slot`, plus k for revisits and ages.
        p: the join partition. impression: as it was logged, features still raw.
        click_ms, conversion_ms: the facts known at `due_ms`, None if not (yet) there. converted: the label v.
        value: what the conversion was worth, if the log says.
    """

    due_ms: int
    kind: Kind
    slot: int
    p: int
    impression: Impression
    click_ms: int | None = None
    conversion_ms: int | None = None
    converted: bool = False
    value: float | None = None
