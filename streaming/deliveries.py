"""What the first half of the line hands to the second, and its half of a cut, as values. Must not know who makes or takes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from streaming.batching import Group
from streaming.join import JoinSnapshot
from streaming.log_file import Place
from streaming.metrics import IngestFigures


class HeldState(msgspec.Struct, frozen=True):
    """Examples that were joined elsewhere and wait, as `decode_examples` reads them; and by what it is known which have been seen.

    Args:
        mark_ms: when the newest seen are due; -1 before the first. at_mark: (impression_id, slot) of those.
        last: claim and number of the last block that was seen and not void; None before one.
    """

    examples: bytes
    mark_ms: int
    at_mark: list[tuple[str, int]]
    last: tuple[int, int] | None = None


class PartitionState(msgspec.Struct, frozen=True):
    """One join partition in a cut: how far its watermark has come, whether it is idle, and all that is open in it, here or in examples."""

    watermark_ms: int | None
    is_idle: bool
    join: JoinSnapshot | None = None
    held: HeldState | None = None


class IngestState(msgspec.Struct, frozen=True, kw_only=True):
    """The first half of a cut.

    Args:
        places: file or topic[partition] -> how far it was read. source: what else its source must remember.
        partitions: by number. watermark_ms: of all together. at_ms: the latest batch's time.
        batch: examples of the batch that is not full, as `decode_examples` reads them.
        figures: what was counted. is_closed: whether the run was closed at its end: nothing can follow.
        open_since_ms: live: processing time since which that batch has been open; None if no look has found it so yet.
        look_ms: live: processing time of the look within which it was taken; None if it was taken between two.
    """

    places: dict[str, Place]
    source: Any
    partitions: dict[int, PartitionState]
    watermark_ms: int | None
    at_ms: int
    batch: bytes
    figures: IngestFigures
    is_closed: bool
    open_since_ms: int | None = None
    look_ms: int | None = None


class Delivery(NamedTuple):
    """What one step of the watermark, or one look at the source, has brought.

    Args:
        records: read since the last one. read_bytes: of the source in all, as its places say. lines: for the outputs, as (name, bytes). groups: to be learned, in this order.
        figures: counts so far, as a value of their own.
        cut: the first half of a cut, if one is due once the groups are learned.
    """

    records: int
    read_bytes: int
    lines: list[tuple[str, bytes]]
    groups: list[Group]
    figures: IngestFigures
    cut: IngestState | None = None
