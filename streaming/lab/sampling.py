"""The first records of each stream of a log, decoded as far as they go; must not know what is concluded from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streaming.adapters.files import LogError, find_parts
from streaming.events import Event, EventDecoder, Impression, Malformed, RecordKind
from streaming.lab.clocks import Int64, behind_newest_ms, futures_of
from streaming.lab.columns import leaves
from streaming.lab.mapping import Mapped, find_fields
from streaming.lab.raw_lines import raw_lines
from streaming.settings import EventTime, Fields, Windows

RECORDS = (
    50_000  # of each stream: the rare feature values and the tails of delays show, and it takes two or three seconds
)
NAMED = 1_000  # records that the names of fields are read off
CELLS = 5_000_000  # feature values kept, about 400 MB; with a hundred features these are the records above

LAST_BYTES = 1 << 18  # read at the end of an uncompressed file, for how long the log is
SKEW_MS = EventTime().future_skew_ms
LEAD_MS = (
    Windows().attribution_window_ms
)  # the last record of a stream may be so far ahead of all others; windows are not known yet


@dataclass(slots=True)
class StreamSample:
    """What the first records of one stream showed.

    Args:
        mapped: where its records keep their envelope.
        ids: for each file the ids of the records that could be read, in the order in which they stand.
        times_ms: their event times.
        last_ms: the largest event time near the stream's end, None if nothing there could be read.
        is_whole: whether that was all of it.
        malformed: reasons of those that could not be read. broken: of files that could not be read on.
        future: records left out because they are stamped in the future.
    """

    mapped: Mapped
    ids: list[list[str]] = field(default_factory=list)
    times_ms: list[Int64] = field(default_factory=list)
    last_ms: int | None = None
    is_whole: bool = True
    malformed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    future: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.times_ms))

    def behind_ms(self) -> Int64:
        """How far each record is behind the newest that its file has shown before it."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *map(behind_newest_ms, self.times_ms)])

    def first_of_each(self) -> dict[str, int]:
        """The earliest event time of each impression_id."""
        first: dict[str, int] = {}
        for ids, times in zip(self.ids, self.times_ms, strict=True):
            for name, at_ms in zip(ids, times.tolist(), strict=True):
                first[name] = min(at_ms, first.get(name, at_ms))
        return first

    def span_ms(self) -> tuple[int, int] | None:
        """The smallest and the largest event time; None without records."""
        times = [time for part in self.times_ms if len(part) for time in (int(part.min()), int(part.max()))]
        return (min(times), max(times)) if times else None


@dataclass(slots=True)
class Sample:
    """The first records of a log. `columns` holds feature values by dotted path, of the first `rows` impressions."""

    streams: dict[RecordKind, StreamSample]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    rows: int = 0


def take_sample(log: Path, *, records: int = RECORDS) -> Sample:
    """Reads the first records of each stream of a log, and the last for how long it is.

    Raises:
        LogError: there is no log. What is wrong inside its files is in the sample.
    """
    parts = find_parts(log)
    opened = {kind: [_object(line) for line in islice(_lines(paths, []), NAMED)] for kind, paths in parts.items()}
    objects = {kind: [record for record in found if record is not None] for kind, found in opened.items()}
    sample = Sample({})
    for kind, paths in parts.items():
        others = [objects[other] for other in parts if other is not kind]
        stream = sample.streams[kind] = StreamSample(find_fields(kind.stem, objects[kind], others))
        decoder = EventDecoder(kind, stream.mapped.fields)
        left = records
        for path in paths:
            left = _read_part(path, decoder, stream, sample, left)
        last = [] if stream.is_whole else [_last_times_ms(paths[-1], decoder, stream)]
        # The end stands as a part of its own, so that a stray stamp in it is told from the log's true end.
        stream.times_ms += last
    _drop_futures(sample)
    for stream in sample.streams.values():
        span = stream.span_ms()
        stream.last_ms = None if span is None else span[1]
        del stream.times_ms[len(stream.ids) :]
    return sample


def decode_any(decoder: EventDecoder, lines: list[bytes]) -> list[Event | Malformed]:
    """One event, or the reason why it is none, for each line, however deep a line is nested."""
    try:
        return decoder.decode(lines)
    except RecursionError:
        if len(lines) == 1:
            return [Malformed("not JSON: nested too deep")]
        return [event for line in lines for event in decode_any(decoder, [line])]


def values_in(impression: Impression) -> list[tuple[str, Any]]:
    """The features of an impression by their paths; none where their object breaks inside, which decoding does not notice."""
    try:
        return list(leaves(msgspec.json.decode(impression.features)))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []


def _read_part(path: Path, decoder: EventDecoder, stream: StreamSample, sample: Sample, left: int) -> int:
    """Reads up to `left` records of a file; returns how many more are wanted."""
    if left <= 0:
        stream.is_whole = False
        return 0
    ids: list[str] = []
    times_ms: list[int] = []
    lines = _lines([path], stream.broken)
    while left > 0 and (block := list(islice(lines, min(left, 1_000)))):
        left -= len(block)
        for event in decode_any(decoder, block):
            if isinstance(event, Malformed):
                stream.malformed.append(event.reason)
                continue
            ids.append(event.impression_id)
            times_ms.append(event.event_time_ms)
            if isinstance(event, Impression):
                _add_features(event, stream.mapped.fields, sample)
    stream.ids.append(ids)
    stream.times_ms.append(np.array(times_ms, dtype=np.int64))
    stream.is_whole = stream.is_whole and next(lines, None) is None
    return left


def _add_features(impression: Impression, fields: Fields, sample: Sample) -> None:
    if sample.rows * len(sample.columns) > CELLS:
        return
    sample.rows += 1
    # Of a flat record the envelope is no feature.
    envelope = (fields.impression_id, fields.event_time, fields.event_id, fields.join_key, fields.served)
    for name, value in values_in(impression):
        if not fields.features and (name in envelope or name.startswith(f"{fields.served}.")):
            continue
        if value is not None:
            sample.columns.setdefault(name, []).append(value)


def _last_times_ms(path: Path, decoder: EventDecoder, stream: StreamSample) -> Int64:
    """The event times of the last lines of a file."""
    # An uncompressed file can be entered near its end; the first line there is cut and reads as malformed.
    start = max(path.stat().st_size - LAST_BYTES, 0) if path.name.endswith(".jsonl") else 0
    last: list[bytes] = []
    try:
        for block in raw_lines(path, start=start):
            last = (last + block.lines)[-1_000:]
    except LogError as error:
        stream.broken.append(str(error))
    events = decode_any(decoder, last)
    return np.array([event.event_time_ms for event in events if not isinstance(event, Malformed)], dtype=np.int64)


def _drop_futures(sample: Sample) -> None:
    streams = list(sample.streams.values())
    futures = futures_of([stream.times_ms for stream in streams], skew_ms=SKEW_MS, leads_ms=[LEAD_MS] * len(streams))
    for stream, parts in zip(streams, futures, strict=True):
        for place, (times, future) in enumerate(zip(stream.times_ms, parts, strict=True)):
            stream.times_ms[place] = times[~future]
            if place < len(stream.ids) and future.any():
                stream.future += int(future.sum())
                stream.ids[place] = [
                    name for name, ahead in zip(stream.ids[place], future.tolist(), strict=True) if not ahead
                ]


def _lines(paths: list[Path], broken: list[str]) -> Iterator[bytes]:
    for path in paths:
        try:
            for block in raw_lines(path):
                yield from filter(bytes.strip, block.lines)
        except LogError as error:
            broken.append(str(error))


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
