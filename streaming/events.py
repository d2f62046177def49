"""What happened, as it was logged: typed records out of bytes, and refusals. Must not know streams, windows or features."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any

import msgspec

from streaming.settings import Fields

SECONDS_BELOW_MS = 100_000_000_000
"""An event_time_ms below this (3 March 1973) is a time in seconds; nobody logged clicks then."""
MICROSECONDS_ABOVE_MS = 100_000_000_000_000
"""An event_time_ms above this (the year 5138) is a time in microseconds."""

EventTimeMs = Annotated[int, msgspec.Meta(ge=SECONDS_BELOW_MS, le=MICROSECONDS_ABOVE_MS)]
Identifier = Annotated[str, msgspec.Meta(min_length=1)]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK = 256
"""Lines that are looked at one after the other in every way before the next: they stay in the processor's cache."""
_is_object = bytearray(b"{").__le__
"""Whether JSON text is an object: no other value's first byte is as large as a brace. A comparison copies nothing."""
_REFUSED = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
"""What decoding a line may raise: no line, however broken or deep, is more than a `Malformed`."""


class RecordKind(IntEnum):
    """Which stream a record came by; the order in which equal event times take effect."""

    IMPRESSION = 0
    CLICK = 1
    CONVERSION = 2

    @property
    def stem(self) -> str:
        """The name of its file or topic: `impressions`, `clicks`, `conversions`."""
        return self.name.lower() + "s"


class Served(msgspec.Struct, frozen=True, gc=False):
    """The prediction an impression was shown under, if it was logged."""

    pctr: float
    pcvr: float
    weights_version: int | None = None


class Impression(msgspec.Struct, frozen=True, gc=False):
    """Something was shown. `features` stays raw bytes (a JSON object, format "json") until batching."""

    impression_id: Identifier
    event_time_ms: EventTimeMs
    features: msgspec.Raw
    served: Served | None = None
    join_key: str | None = None
    """What the state is kept by, where it is not the impression_id."""


class Click(msgspec.Struct, frozen=True, gc=False):
    """An impression was clicked."""

    impression_id: Identifier
    event_time_ms: EventTimeMs
    join_key: str | None = None


class Conversion(msgspec.Struct, frozen=True, gc=False):
    """A click became what the advertiser wanted. `value` is what it was worth, in the log's own unit."""

    impression_id: Identifier
    event_time_ms: EventTimeMs
    value: float | None = None
    join_key: str | None = None


Fact = Click | Conversion
Event = Impression | Click | Conversion


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """A record that is no event: why, and what of its envelope could be read."""

    reason: str
    impression_id: str | None = None
    event_time_ms: int | None = None


_EVENT_OF: dict[RecordKind, type[Impression] | type[Click] | type[Conversion]] = {
    RecordKind.IMPRESSION: Impression,
    RecordKind.CLICK: Click,
    RecordKind.CONVERSION: Conversion,
}


class EventDecoder:
    """Decodes the records of one stream, in blocks.

    Args:
        kind: which stream.
        fields: where its records keep their envelope.

    Example:
        >>> decoder = EventDecoder(RecordKind.CLICK, Fields())
        >>> decoder.decode([b'{"impression_id":"a","event_time_ms":1767571200000}'])
        [Click(impression_id='a', event_time_ms=1767571200000, join_key=None)]
        >>> decoder.decode([b'{"impression_id":"a","event_time_ms":1767571200}'])[0].reason
        'event_time_ms is 1767571200, which looks like seconds: set log.clicks.time_unit = "s"'
    """

    def __init__(self, kind: RecordKind, fields: Fields) -> None:
        self._kind = kind
        self._fields = fields
        self._stem = kind.stem
        if fields == Fields():
            self._decode: Callable[[bytes], Event] = msgspec.json.Decoder(_EVENT_OF[kind]).decode
        else:
            self._decode = _mapped_decode(kind, fields)

    def decode(self, lines: list[bytes]) -> list[Event | Malformed]:
        """One event, or the reason why it is none, for each line."""
        events, malformed = self.decode_apart(lines)
        found: list[Event | Malformed] = [*events]
        for index, why in malformed:
            found.insert(index, why)
        return found

    def decode_apart(self, lines: list[bytes]) -> tuple[list[Event], list[tuple[int, Malformed]]]:
        """The events; and apart from them the lines that are none, each with its position among all lines."""
        events: list[Event] = []
        malformed: list[tuple[int, Malformed]] = []
        for start in range(0, len(lines), _CHUNK):
            good, bad = self._decode_chunk(lines[start : start + _CHUNK])
            events += good
            malformed += [(start + index, why) for index, why in bad]
        return events, malformed

    def _decode_chunk(self, lines: list[bytes]) -> tuple[list[Event], list[tuple[int, Malformed]]]:
        decode, unread = self._decode, iter(lines)
        events: list[Event] = []
        malformed: list[tuple[int, Malformed]] = []
        while len(events) + len(malformed) < len(lines):
            try:
                events.extend(map(decode, unread))  # those before a line that raises stay
            except _REFUSED as error:
                index = len(events) + len(malformed)
                malformed.append((index, self._refuse(lines[index], str(error))))
        is_text = all(map(bytes.isascii, lines)) or _is_utf8(b"\n".join(lines))
        if is_text and (self._kind != RecordKind.IMPRESSION or _are_objects(events)):
            return events, malformed
        refused, decoded, kept = dict(malformed), iter(events), []
        for index, line in enumerate(lines):
            if index in refused:
                continue
            event = next(decoded)
            reason = self._fault(line, event)
            if reason is None:
                kept.append(event)
            else:
                refused[index] = Malformed(reason, event.impression_id, event.event_time_ms)
        return kept, sorted(refused.items())

    def _fault(self, line: bytes, event: Event) -> str | None:
        """What msgspec lets pass: it skips over raw features without looking inside their strings, and accepts any JSON there."""
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason} at byte {error.start}"
        if type(event) is Impression and not _is_object(event.features):
            return f"{self._fields.features} must be a JSON object"
        return None

    def _refuse(self, line: bytes, reason: str) -> Malformed:
        try:
            record = msgspec.json.decode(line)
        except RecursionError:
            return Malformed("not JSON: nested too deeply to be read")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Malformed(f"not JSON: {error}")
        if not isinstance(record, dict):
            return Malformed(f"not a JSON object but {type(record).__name__}")
        found_id = _at(record, self._fields.impression_id)
        found_time = _at(record, self._fields.event_time)
        impression_id = found_id if isinstance(found_id, str) else None
        event_time_ms: int | None = None
        try:
            event_time_ms = _to_ms(found_time, self._fields.time_unit)
        except ValueError as error:
            reason = f"{self._fields.event_time}: {error}"
            if self._fields.time_unit != "iso8601" and _is_iso8601(found_time):
                reason += f': set log.{self._stem}.time_unit = "iso8601"'
        if event_time_ms is not None and event_time_ms < SECONDS_BELOW_MS:
            reason = _looks_like(self._fields, self._stem, found_time, "seconds", "s")
        elif event_time_ms is not None and event_time_ms > MICROSECONDS_ABOVE_MS:
            reason = _looks_like(self._fields, self._stem, found_time, "microseconds", "us")
        return Malformed(reason.replace(" - at `$.", " at `"), impression_id, event_time_ms)


def _looks_like(fields: Fields, stem: str, value: object, unit: str, code: str) -> str:
    reason = f"{fields.event_time} is {value}, which looks like {unit}"
    return (
        f'{reason}: set log.{stem}.time_unit = "{code}"'
        if fields.time_unit == "ms"
        else f"{reason} after log.{stem}.time_unit"
    )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _are_objects(events: list[Event]) -> bool:
    """Whether the features of all these impressions are; .1 us each."""
    return all(map(_is_object, [event.features for event in events]))  # type: ignore[union-attr]


def _at(record: Any, path: str) -> Any:
    """What stands at a path of dotted names; None where there is nothing."""
    if isinstance(record, dict) and path in record:
        return record[path]
    for name in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(name)
    return record


def _to_ms(value: Any, unit: str) -> int:
    """A logged time as UTC epoch milliseconds: microseconds rounded down, fractions of a second to the nearest.

    Raises:
        ValueError: `value` is no time in `unit`.
    """
    if unit == "iso8601":
        if not isinstance(value, str):
            raise ValueError(f"expected an ISO 8601 text, got {value!r}")
        when = datetime.fromisoformat(value)
        return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, bool) or not isinstance(value, int | float) or (unit != "s" and isinstance(value, float)):
        raise ValueError(f"expected a whole number of {unit}, got {value!r}")
    if value != value or abs(value) > 1e19:
        raise ValueError(f"expected a time in {unit}, got {value!r}")
    if unit == "s":
        return round(value * 1000)
    return int(value) // 1000 if unit == "us" else int(value)


def _is_iso8601(value: Any) -> bool:
    """Whether a value is a text that names a moment of the years in which events are logged."""
    try:
        return SECONDS_BELOW_MS <= _to_ms(value, "iso8601") <= MICROSECONDS_ABOVE_MS
    except (ValueError, OverflowError):
        return False


def _mapped_decode(kind: RecordKind, fields: Fields) -> Callable[[bytes], Event]:
    """A decoder for logs with other names, paths or units: slower (about 3 us a record), the same events and refusals."""
    raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    convert = msgspec.convert
    event_type = _EVENT_OF[kind]

    def read(record: dict[str, msgspec.Raw], path: str) -> msgspec.Raw | None:
        if path in record:
            return record[path]
        *outer, last = path.split(".")
        for name in outer:
            if name not in record:
                return None
            record = raw(record[name])
        return record.get(last)

    def value(record: dict[str, msgspec.Raw], path: str) -> Any:
        found = read(record, path)
        return None if found is None else msgspec.json.decode(found)

    def decode(line: bytes) -> Event:
        record = raw(line)
        envelope: dict[str, Any] = {
            "impression_id": value(record, fields.impression_id),
            "event_time_ms": _to_ms(value(record, fields.event_time), fields.time_unit),
            "join_key": None if fields.join_key is None else value(record, fields.join_key),
        }
        if kind == RecordKind.CONVERSION:
            envelope["value"] = value(record, fields.value)
        if kind == RecordKind.IMPRESSION:
            envelope["served"] = value(record, fields.served)
            # No path: a flat record, which is its own features object.
            features = read(record, fields.features) if fields.features else msgspec.Raw(line.strip())
            if features is None:
                raise msgspec.ValidationError(f"Object missing required field `{fields.features}`")
            checked = convert(envelope | {"features": msgspec.Raw(b"{}")}, Impression)
            return Impression(checked.impression_id, checked.event_time_ms, features, checked.served, checked.join_key)
        return convert(envelope, event_type)

    return decode


class PackedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event as a value that msgpack can carry, its raw features byte for byte."""

    kind: RecordKind
    impression_id: str
    event_time_ms: int
    join_key: str | None
    features: bytes = b""
    served: Served | None = None
    value: float | None = None


def pack(event: Event) -> PackedEvent:
    """The event as a value; `unpack` gives it back."""
    if isinstance(event, Impression):
        return PackedEvent(
            RecordKind.IMPRESSION,
            event.impression_id,
            event.event_time_ms,
            event.join_key,
            bytes(event.features),
            event.served,
        )
    if isinstance(event, Click):
        return PackedEvent(RecordKind.CLICK, event.impression_id, event.event_time_ms, event.join_key)
    return PackedEvent(
        RecordKind.CONVERSION, event.impression_id, event.event_time_ms, event.join_key, value=event.value
    )


def unpack(packed: PackedEvent) -> Event:
    """The event that `pack` was given."""
    if packed.kind == RecordKind.IMPRESSION:
        return Impression(
            packed.impression_id, packed.event_time_ms, msgspec.Raw(packed.features), packed.served, packed.join_key
        )
    if packed.kind == RecordKind.CLICK:
        return Click(packed.impression_id, packed.event_time_ms, packed.join_key)
    return Conversion(packed.impression_id, packed.event_time_ms, packed.value, packed.join_key)
