"""Arrival order and watermarks of a log: against the rule read literally, record by record."""

from __future__ import annotations

from fakes import T0, ListLog, clicked, converted, line_of, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.log_file import Place
from streaming.settings import EventTime, Settings, Windows

OUT_OF_ORDERNESS = 7
SETTINGS = Settings(
    windows=Windows(click_window_ms=50, observation_window_ms=100, attribution_window_ms=1_000),
    event_time=EventTime(out_of_orderness_ms=OUT_OF_ORDERNESS, alignment_ms=10, future_skew_ms=10**6),
)
FUTURE = Settings(
    windows=SETTINGS.windows,
    event_time=EventTime(out_of_orderness_ms=OUT_OF_ORDERNESS, alignment_ms=10, future_skew_ms=100),
)
MAKE = {"impressions": shown, "clicks": clicked, "conversions": converted}


def log_of(times: dict[str, list[int]]) -> dict[str, list[bytes]]:
    """Files of records at these times; each is called by its file and line."""
    return {
        name: [line_of(MAKE[name.split("-")[0]](f"{name}:{line}", at)) for line, at in enumerate(ats, 1)]
        for name, ats in times.items()
    }


def read(log: ListLog) -> tuple[list[tuple[str, int]], int | None, list[str]]:
    """(place, watermark met) of each record in arrival order, the final watermark, and where refused records stood."""
    met: list[tuple[str, int]] = []
    refused: list[str] = []
    final = None
    for arrivals in log:
        met += [(arrivals.at(i), int(arrivals.watermarks[i]) - T0) for i in range(len(arrivals.events))]
        refused += [record.at for record in arrivals.refused]
        final = arrivals.watermark_ms
    return met, None if final is None else final - T0, refused


def literal(times: dict[str, list[int]]) -> list[tuple[str, int]]:
    """The rule as it stands in the design: the file with the smallest next event time is read; clocks by max(seen, next unread)."""
    kinds = ["impressions", "clicks", "conversions"]
    files = sorted(times, key=lambda name: (kinds.index(name.split("-")[0]), name))
    at = dict.fromkeys(files, 0)
    seen: dict[str, float] = dict.fromkeys(files, float("-inf"))
    met: list[tuple[str, int]] = []
    watermark = float("-inf")
    while unread := [name for name in files if at[name] < len(times[name])]:
        clocks = [max(seen[name], times[name][at[name]]) for name in unread]
        watermark = max(watermark, min(clocks) - OUT_OF_ORDERNESS)
        name = min(unread, key=lambda name: (times[name][at[name]], files.index(name)))
        time = times[name][at[name]]
        met.append((f"{name}:{at[name] + 1}", int(watermark)))
        seen[name], at[name] = max(seen[name], time), at[name] + 1
    return met


def ahead_of_what_follows(times: list[int], skew: int) -> list[int]:
    """The lines, from 1, of the records that are more than the skew ahead of each of the next 16; all have so many."""
    return [
        line for line, at in enumerate(times, 1)
        if len(following := times[line : line + 16]) == 16 and at > max(following) + skew
    ]  # fmt: skip


file_times = st.lists(st.integers(0, 60), max_size=30)
logs = st.fixed_dictionaries(
    {},
    optional={"impressions": file_times, "impressions-2": file_times, "clicks": file_times, "conversions": file_times},
)


@hypothesis_settings(deadline=None, max_examples=300)
@given(logs, st.integers(1, 9))
def test_reads_and_clocks_as_the_rule_says(times: dict[str, list[int]], block: int) -> None:
    met, final, refused = read(ListLog(log_of(times), SETTINGS, block=block))
    assert met == literal(times)
    assert refused == []
    every = [time for ats in times.values() for time in ats]
    assert final == (max(every) - OUT_OF_ORDERNESS if every else None)


@hypothesis_settings(deadline=None, max_examples=100)
@given(logs, st.integers(1, 9), st.integers(1, 9), st.integers(0, 10))
def test_goes_on_from_where_it_was_left(times: dict[str, list[int]], block: int, other: int, stop: int) -> None:
    lines = log_of(times)
    whole, final, _ = read(ListLog(lines, SETTINGS, block=block))
    first = ListLog(lines, SETTINGS, block=block)
    met: list[tuple[str, int]] = []
    places: dict[str, Place] = first.places()
    for number, arrivals in enumerate(first):
        if number == stop:
            break
        met += [(arrivals.at(i), int(arrivals.watermarks[i]) - T0) for i in range(len(arrivals.events))]
        places = first.places()
    rest, last, _ = read(ListLog(lines, SETTINGS, places, block=other))
    assert met + rest == whole
    assert last == final


def test_a_watermark_never_promises_more_than_later_records_meet() -> None:
    log = ListLog(log_of({"impressions": [5, 9, 30, 8, 31], "clicks": [7, 40]}), SETTINGS, block=1)
    reached = None
    for arrivals in log:
        if reached is not None:
            assert all(watermark >= reached for watermark in arrivals.watermarks)
        reached = arrivals.watermark_ms


def test_an_isolated_record_from_the_future_is_refused_and_moves_no_clock() -> None:
    times = {"impressions": [*range(10), 10_000, *range(10, 40)], "clicks": [5, 39]}
    met, final, refused = read(ListLog(log_of(times), FUTURE))
    assert refused == ["impressions:11"]
    assert final == 39 - OUT_OF_ORDERNESS
    assert len(met) == 42


def test_a_record_ahead_of_its_next_sixteen_by_just_the_skew_is_not_from_the_future() -> None:
    ahead = {"impressions": [119, *range(4, 40)]}
    _, _, refused = read(ListLog(log_of(ahead), FUTURE))
    assert refused == []  # the largest of the next 16 is 19
    ahead["impressions"][0] = 120
    assert read(ListLog(log_of(ahead), FUTURE))[2] == ["impressions:1"]


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([0, 1, 20, 119, 120, 121, 140, 300]), max_size=60), st.integers(1, 70))
def test_a_record_is_from_the_future_as_the_rule_says(jumps: list[int], block: int) -> None:
    ahead = [*(at + jump for at, jump in enumerate(jumps)), *[len(jumps)] * 17]
    refused = read(ListLog(log_of({"impressions": ahead}), FUTURE, block=block))[2]
    assert refused == [f"impressions:{line}" for line in ahead_of_what_follows(ahead, 100)]


def test_the_last_record_on_time_is_not_from_the_future_because_late_ones_follow_it() -> None:
    times = {"impressions": [*range(300, 330), 10, 11]}
    assert read(ListLog(log_of(times), FUTURE))[2] == []


def test_a_last_record_far_beyond_everything_else_is_from_the_future() -> None:
    assert read(ListLog(log_of({"impressions": [1, 2, 103], "clicks": [2]}), FUTURE))[2] == ["impressions:3"]
    assert read(ListLog(log_of({"impressions": [1, 2, 102], "clicks": [2]}), FUTURE))[2] == []
    assert read(ListLog(log_of({"impressions": [1, 2], "clicks": [153]}), FUTURE))[2] == ["clicks:1"]


def test_the_last_conversion_may_come_an_attribution_window_after_everything_else() -> None:
    assert read(ListLog(log_of({"impressions": [1], "clicks": [2], "conversions": [1_102]}), FUTURE))[2] == []
    assert read(ListLog(log_of({"impressions": [1], "clicks": [2], "conversions": [1_103]}), FUTURE))[2] == [
        "conversions:1"
    ]


def test_a_single_record_has_nothing_to_be_held_against() -> None:
    assert read(ListLog(log_of({"clicks": [10**9]}), FUTURE)) == ([("clicks:1", 10**9 - 7)], 10**9 - 7, [])


def test_blank_lines_are_counted_and_malformed_ones_refused_in_their_place() -> None:
    good = [line_of(shown("a", 1)), b"", b"garbage", line_of(shown("b", 2)), b"", b"{"]
    for block in (1, 2, 6):
        met, _, refused = read(ListLog({"impressions": good}, SETTINGS, block=block))
        assert [place for place, _ in met] == ["impressions:1", "impressions:4"]
        assert refused == ["impressions:3", "impressions:6"]


def test_refused_records_are_not_told_again_after_going_on() -> None:
    lines = {
        "impressions": [line_of(shown("a", 1)), b"garbage", line_of(shown("b", 90)), b"{"],
        "clicks": [line_of(clicked("a", 50))],
    }
    log = ListLog(lines, SETTINGS, block=1)
    told: list[str] = []
    for arrivals in log:
        told += [record.at for record in arrivals.refused]
        rest = read(ListLog(lines, SETTINGS, log.places()))[2]
        assert told + rest == ["impressions:2", "impressions:4"]


def test_an_empty_log_has_no_watermark() -> None:
    assert read(ListLog({}, SETTINGS)) == ([], None, [])
    assert read(ListLog({"impressions": []}, SETTINGS)) == ([], None, [])
