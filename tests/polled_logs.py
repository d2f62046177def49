"""A small log as the records of one join partition, and ways to divide them into looks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from worlds import lines_of, small_log, small_settings

from streaming.events import EventDecoder, RecordKind
from streaming.live import Polled
from streaming.records import PolledRecord
from streaming.settings import Settings

NOW_MS = 4_000_000_000_000
"""Later than anything in a log: nothing is from the future."""


def polled_log(
    path: Path, *, alignment_ms: int | None = None, **dials: object
) -> tuple[Settings, dict[str, list[PolledRecord]]]:
    """Its settings, and its records by `topic[0]`, each under its id."""
    log = small_log(path, **dials)
    event_time: dict[str, object] = {} if alignment_ms is None else {"alignment_ms": alignment_ms}
    settings = small_settings(log, labels={"method": "survival"}, event_time=event_time)
    lines = lines_of(log)
    records: dict[str, list[PolledRecord]] = {}
    for kind, fields in zip(
        RecordKind, (settings.log.impressions, settings.log.clicks, settings.log.conversions), strict=True
    ):
        own = lines[f"{kind.stem}.jsonl"]
        keys: list[bytes | None] = [None] * len(own)
        events, malformed = EventDecoder(kind, fields).decode_apart(own)
        bad = {index for index, _ in malformed}
        good = (index for index in range(len(own)) if index not in bad)
        for index, event in zip(good, events, strict=True):
            keys[index] = event.impression_id.encode()
        name = f"{settings.kafka.topic(kind.stem)}[0]"
        records[name] = [(offset, key, line) for offset, (key, line) in enumerate(zip(keys, own, strict=True))]
    return settings, records


def looks_of(records: dict[str, list[PolledRecord]]) -> list[Polled]:
    """All of it in one look, and then every stream idle."""
    return split_at(records, [])


def split_at(records: dict[str, list[PolledRecord]], at: list[float]) -> list[Polled]:
    """Looks that end at these shares of each stream; in the last, every stream is idle."""
    shares = [0.0, *sorted(at), 1.0]
    looks = [
        Polled(NOW_MS, {name: some[int(a * len(some)) : int(b * len(some))] for name, some in records.items()}, {})
        for a, b in pairwise(shares)
    ]
    looks = [Polled(NOW_MS, {name: some for name, some in look.records.items() if some}, {}) for look in looks]
    return [*looks, Polled(NOW_MS, {}, dict.fromkeys(records, True))]
