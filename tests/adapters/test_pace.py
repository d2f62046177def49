"""A paced replay, on a clock that only moves when somebody sleeps."""

from __future__ import annotations

import pytest
from fakes import ListLog, line_of, shown

from streaming.adapters.pace import Paced
from streaming.settings import EventTime, Settings

HOUR = 3_600_000


class Clock:
    """Processing time that passes by sleeping, and by `work` each time it is read."""

    def __init__(self, work: float = 0.0) -> None:
        self.now, self._work = 1_000.0, work
        self.slept: list[float] = []

    def read(self) -> float:
        self.now += self._work
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


def log_of(*times: int) -> ListLog:
    settings = Settings(event_time=EventTime(future_skew_ms=10**12))  # an hour between records is no error here
    return ListLog({"impressions.jsonl": [line_of(shown(f"i{at}", at)) for at in times]}, settings, block=1)


def paced(clock: Clock, speed: float, *times: int) -> list[tuple[int, float]]:
    """(records, processing time at which they came) of each block, processing time from the start on."""
    source = Paced(log_of(*times), speed, clock=clock.read, sleep=clock.sleep)
    return [(len(arrivals.times), clock.now - 1_000.0) for arrivals in source if len(arrivals.times)]


def test_an_hour_takes_a_minute_at_sixty() -> None:
    # The last sixteen records may be future ones for all the source knows: they come in one block, at the end.
    hours = [hour * HOUR for hour in range(40)]
    came = paced(Clock(), 60.0, *hours)
    assert sum(records for records, _ in came) == 40
    shown_so_far = 0
    for records, at in came:
        shown_so_far += records
        assert at == pytest.approx((shown_so_far - came[0][0]) * 60.0)


def test_who_is_behind_does_not_sleep() -> None:
    clock = Clock(work=1_000.0)
    paced(clock, 60.0, *[hour * HOUR for hour in range(40)])
    assert clock.slept == []


def test_a_sleep_is_never_longer_than_an_hour() -> None:
    clock = Clock()
    paced(clock, 0.001, *[at * 100_000 for at in range(20)])
    assert max(clock.slept) == 3_600.0
    assert sum(clock.slept) == pytest.approx(clock.now - 1_000.0)


def test_it_says_how_far_its_source_was_read() -> None:
    log = log_of(0, HOUR)
    source = Paced(log, 1e9, clock=Clock().read, sleep=lambda _: None)
    assert sum(len(arrivals.times) for arrivals in source) == 2
    assert source.places() == log.places()
    assert source.places()["impressions.jsonl"].line == 3


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"--speed must be above 0 \(got .*seconds of event time a second, or max"):
        Paced(log_of(), speed)
