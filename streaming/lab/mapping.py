"""Under which names a log keeps its envelope; must not know what is done with the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from streaming.settings import Fields, TimeUnit

# In the order in which they are tried, letters and digits only. The id must link the three streams: a click id that
# impressions carry too does, an id that each event has for itself does not, so those come last.
_IDENTITY = ("impressionid", "impid", "impression", "clickid", "clkid", "requestid", "reqid", "adid", "uuid", "id")
_TIME = ("eventtimems", "eventtime", "timestampms", "timestamp", "ts", "time", "eventts", "createdat", "datetime", "at")
_FEATURES = ("features", "feature", "feats", "attributes", "context", "properties", "payload", "data")
_VALUE = ("value", "conversionvalue", "revenue", "amount", "price")

# 2000 to 2100: narrow enough that neither a count nor a price is taken for a time.
_EARLIEST_MS, _LATEST_MS = 946_684_800_000, 4_102_444_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: tuple[TimeUnit, ...] = ("ms", "s", "us", "iso8601")
_MOSTLY = 0.9  # share of the records that must carry a field for it to be the one

Record = Mapping[str, Any]


class Mapped(msgspec.Struct, frozen=True):
    """Where the records of one stream seem to keep their envelope, and what could not be found.

    Args:
        fields: the names found, the usual ones where none was.
        lacking: by its usual name each thing that was not found, with the paths it might stand under.
    """

    fields: Fields
    lacking: Mapping[str, Sequence[str]]


def unit_of(value: Any) -> TimeUnit | None:
    """The unit in which a value must be a time, if it can be one: by its size, or because it reads as ISO 8601.

    Example:
        >>> [unit_of(value) for value in (1714564800, 1714564800000, 1714564800000000, "2024-05-01", "soon", 12)]
        ['s', 'ms', 'us', 'iso8601', None, None]
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        seconds = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
        return "iso8601" if _EARLIEST_MS <= seconds * 1000 < _LATEST_MS else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if _EARLIEST_MS <= value * 1000 < _LATEST_MS:
        return "s"
    if isinstance(value, int) and _EARLIEST_MS <= value < _LATEST_MS:
        return "ms"
    return "us" if isinstance(value, int) and _EARLIEST_MS <= value / 1000 < _LATEST_MS else None


def find_fields(stem: str, records: Sequence[Record], others: Sequence[Sequence[Record]] = ()) -> Mapped:
    """The names that fit the records of a stream best; the usual ones wherever those are there.

    Args:
        stem: impressions, clicks or conversions.
        records: some of its records, decoded.
        others: records of the other streams: of several ids, the one whose values they share is it.

    Example:
        >>> find_fields("clicks", [{"clickId": "c1", "ts": 1714564800}]).fields.event_time
        'ts'
    """
    usual = Fields()
    paths = [dict(_paths(record)) for record in records]
    elsewhere = [
        {value for record in stream for _, value in _paths(record) if _is_text(value)} for stream in others if stream
    ]
    lacking: dict[str, Sequence[str]] = {}

    identities = [path for path in _candidates(paths, _IDENTITY, usual.impression_id) if _mostly(paths, path, _is_text)]
    shared = [path for path in identities if all(_values(paths, path) & values for values in elsewhere)]
    identity = next(iter(shared or identities), None)
    times = [path for path in _candidates(paths, _TIME, usual.event_time) if _mostly(paths, path, unit_of)]
    stamped = [] if times else _all_times(paths)
    time = times[0] if times else stamped[0] if len(stamped) == 1 else None
    if identity is None:
        lacking[usual.impression_id] = ()
    if time is None:
        lacking[usual.event_time] = stamped
    units = [unit_of(found.get(time)) for found in paths] if time is not None else []

    features = usual.features
    if stem == "impressions":
        holders = [path for path in _candidates(paths, _FEATURES, features) if _mostly(paths, path, _is_object)]
        envelope = tuple(path for path in (identity, time) if path is not None)
        holders = holders[:1] or _objects(paths, envelope)
        if len(holders) > 1 or not records:
            lacking[features] = holders
        else:
            features = holders[0] if holders else ""  # no object: a flat record is its own features
    value = usual.value
    if stem == "conversions":
        values = [path for path in _candidates(paths, _VALUE, value) if _mostly(paths, path, _is_number)]
        value = values[0] if values else value
    return Mapped(
        Fields(
            impression_id=identity or usual.impression_id,
            event_time=time or usual.event_time,
            time_unit=max(_UNITS, key=units.count),  # the first, milliseconds, where none was found
            features=features,
            value=value,
        ),
        lacking,
    )


def _paths(record: Record, prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        yield prefix + key, value
        if isinstance(value, dict) and depth > 1:
            yield from _paths(value, f"{prefix}{key}.", depth - 1)


def _candidates(paths: Sequence[Mapping[str, Any]], names: Sequence[str], usual: str) -> list[str]:
    """Paths whose last name is one of `names`, best first; the outer ones before those further in."""
    seen = dict.fromkeys(path for found in paths for path in found)
    ranked = [
        (path != usual, names.index(name), path.count("."), path)
        for path in seen
        if (name := "".join(filter(str.isalnum, path.rsplit(".", 1)[-1].lower()))) in names
    ]
    return [path for *_, path in sorted(ranked)]


def _all_times(paths: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outermost paths at which mostly something, and never anything but a time, stands."""
    seen = dict.fromkeys(path for found in paths for path in found)
    times = [
        path
        for path in seen
        if _mostly(paths, path, unit_of) and all(unit_of(found[path]) for found in paths if path in found)
    ]
    outermost = min((path.count(".") for path in times), default=0)
    return [path for path in times if path.count(".") == outermost]


def _objects(paths: Sequence[Mapping[str, Any]], envelope: Sequence[str]) -> list[str]:
    """The outer objects that could hold the features: neither what was served nor what holds the id or the time."""
    seen = dict.fromkeys(path for found in paths for path in found if "." not in path)
    return [
        path
        for path in seen
        if path != Fields().served
        and not any(name.startswith(f"{path}.") for name in envelope)
        and _mostly(paths, path, _is_object)
    ]


def _mostly(paths: Sequence[Mapping[str, Any]], path: str, fits: Any) -> bool:
    return sum(bool(fits(found[path])) for found in paths if path in found) >= _MOSTLY * len(paths)


def _values(paths: Sequence[Mapping[str, Any]], path: str) -> set[Any]:
    return {found[path] for found in paths if _is_text(found.get(path))}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
