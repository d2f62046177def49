"""What was polled from the `examples` topic, as a source of blocks. Must not know who polled it, or what is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from streaming.example_blocks import Block, BlockError, decode_block
from streaming.examples import Examples
from streaming.live import Polls
from streaming.log_file import ALWAYS, Place
from streaming.settings import Settings


@dataclass(frozen=True, slots=True)
class BlockArrivals:
    """Blocks of one join partition, in order of their offsets.

    Args:
        p: the join partition. now_ms: processing time, UTC epoch ms.
        blocks: with the offset of each, decoded. unread: (where it stood, why, value) of records that are no blocks.
        is_away: whether the brokers do not answer.
    """

    p: int
    now_ms: int
    blocks: list[tuple[int, Block, Examples]]
    unread: list[tuple[str, str, bytes]]
    is_away: bool = False

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self.blocks) + len(self.unread)

    @property
    def first_watermark_ms(self) -> int | None:
        """The first one that is told."""
        return next((block.watermark_ms for _, block, _ in self.blocks if block.watermark_ms is not None), None)


class BlockSource:
    """The `examples` topic as a source.

    Args:
        polls: looks at it. settings: what it is called, and how far a partition may be ahead of the others.
        partitions: how many it has. places: where each `topic[partition]` starts or was read to.
    """

    def __init__(self, polls: Polls, settings: Settings, *, partitions: int, places: Mapping[str, Place]) -> None:
        self._polls, self._alignment_ms = polls, settings.event_time.alignment_ms
        self._names = {f"{settings.kafka.topic('examples')}[{p}]": p for p in range(partitions)}
        self._places = dict(places)
        self._reached_ms: dict[str, int] = {
            name: place.key_ms for name, place in self._places.items() if place.key_ms > 0
        }
        self._busy: set[str] = set()  # have shown a block, and the last one said that p is not idle

    @property
    def partitions(self) -> tuple[int, ...]:
        """All there are."""
        return tuple(self._names.values())

    def __iter__(self) -> Iterator[BlockArrivals]:
        while (polled := self._polls.poll(self._ahead())) is not None:
            for name, p in self._names.items():
                records = polled.records.get(name, [])
                if not records and (p or any(polled.records.values())):
                    continue  # a look that showed nothing still says what time it is: once
                arrivals = BlockArrivals(p, polled.now_ms, [], [], polled.is_away)
                for offset, _, value in records:
                    try:
                        block, examples = decode_block(value or b"")
                        if block.p != p:
                            raise BlockError(f"a block of join partition {block.p}")
                        arrivals.blocks.append((offset, block, examples))
                    except BlockError as error:
                        arrivals.unread.append((f"{name}@{offset}", str(error), value or b""))
                blocks = [block for _, block, _ in arrivals.blocks if block.told.claimed_at is not None]
                if blocks:
                    (self._busy.discard if blocks[-1].is_idle else self._busy.add)(name)
                if records:
                    told = [block.watermark_ms or 0 for block in blocks]
                    self._reached_ms[name] = max([self._reached_ms.get(name, 0), *told])
                    self._places[name] = Place(records[-1][0] + 1, 0, self._reached_ms[name])
                yield arrivals

    def _ahead(self) -> frozenset[str]:
        """Partitions to be read no further until the others have caught up: what they hold waits in memory. Nobody waits for one that is idle."""
        least_ms = min((self._reached_ms[name] for name in self._busy), default=ALWAYS)
        return frozenset(name for name, ms in self._reached_ms.items() if ms - self._alignment_ms > least_ms)

    def places(self) -> dict[str, Place]:
        """How far each partition was handed on."""
        return dict(self._places)

    def snapshot(self) -> None:
        """Nothing: the places say it all."""
