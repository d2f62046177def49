"""Decoding: fields wherever a log keeps them, times in any unit, and a reason for every line that is no event."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.events import (
    MICROSECONDS_ABOVE_MS,
    SECONDS_BELOW_MS,
    Click,
    Conversion,
    Event,
    EventDecoder,
    Impression,
    Malformed,
    PackedEvent,
    RecordKind,
    Served,
    pack,
    unpack,
)
from streaming.settings import Fields

T0 = 1_767_571_200_000
IMPRESSION, CLICK, CONVERSION = RecordKind.IMPRESSION, RecordKind.CLICK, RecordKind.CONVERSION
OTHER_NAMES = Fields(
    impression_id="meta.request", event_time="at", join_key="user", features="x.y", served="shown", value="price.eur"
)


def decode_one(line: bytes, kind: RecordKind = CLICK, fields: Fields | None = None) -> Event | Malformed:
    (event,) = EventDecoder(kind, fields or Fields()).decode([line])
    return event


def values_of(event: Event | Malformed) -> tuple[object, ...]:
    """An event as a value that can be compared: raw bytes have no equality of their own."""
    if isinstance(event, Malformed):
        return msgspec.structs.astuple(event)
    return tuple(bytes(value) if isinstance(value, msgspec.Raw) else value for value in msgspec.structs.astuple(event))


def test_an_impression_keeps_its_features_as_they_were_written() -> None:
    line = b'{"features":{"a" : 1.50,"b":[] },"event_time_ms":1767571200000,"impression_id":"i","more":5}'
    event = decode_one(line, IMPRESSION)
    assert isinstance(event, Impression)
    assert (event.impression_id, event.event_time_ms, event.served) == ("i", T0, None)
    assert bytes(event.features) == b'{"a" : 1.50,"b":[] }'


def test_what_was_served_comes_along() -> None:
    line = b'{"impression_id":"i","event_time_ms":1767571200000,"features":{},"served":{"pctr":0.1,"pcvr":1,"x":0}}'
    event = decode_one(line, IMPRESSION)
    assert isinstance(event, Impression)
    assert event.served == Served(0.1, 1.0, None)


def test_a_conversion_may_have_a_value() -> None:
    plain = b'{"impression_id":"i","event_time_ms":1767571200000'
    assert decode_one(plain + b"}", CONVERSION) == Conversion("i", T0)
    assert decode_one(plain + b',"value":3}', CONVERSION) == Conversion("i", T0, 3.0)
    assert decode_one(plain + b',"value":null}', CONVERSION) == Conversion("i", T0)


@pytest.mark.parametrize("spaces", [b"", b" ", b"\t ", b"   "])
@pytest.mark.parametrize("features", [b"{}", b'{"a":1}'])
def test_spaces_after_the_colon_do_not_matter(spaces: bytes, features: bytes) -> None:
    line = b'{"impression_id":"i","event_time_ms":1767571200000,"features":' + spaces + features + b"}"
    event = decode_one(line, IMPRESSION)
    assert isinstance(event, Impression)
    assert bytes(event.features) == features


# --- other names, paths and units ------------------------------------------------------------------------------------------------


def test_names_and_paths_are_mapped() -> None:
    line = (
        b'{"meta":{"request":"r7"},"at":1767571200000,"user":"u","x":{"y":{"a":1}},"shown":{"pctr":0.5,"pcvr":0.25},'
        b'"price":{"eur":9.5}}'
    )
    event = decode_one(line, IMPRESSION, OTHER_NAMES)
    assert values_of(event) == ("r7", T0, b'{"a":1}', Served(0.5, 0.25), "u")
    assert decode_one(line, CLICK, OTHER_NAMES) == Click("r7", T0, "u")
    assert decode_one(line, CONVERSION, OTHER_NAMES) == Conversion("r7", T0, 9.5, "u")


def test_a_key_that_holds_a_dot_is_found_before_a_path() -> None:
    fields = Fields(impression_id="a.b")
    line = b'{"a":{"b":"path"},"a.b":"key","event_time_ms":1767571200000}'
    assert decode_one(line, CLICK, fields) == Click("key", T0)


FLAT = Fields(impression_id="request", event_time="at", features="")


def test_a_flat_record_is_its_own_features_object() -> None:
    line = b' {"request":"r7","at":1767571200000,"item":"\xc3\xa9","features":{"a":1}}\r'
    assert values_of(decode_one(line, IMPRESSION, FLAT)) == ("r7", T0, line.strip(), None, None)
    for broken, reason in (
        (b"[1]", "not a JSON object but list"),
        (b'"features":{', "not JSON"),
        (b'{"request":"r","at":1767571200000,"item":"\xff"}', "not UTF-8"),
        (b'{"at":1767571200000,"item":"a"}', "`impression_id`"),
    ):
        refused = decode_one(broken, IMPRESSION, FLAT)
        assert isinstance(refused, Malformed)
        assert reason in refused.reason


@pytest.mark.parametrize(
    ("unit", "written", "expected_ms"),
    [
        ("ms", "1767571200123", T0 + 123),
        ("s", "1767571200", T0),
        ("s", "1767571200.1235", T0 + 124),
        ("s", "1767571200.1234", T0 + 123),
        ("us", "1767571200123999", T0 + 123),
        ("iso8601", '"2026-01-05T00:00:00Z"', T0),
        ("iso8601", '"2026-01-05T01:00:00.250+01:00"', T0 + 250),
        ("iso8601", '"2026-01-05 00:00:00.1239"', T0 + 123),
        ("iso8601", '"2026-01-05"', T0),
    ],
)
def test_time_units(unit: str, written: str, expected_ms: int) -> None:
    fields = msgspec.convert({"time_unit": unit, "event_time": "t"}, Fields)
    assert decode_one(b'{"impression_id":"i","t":%s}' % written.encode(), CLICK, fields) == Click("i", expected_ms)


# --- refusals --------------------------------------------------------------------------------------------------------------------

ENVELOPE = b'"impression_id":"i","event_time_ms":1767571200000'
REFUSED: list[tuple[RecordKind, bytes, str, str | None, int | None]] = [
    (CLICK, b"garbage", "not JSON", None, None),
    (CLICK, b"", "not JSON", None, None),
    (CLICK, b'{"impression_id":"i"', "not JSON", None, None),
    (CLICK, b"{" + ENVELOPE + b"} {", "not JSON", None, None),
    (CLICK, b" \t ", "not JSON", None, None),
    (CLICK, b"\xff\xfe", "not JSON", None, None),
    (CLICK, b'{"impression_id":"\xff","event_time_ms":1767571200000}', "not JSON", None, None),
    (CLICK, b'{"impression_id":"\\ud800","event_time_ms":1767571200000}', "not JSON", None, None),
    (CLICK, b"[" * 100_000 + b"]" * 100_000, "not JSON: nested too deeply", None, None),
    (CLICK, b"{" + ENVELOPE + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", None, None),
    (CLICK, b"[]", "not a JSON object but list", None, None),
    (CLICK, b"null", "not a JSON object but NoneType", None, None),
    (CLICK, b'{"event_time_ms":1767571200000}', "missing required field `impression_id`", None, T0),
    (CLICK, b'{"impression_id":"","event_time_ms":1767571200000}', "length >= 1 at `impression_id`", "", T0),
    (CLICK, b'{"impression_id":7,"event_time_ms":1767571200000}', "got `int` at `impression_id`", None, T0),
    (CLICK, b'{"impression_id":"i"}', "event_time_ms: expected a whole number of ms, got None", "i", None),
    (CLICK, b'{"impression_id":"i","event_time_ms":true}', "expected a whole number of ms, got True", "i", None),
    (CLICK, b'{"impression_id":"i","event_time_ms":1767571200000.0}', "a whole number of ms", "i", None),
    (CLICK, b'{"impression_id":"i","event_time_ms":"1767571200000"}', "got '1767571200000'", "i", None),
    (CLICK, b'{"impression_id":"i","event_time_ms":99999999999999999999}', "expected a time in ms", "i", None),
    (CLICK, b'{"impression_id":"i","event_time_ms":1767571200}', "looks like seconds: set log.clicks", "i", T0 // 1000),
    (CONVERSION, b'{"impression_id":"i","event_time_ms":-5}', "looks like seconds: set log.conversions", "i", -5),
    (IMPRESSION, b'{"impression_id":"i","event_time_ms":1767571200000000,"features":{}}', "microsec", "i", T0 * 1000),
    (IMPRESSION, b"{" + ENVELOPE + b"}", "missing required field `features`", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":[1]}', "features must be a JSON object", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features": "a"}', "features must be a JSON object", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":null}', "features must be a JSON object", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":5,"x":{"features":{}}}', "features must be a JSON object", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":{"a":"\xff"}}', "not UTF-8: invalid start byte at byte 68", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":{},"served":5}', "got `int` at `served`", "i", T0),
    (IMPRESSION, b"{" + ENVELOPE + b',"features":{},"served":{"pctr":1}}', "missing required field `pcvr`", "i", T0),
    (CONVERSION, b"{" + ENVELOPE + b',"value":"3"}', "got `str` at `value`", "i", T0),
    (CONVERSION, b"{" + ENVELOPE + b',"value":1e999}', "not JSON: Number out of range", None, None),
]


@pytest.mark.parametrize(("kind", "line", "reason", "name", "at_ms"), REFUSED, ids=lambda value: str(value)[:70])
def test_a_line_that_is_no_event_is_refused_with_a_reason(
    kind: RecordKind, line: bytes, reason: str, name: str | None, at_ms: int | None
) -> None:
    refused = decode_one(line, kind)
    assert isinstance(refused, Malformed)
    assert reason in refused.reason
    assert "\n" not in refused.reason
    assert (refused.impression_id, refused.event_time_ms) == (name, at_ms)


@pytest.mark.parametrize(
    ("unit", "line", "reason"),
    [
        ("s", b'{"impression_id":"i","t":1767571200000}', "t is 1767571200000, which looks like microseconds after log.clicks"),
        ("us", b'{"impression_id":"i","t":1767571200000}', "t is 1767571200000, which looks like seconds after log.clicks"),
        ("us", b'{"impression_id":"i","t":1.5}', "t: expected a whole number of us, got 1.5"),
        ("s", b'{"impression_id":"i","t":1e300}', "t: expected a time in s, got 1e+300"),
        ("iso8601", b'{"impression_id":"i","t":1767571200000}', "t: expected an ISO 8601 text, got 1767571200000"),
        ("iso8601", b'{"impression_id":"i","t":"yesterday"}', "t: Invalid isoformat string: 'yesterday'"),
        ("iso8601", b'{"impression_id":"i","t":"0001-01-01T00:00:00+23:59"}', "looks like seconds after"),
    ],
)  # fmt: skip
def test_a_time_that_is_none_in_its_unit_is_refused(unit: str, line: bytes, reason: str) -> None:
    refused = decode_one(line, CLICK, msgspec.convert({"time_unit": unit, "event_time": "t"}, Fields))
    assert isinstance(refused, Malformed)
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("written", "is_iso"),
    [("2026-01-05 01:07:59+00", True), ("2026-01-05", True), ("noon", False), ("1700010100000", False)],
)
def test_a_text_that_reads_as_iso_8601_is_told_the_setting_for_it(written: str, is_iso: bool) -> None:
    refused = decode_one(b'{"impression_id":"i","event_time_ms":"%s"}' % written.encode())
    assert isinstance(refused, Malformed)
    reason = f"event_time_ms: expected a whole number of ms, got {written!r}"
    assert refused.reason == reason + (': set log.clicks.time_unit = "iso8601"' if is_iso else "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"at":1767571200000,"x":{"y":{}}}', "Expected `str`, got `null` at `impression_id`"),
        (b'{"meta":5,"at":1767571200000,"x":{"y":{}}}', "Expected `object`, got `int`"),
        (b'{"meta":{"request":"r"},"at":1767571200000,"x":{}}', "Object missing required field `x.y`"),
        (b'{"meta":{"request":"r"},"at":1767571200000,"x":{"y":7}}', "x.y must be a JSON object"),
        (b'{"meta":{"request":"r"},"at":1767571200000,"x":{"y":{}},"user":7}', "Expected `str | null`, got `int`"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_mapped_line_that_is_no_event_is_refused_with_a_reason(line: bytes, reason: str) -> None:
    refused = decode_one(line, IMPRESSION, OTHER_NAMES)
    assert isinstance(refused, Malformed)
    assert reason in refused.reason


@pytest.mark.parametrize("at_ms", [SECONDS_BELOW_MS, MICROSECONDS_ABOVE_MS])
def test_the_bounds_of_what_looks_like_milliseconds_count(at_ms: int) -> None:
    assert decode_one(b'{"impression_id":"i","event_time_ms":%d}' % at_ms) == Click("i", at_ms)


# --- laws ------------------------------------------------------------------------------------------------------------------------

good_lines = st.builds(
    lambda name, at, features: msgspec.json.encode(
        {"impression_id": name, "event_time_ms": T0 + at, "features": features, "value": 1.5}
    ),
    st.text(min_size=1, max_size=5),
    st.integers(0, 10**9),
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=3)), max_size=2),
)


@st.composite
def broken_lines(draw: st.DrawFn) -> bytes:
    line = draw(good_lines)
    place = draw(st.integers(0, len(line)))
    return line[:place] + draw(st.binary(max_size=3)) + line[place + draw(st.integers(0, 3)) :]


lines = st.lists(st.one_of(good_lines, broken_lines(), st.sampled_from([line for _, line, *_ in REFUSED])), max_size=8)


@hypothesis_settings(deadline=None, max_examples=150)
@given(lines, st.sampled_from(RecordKind))
def test_a_block_is_decoded_as_its_lines_one_by_one(block: list[bytes], kind: RecordKind) -> None:
    decoder = EventDecoder(kind, Fields())
    assert [values_of(event) for event in decoder.decode(block)] == [
        values_of(decoder.decode([line])[0]) for line in block
    ]


@pytest.mark.parametrize("kind", RecordKind)
def test_a_large_block_is_decoded_as_its_lines_one_by_one(kind: RecordKind) -> None:
    good = [
        msgspec.json.encode({"impression_id": f"i{n}", "event_time_ms": T0 + n, "features": {"a": n}})
        for n in range(50)
    ]
    block = good * 8
    for number, (_, line, *_) in enumerate(REFUSED):
        block.insert(number * 13, line)
    block[250:250] = [line for _, line, *_ in REFUSED]
    decoder = EventDecoder(kind, Fields())
    assert [values_of(event) for event in decoder.decode(block)] == [
        values_of(decode_one(line, kind)) for line in block
    ]


@hypothesis_settings(deadline=None, max_examples=150)
@given(lines, st.sampled_from(RecordKind))
def test_what_is_no_event_is_told_apart_with_its_position(block: list[bytes], kind: RecordKind) -> None:
    decoder = EventDecoder(kind, Fields())
    events, malformed = decoder.decode_apart(block)
    every = decoder.decode(block)
    assert [(index, event) for index, event in enumerate(every) if isinstance(event, Malformed)] == malformed
    assert [values_of(event) for event in every if not isinstance(event, Malformed)] == [*map(values_of, events)]


@hypothesis_settings(deadline=None, max_examples=150)
@given(lines, st.sampled_from(RecordKind))
def test_mapped_and_plain_decoding_agree(block: list[bytes], kind: RecordKind) -> None:
    plain = EventDecoder(kind, Fields()).decode(block)
    mapped = EventDecoder(kind, Fields(event_id="anything")).decode(block)
    for one, other in zip(plain, mapped, strict=True):
        assert type(one) is type(other)
        if not isinstance(one, Malformed):
            assert values_of(one) == values_of(other)


names = st.text(min_size=1, max_size=4)
times = st.integers(SECONDS_BELOW_MS, MICROSECONDS_ABOVE_MS)
shares = st.floats(0, 1)
keys = st.none() | names
events = st.one_of(
    st.builds(
        Impression,
        names,
        times,
        st.sampled_from([b"{}", b'{"a":"\xc3\xa9"}', b'{ "a" : 1.50 }']).map(msgspec.Raw),
        st.none() | st.builds(Served, shares, shares, st.none() | st.integers(0, 9)),
        keys,
    ),
    st.builds(Click, names, times, keys),
    st.builds(Conversion, names, times, st.none() | shares, keys),
)


@hypothesis_settings(deadline=None, max_examples=100)
@given(events)
def test_a_packed_event_comes_back_whole(event: Event) -> None:
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(event)), type=PackedEvent)
    back = unpack(packed)
    assert type(back) is type(event)
    assert values_of(back) == values_of(event)
