"""A cut of a small run, with something in every part of it, for tests of what keeps cuts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec
import torch
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput, clicked, converted, line_of, shown

from models.schema import Feature, Labels, Network
from streaming.checkpoint import Cut
from streaming.ingest import Ingest
from streaming.log_file import Place
from streaming.pipeline import Pipeline
from streaming.settings import Batching, Cuts, EventTime, Settings, Windows

SETTINGS = Settings(
    windows=Windows(click_window_ms=10, observation_window_ms=20, attribution_window_ms=1_000),
    event_time=EventTime(out_of_orderness_ms=5, clock_skew_ms=1, alignment_ms=100),
    labels=Labels(method="survival"),
    batching=Batching(batch_size=4, batch_interval_ms=50),
    network=Network(towers=(4,), threads=1),
    cuts=Cuts(cut_interval_ms=100, cuts_kept=3),
    features=(Feature(name="user", kind="categorical"), Feature(name="price", kind="numeric")),
)


def small_pipeline(cuts: MemoryCuts, places: Mapping[str, Place] | None = None) -> Pipeline:
    """A pipeline over sixty impressions with clicks, conversions, orphans and a malformed line, read from these places on."""
    numbers = range(60)
    lines = {
        "impressions.jsonl": [line_of(shown(f"i{n}", 7 * n, b'{"user":"u%d","price":%d}' % (n % 5, n))) for n in numbers],
        "clicks.jsonl": [line_of(clicked(f"i{n}", 7 * n + 3)) for n in numbers if n % 3 == 0] + [b"garbage"],
        "conversions.jsonl": [line_of(converted(f"i{n}", 7 * n + 9, 1.5)) for n in numbers if n % 4 == 0],
    }  # fmt: skip
    source = ListLog(lines, SETTINGS, places)
    return Pipeline(
        SETTINGS, feed=Ingest(SETTINGS, source), output=MemoryOutput(), cuts=cuts, publisher=ListPublisher()
    )


@cache
def _bytes_of_cuts() -> tuple[tuple[bytes, dict[str, torch.Tensor]], ...]:
    cuts = MemoryCuts()
    for _ in small_pipeline(cuts).run():
        pass
    return tuple(cuts.committed)


def cut_of(number: int) -> tuple[Cut, dict[str, torch.Tensor]]:
    """A cut from the middle of the small run, called by this number."""
    data, tensors = _bytes_of_cuts()[2]
    return msgspec.structs.replace(msgspec.msgpack.decode(data, type=Cut), number=number), tensors
