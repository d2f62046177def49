"""Reads a whole log once and says what is in it; must not know what is good or bad about that, nor how to print it.

Ids are kept as 64-bit hashes beside their times, 16 bytes a record, so that tens of millions of impressions fit memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from streaming.adapters.files import LogError, find_parts
from streaming.events import Event, EventDecoder, Impression, Malformed, RecordKind
from streaming.lab.clocks import Bool, Int64, behind_newest_ms, futures_of
from streaming.lab.findings import LogFindings, Quantiles, Refusal, StreamFindings, kind_of
from streaming.lab.following import Column, follow, silences
from streaming.lab.problems import advice_for, problems_in
from streaming.lab.raw_lines import raw_lines
from streaming.lab.sampling import decode_any, values_in
from streaming.log_file import FUTURE_LOOKAHEAD
from streaming.settings import Settings

SHOWN = 5  # malformed records, and reasons, shown of each stream
SAMPLED = 20_000  # impressions whose features are looked at: the first half of them, and
SAMPLED_AT_ONCE = 100  # so many of each further stretch of the log


def check_log(log: Path, settings: Settings) -> LogFindings:
    """What is in a log and what is wrong with it.

    Args:
        log: the log's directory.
        settings: names and units of its fields, and the windows and bounds that it is held against.

    Raises:
        LogError: there is no log at `log`. A file that cannot be read to its end is a finding, not an error.
    """
    parts = find_parts(log)
    read = {
        kind: _read(log, paths, EventDecoder(kind, getattr(settings.log, kind.stem))) for kind, paths in parts.items()
    }
    windows, time = settings.windows, settings.event_time
    futures = futures_of(
        [stream.parts() for stream in read.values()],
        skew_ms=time.future_skew_ms,
        leads_ms=(0, windows.click_window_ms, windows.attribution_window_ms),
    )
    newest_ms = max(
        (
            int(present.max())
            for stream, ahead in zip(read.values(), futures, strict=True)
            for part, future in zip(stream.parts(), ahead, strict=True)
            if len(present := part[~future])
        ),
        default=None,
    )
    streams = [
        _findings(log, kind, parts[kind], read[kind], ahead, time.out_of_orderness_ms, newest_ms)
        for kind, ahead in zip(read, futures, strict=True)
    ]
    shown, clicks, conversions = (
        stream.column().where(~np.concatenate([np.zeros(0, dtype=np.bool_), *ahead]))
        for stream, ahead in zip(read.values(), futures, strict=True)
    )
    impressions = shown.firsts()
    clicked, first_clicks = follow(
        impressions, clicks, window_ms=windows.click_window_ms, clock_skew_ms=time.clock_skew_ms
    )
    converted, _ = follow(
        first_clicks, conversions, window_ms=windows.attribution_window_ms, clock_skew_ms=time.clock_skew_ms
    )
    unclicked = conversions.where(~first_clicks.places_of(conversions)[1])
    last_ms = max((stream.last_ms for stream in streams if stream.last_ms is not None), default=0)
    final_ms = last_ms - time.out_of_orderness_ms
    found = LogFindings(
        log=str(log),
        streams=streams,
        repeated_impressions=len(shown) - len(impressions),
        clicks=clicked,
        conversions=converted,
        view_through=int(impressions.places_of(unclicked)[1].sum()),
        # A window is over when the watermark is past its end, strictly.
        open_impressions=int((impressions.times_ms + windows.click_window_ms >= final_ms).sum()),
        open_clicks=int((first_clicks.times_ms + windows.attribution_window_ms >= final_ms).sum()),
        sampled=read[RecordKind.IMPRESSION].sampled,
        values=dict(read[RecordKind.IMPRESSION].values.most_common()),
        gaps=silences("clicks", clicks.times_ms, shown.times_ms)
        + silences("conversions", conversions.times_ms, clicks.times_ms),
        advice=[],
    )
    found = msgspec.structs.replace(found, advice=advice_for(found, settings))
    return msgspec.structs.replace(found, problems=problems_in(found, settings))


@dataclass(slots=True)
class _Stream:
    """The records of one stream, in the order in which they stand."""

    ids: array[int] = field(default_factory=lambda: array("Q"))
    times_ms: array[int] = field(default_factory=lambda: array("q"))
    part_starts: list[int] = field(default_factory=list)
    malformed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    sampled: int = 0
    values: Counter[str] = field(default_factory=Counter)

    def column(self) -> Column:
        return Column(np.frombuffer(self.ids, dtype=np.uint64), np.frombuffer(self.times_ms, dtype=np.int64))

    def parts(self) -> list[Int64]:
        return np.split(self.column().times_ms, self.part_starts[1:])


def _read(log: Path, paths: list[Path], decoder: EventDecoder) -> _Stream:
    stream = _Stream()
    digest = xxhash.xxh3_64_intdigest
    for path in paths:
        stream.part_starts.append(len(stream.ids))
        try:
            for block in raw_lines(path):
                events = decode_any(decoder, block.lines)
                _look_into(events if stream.sampled < SAMPLED // 2 else events[:SAMPLED_AT_ONCE], stream)
                for place, event in enumerate(events):
                    if not isinstance(event, Malformed):
                        stream.ids.append(digest(event.impression_id.encode()))
                        stream.times_ms.append(event.event_time_ms)
                    elif line := block.lines[place].strip():
                        stream.malformed += 1
                        stream.reasons[kind_of(event.reason)] += 1
                        if len(stream.refusals) < SHOWN:
                            at = f"{path.relative_to(log)}:{block.first_line + place}"
                            stream.refusals.append(Refusal(at, event.reason, line[:200].decode(errors="replace")))
        except LogError as error:
            stream.broken.append(str(error))
    return stream


def _look_into(events: list[Event | Malformed], stream: _Stream) -> None:
    """Counts which features have values."""
    for event in events:
        if isinstance(event, Impression) and stream.sampled < SAMPLED:
            stream.sampled += 1
            stream.values.update({path for path, value in values_in(event) if value is not None})


def _findings(
    log: Path,
    kind: RecordKind,
    paths: list[Path],
    stream: _Stream,
    futures: list[Bool],
    bound_ms: int,
    newest_ms: int | None,
) -> StreamFindings:
    none = np.zeros(0, dtype=np.int64)
    kept = [part[~future] for part, future in zip(stream.parts(), futures, strict=True)] or [none]
    behind_ms = np.concatenate([behind_newest_ms(part) for part in kept])
    present = np.concatenate(kept)
    ahead = [part[future] for part, future in zip(stream.parts(), futures, strict=True)]
    # Within a file a record is held against what follows it; only the last ones against what came before, with a lead.
    all_at_ends = not any(future[: -FUTURE_LOOKAHEAD - 1].any() for future in futures)
    furthest_ms = max((int(times.max()) for times in ahead if len(times)), default=None)
    folder = log / kind.stem
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return StreamFindings(
        stem=kind.stem,
        files=[str(path.relative_to(log)) for path in paths],
        records=len(stream.ids) + stream.malformed,
        malformed=stream.malformed,
        malformed_reasons=dict(stream.reasons.most_common(SHOWN)),
        malformed_samples=stream.refusals,
        future=len(stream.ids) - len(present),
        ahead_ms=furthest_ms - newest_ms if furthest_ms is not None and newest_ms is not None and all_at_ends else None,
        first_ms=int(present.min()) if len(present) else None,
        last_ms=int(present.max()) if len(present) else None,
        behind_ms=Quantiles.of(behind_ms),
        late=int((behind_ms > bound_ms).sum()),
        broken=stream.broken,
        strangers=[str(path.relative_to(log)) for path in inside if path not in paths],
    )
