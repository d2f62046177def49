import pytest

from streaming.lab.verify_lines import Envelope, Refused
from streaming.settings import Fields


@pytest.mark.parametrize(
    ("unit", "told", "time_ms"),
    [
        ("ms", "1700000000123", 1700000000123),
        ("s", "1700000000", 1700000000000),
        ("s", "1700000000.123", 1700000000123),
        ("us", "1700000000123999", 1700000000123),
        ("iso8601", '"2023-11-14T22:13:20.123999Z"', 1700000000123),
        ("iso8601", '"2023-11-14T23:13:20+01:00"', 1700000000000),
        ("iso8601", '"2023-11-14 22:13:20"', 1700000000000),
        ("ms", "true", None),
        ("ms", "1700000000123.0", None),
        ("us", "1700000000123999.0", None),
        ("s", '"1700000000"', None),
        ("s", "1e400", None),
        ("iso8601", "1700000000123", None),
        ("iso8601", '"yesterday"', None),
        ("ms", "99999999999", None),
        ("ms", "100000000000001", None),
    ],
)
def test_times_are_read_in_their_unit_or_refused(unit: str, told: str, time_ms: int | None) -> None:
    read = Envelope(1, Fields(time_unit=unit)).read  # type: ignore[arg-type]
    line = f'{{"impression_id": "a", "event_time_ms": {told}}}'.encode()
    if time_ms is None:
        with pytest.raises(Refused):
            read(line)
    else:
        assert read(line) == ("a", time_ms, None)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (0, '"features": []'),
        (0, '"features": {}, "served": 1'),
        (0, '"features": {}, "served": {"pctr": 0.1}'),
        (0, '"features": {}, "served": {"pctr": 0.1, "pcvr": "0.1"}'),
        (2, '"value": true'),
        (2, '"value": "1"'),
        (2, '"value": 1e400'),
        (2, f'"value": 1{"0" * 400}'),
        (1, '"impression_id": "\\ud800"'),
        (1, '"impression_id": null'),
    ],
)
def test_a_mistyped_envelope_is_refused(kind: int, more: str) -> None:
    with pytest.raises(Refused):
        Envelope(kind, Fields()).read(f'{{"impression_id": "a", "event_time_ms": 1700000000000, {more}}}'.encode())


def test_the_last_of_two_equal_keys_counts() -> None:
    line = b'{"impression_id": "a", "event_time_ms": 1, "event_time_ms": 1700000000000, "value": 3, "value": null}'
    assert Envelope(2, Fields()).read(line) == ("a", 1700000000000, None)
