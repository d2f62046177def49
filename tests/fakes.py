"""Stand-ins for the outside, and short ways to write events down, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import torch

from models.manifest import Published
from streaming.arrivals import ArrivalOrder, Arrivals
from streaming.checkpoint import Cut
from streaming.events import Click, Conversion, Event, EventDecoder, Impression, RecordKind
from streaming.ingest import Ingest
from streaming.join import Join
from streaming.log_file import Lines, LogFile, Place
from streaming.partitions import JoinPartition
from streaming.pipeline import Pipeline
from streaming.settings import Fields, Settings

T0 = 1_767_571_200_000
"""A Monday, 2026-01-05T00:00Z; times in tests are told relative to it."""

KIND_OF = {Impression: RecordKind.IMPRESSION, Click: RecordKind.CLICK, Conversion: RecordKind.CONVERSION}


def shown(name: str, at: int, features: bytes = b"{}") -> Impression:
    return Impression(name, T0 + at, msgspec.Raw(features))


def clicked(name: str, at: int) -> Click:
    return Click(name, T0 + at)


def converted(name: str, at: int, value: float | None = None) -> Conversion:
    return Conversion(name, T0 + at, value)


def line_of(event: Event) -> bytes:
    """The event as a log line."""
    fields: dict[str, object] = {"impression_id": event.impression_id, "event_time_ms": event.event_time_ms}
    if isinstance(event, Impression):
        fields["features"] = event.features
    if isinstance(event, Conversion) and event.value is not None:
        fields["value"] = event.value
    return msgspec.json.encode(fields)


def arrivals_of(events: Sequence[Event], watermarks: Sequence[int], *, first: int = 1) -> Arrivals:
    """Events as they arrive, each at a watermark (relative to T0); `first` numbers the first one."""
    n = len(events)
    return Arrivals(
        times=np.array([event.event_time_ms for event in events], np.int64),
        watermarks=np.array([T0 + watermark for watermark in watermarks], np.int64),
        kinds=np.array([int(KIND_OF[type(event)]) for event in events], np.int64),
        events=list(events),
        lines=[line_of(event) for event in events],
        names=("log",),
        files=np.zeros(n, np.int64),
        numbers=np.arange(first, first + n),
        refused=[],
        watermark_ms=None,
        is_last=False,
    )


class ListLog:
    """A log held in memory, as a source: lines by file name (`impressions...`, `clicks...`, `conversions...`)."""

    def __init__(
        self,
        lines: Mapping[str, Iterable[bytes]],
        settings: Settings | None = None,
        places: Mapping[str, Place] | None = None,
        *,
        block: int = 5,
    ) -> None:
        settings = settings or Settings()
        self._files = []
        for kind in RecordKind:
            for name in sorted(name for name in lines if name.startswith(kind.stem)):
                place = (places or {}).get(name, Place())
                decoder = EventDecoder(kind, Fields())
                self._files.append(LogFile(name, kind, decoder, _blocks(list(lines[name]), place, block), place))
        self._order = ArrivalOrder(
            self._files,
            out_of_orderness_ms=settings.event_time.out_of_orderness_ms,
            future_skew_ms=settings.event_time.future_skew_ms,
            leads_ms={
                RecordKind.IMPRESSION: 0,
                RecordKind.CLICK: settings.windows.click_window_ms,
                RecordKind.CONVERSION: settings.windows.attribution_window_ms,
            },
        )

    def __iter__(self) -> Iterator[Arrivals]:
        return iter(self._order)

    @property
    def partitions(self) -> tuple[int, ...]:
        return (0,)

    def places(self) -> dict[str, Place]:
        return {file.name: file.place for file in self._files}

    def snapshot(self) -> None: ...


def _blocks(lines: list[bytes], place: Place, size: int) -> Iterator[Lines]:
    start = place.start
    for first in range(place.line - 1, len(lines), size):
        block = lines[first : first + size]
        yield Lines(first + 1, block, start)
        start += sum(map(len, block)) + len(block)


def joins_of(pipeline: Pipeline) -> list[Join]:
    """The joins of a pipeline that ingests in this process, by partition."""
    feed = pipeline._feed
    assert isinstance(feed, Ingest)
    return [partition.join for partition in feed._partitions.values() if isinstance(partition, JoinPartition)]


class MemoryOutput:
    """Keeps what a run writes in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def append(self, name: str, data: bytes) -> None:
        self.files[name] = self.files.get(name, b"") + data

    def sync(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items() if name != "metrics.json"}

    def replace(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def cut_back(self, lengths: Mapping[str, int]) -> None:
        self.files = {name: data[: lengths.get(name, 0)] for name, data in self.files.items()}

    def rows(self, name: str) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) for line in self.files.get(name, b"").splitlines()]


class MemoryCuts:
    """Keeps cuts in memory, as the bytes they would be."""

    def __init__(self) -> None:
        self._written: tuple[bytes, dict[str, torch.Tensor]] | None = None
        self.committed: list[tuple[bytes, dict[str, torch.Tensor]]] = []

    def write(self, cut: Cut, tensors: dict[str, torch.Tensor]) -> None:
        self._written = (msgspec.msgpack.encode(cut), {name: tensor.clone() for name, tensor in tensors.items()})

    def commit(self) -> None:
        assert self._written is not None
        self.committed.append(self._written)

    def get(self, index: int) -> tuple[Cut, dict[str, torch.Tensor]]:
        data, tensors = self.committed[index]
        return msgspec.msgpack.decode(data, type=Cut), tensors


class ListPublisher:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.epochs = 0

    def issue_epoch(self) -> int:
        self.epochs += 1
        return self.epochs

    def publish(self, published: Published) -> str:
        self.published.append(published)
        return published.manifest.name
