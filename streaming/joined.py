"""What the join knows of an impression and says about it, as values. Must not know how it was found out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from streaming.events import Impression, PackedEvent, pack, unpack
from streaming.log_file import Int64
from streaming.pending import Record

Door = Literal["late", "orphans", "duplicates", "out_of_window"]

CLICK_SLOT = 0
"""The slot that is due when an impression's click window closes; its order before all others is part of the contract."""

CONVERSION_SLOT = 191
"""The slot that is due at a conversion; what it yields settles the click, and comes before what else would at the same time."""


class JoinedImpression(msgspec.Struct, gc=False):
    """An impression and what has come to it.

    Args:
        click_ms, conversion_ms: when the first of each counts as having happened.
        click_known_ms, conversion_known_ms: when it took effect here: its event time, or the watermark that a late one met.
    """

    impression: Impression
    click_ms: int | None = None
    click_known_ms: int | None = None
    conversion_ms: int | None = None
    conversion_known_ms: int | None = None
    value: float | None = None


class Due(msgspec.Struct, frozen=True, gc=False):
    """Something about a joined impression is due: at `due_ms` in event time, for the policy's slot `slot`."""

    due_ms: int
    slot: int
    joined: JoinedImpression


class Dues:
    """What is due of some impressions, in the order (due time, impression_id, slot).

    Nearly all there is: impressions whose click window closes without a click. Of those there is nothing to say but which and when, so
    they stand in columns, and what is due of clicked ones among them.

    Args:
        unclicked: (n,) impressions. due_ms: (n,) when their click windows close, ascending.
        clicked: (place, what is due), ascending: it comes before the unclicked impression of that number.
    """

    __slots__ = ("clicked", "due_ms", "unclicked")

    def __init__(self, unclicked: list[Impression], due_ms: Int64, clicked: list[tuple[int, Due]]) -> None:
        self.unclicked = unclicked
        self.due_ms = due_ms
        self.clicked = clicked

    @classmethod
    def merged(cls, unclicked: list[Impression], due_ms: Int64, clicked: list[Due]) -> Dues:
        """Unclicked impressions in order, and what is due of clicked ones in any."""
        ordered = sorted(clicked, key=_order_of)
        own_ms = [due.due_ms for due in ordered]
        first, last = (np.searchsorted(due_ms, own_ms, side).tolist() for side in ("left", "right"))
        placed = list(zip(first, ordered, strict=True))
        for number in [number for number, place in enumerate(first) if place < last[number]]:  # due at the same time
            place, name = first[number], ordered[number].joined.impression.impression_id
            while place < last[number] and unclicked[place].impression_id < name:
                place += 1
            placed[number] = place, ordered[number]
        return cls(unclicked, due_ms, placed)

    @classmethod
    def joined(cls, parts: Sequence[Dues]) -> Dues:
        """Several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.unclicked) for part in parts)]).tolist()
        return cls(
            [impression for part in parts for impression in part.unclicked],
            np.concatenate([np.zeros(0, np.int64), *(part.due_ms for part in parts)]),
            [(start + place, due) for start, part in zip(starts, parts, strict=False) for place, due in part.clicked],
        )

    def __len__(self) -> int:
        return len(self.unclicked) + len(self.clicked)

    def __iter__(self) -> Iterator[Due]:
        start = 0
        for place, due in [*self.clicked, (len(self.unclicked), None)]:
            for impression, due_ms in zip(self.unclicked[start:place], self.due_ms[start:place].tolist(), strict=True):
                yield Due(due_ms, CLICK_SLOT, JoinedImpression(impression))
            start = place
            if due is not None:
                yield due


def _order_of(due: Due) -> tuple[int, str, int]:
    return due.due_ms, due.joined.impression.impression_id, due.slot


class Side(msgspec.Struct, frozen=True, gc=False):
    """A record that leaves by a side door, with the reason."""

    door: Door
    reason: str
    record: Record


class Schedule(msgspec.Struct, frozen=True):
    """What is due about a clicked impression, as slots.

    Args:
        after_click_ms: (slot, how long after the click), ascending in time.
        tells_conversion: whether `CONVERSION_SLOT` is due at the conversion.
        at_ages_ms: (slot, age of the click), ascending: due when a click that has converted comes of the age, those not below the
            delay of its conversion alone.
    """

    after_click_ms: tuple[tuple[int, int], ...]
    tells_conversion: bool = False
    at_ages_ms: tuple[tuple[int, int], ...] = ()


class Windows(msgspec.Struct, frozen=True):
    """How long things may take, in milliseconds of event time; as in the settings."""

    click_ms: int
    attribution_ms: int
    clock_skew_ms: int
    orphan_hold_ms: int


class PackedJoined(msgspec.Struct, frozen=True, array_like=True):
    """A `JoinedImpression` as a value that msgpack can carry."""

    impression: PackedEvent
    click_ms: int | None
    click_known_ms: int | None
    conversion_ms: int | None
    conversion_known_ms: int | None
    value: float | None


def pack_joined(joined: JoinedImpression) -> PackedJoined:
    """The joined impression as a value; `unpack_joined` gives it back."""
    impression, *facts = msgspec.structs.astuple(joined)
    return PackedJoined(pack(impression), *facts)


def unpack_joined(packed: PackedJoined) -> JoinedImpression:
    """The joined impression that `pack_joined` was given."""
    impression, *facts = msgspec.structs.astuple(packed)
    event = unpack(impression)
    assert isinstance(event, Impression)
    return JoinedImpression(event, *facts)
