"""The live source: every record by one door, places that are exact, clocks that can be cut anywhere, a tape that gives the same again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import T0, clicked, converted, line_of, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.arrivals import Arrivals
from streaming.connection import Kafka
from streaming.counting import count_arrivals
from streaming.events import RecordKind
from streaming.live import LiveSource, Polled, start_places
from streaming.log_file import Place
from streaming.metrics import IngestFigures
from streaming.partitioning import partitions_of
from streaming.records import PolledRecord
from streaming.settings import EventTime, Settings, SettingsError

N = 2
TIME = EventTime(out_of_orderness_ms=10, alignment_ms=100, future_skew_ms=1_000)
SETTINGS = Settings(event_time=TIME, kafka=Kafka(model="m"))
NAMES = [f"m.{kind.stem}[{p}]" for kind in RecordKind for p in range(N)]


class ListPolls:
    """Polls from a list; remembers what was paused."""

    def __init__(self, looks: Iterable[Polled]) -> None:
        self._looks = iter(list(looks))
        self.paused: list[frozenset[str]] = []

    def poll(self, paused: frozenset[str]) -> Polled | None:
        self.paused.append(paused)
        return next(self._looks, None)


def source(looks: Iterable[Polled], settings: Settings = SETTINGS, partitions: int = N, **more: Any) -> LiveSource:
    places = more.pop(
        "places",
        start_places(dict.fromkeys([f"m.{kind.stem}[{p}]" for kind in RecordKind for p in range(partitions)], 0)),
    )
    return LiveSource(ListPolls(looks), settings, partitions=partitions, places=places, **more)


def look(now: int = 0, idle: dict[str, bool] | None = None, **records: list[PolledRecord]) -> Polled:
    """Records by stem, all of partition 0."""
    return Polled(T0 + now, {f"m.{stem}[0]": some for stem, some in records.items()}, idle or {})


def rows(arrivals: Arrivals) -> list[tuple[object, ...]]:
    columns = (arrivals.times, arrivals.watermarks, arrivals.kinds, arrivals.numbers)
    at = [arrivals.at(index) for index in range(len(arrivals.times))]
    return [*zip(*[column.tolist() for column in columns], at, arrivals.lines, arrivals.events, strict=True)]


def whole(arrivals: Arrivals) -> tuple[object, ...]:
    return rows(arrivals), arrivals.refused, arrivals.watermark_ms, arrivals.p, arrivals.is_idle


def one(looks: Iterable[Polled], settings: Settings = SETTINGS, partitions: int = 1) -> Arrivals:
    (found,) = source(looks, settings, partitions)
    return found


def test_records_arrive_with_their_places_and_watermarks() -> None:
    a = line_of(shown("a", 5))
    found = one([look(impressions=[(7, b"a", a)], clicks=[(3, None, line_of(clicked("a", 9)))])])
    assert [(found.at(index), found.times[index] - T0) for index in range(2)] == [
        ("m.impressions[0]@7", 5),
        ("m.clicks[0]@3", 9),
    ]
    assert found.lines[0] == a
    assert (found.watermark_ms, found.p, found.is_idle) == (None, 0, False)
    assert not (found.times < found.watermarks).any()


REFUSED: dict[str, tuple[PolledRecord, str]] = {
    "another key": (
        (4, b"b", line_of(clicked("a", 1))),
        r"its key is b'b', its join key b'a': .*under their join keys",
    ),
    "a tombstone": ((4, b"a", None), "no value"),
    "no JSON": ((4, b"a", b"{"), "not JSON"),
    "no time": ((4, b"a", b'{"impression_id":"a"}'), "event_time_ms"),
}


@pytest.mark.parametrize(("record", "says"), REFUSED.values(), ids=REFUSED)
def test_a_record_that_is_none_is_refused_where_it_stands(record: PolledRecord, says: str) -> None:
    good = (5, b"a", line_of(clicked("a", 2)))
    found = one([look(clicks=[record, good])])
    assert found.numbers.tolist() == [5]
    (refused,) = found.refused
    assert re.search(says, refused.reason)
    assert (refused.at, refused.line, refused.is_future) == ("m.clicks[0]@4", record[2] or b"", False)


def test_a_future_record_is_refused_as_one() -> None:
    found = one(
        [look(now=0, clicks=[(0, b"a", line_of(clicked("a", 1_001))), (1, b"b", line_of(clicked("b", 1_000)))])]
    )
    assert [(refused.is_future, refused.impression_id) for refused in found.refused] == [(True, "a")]
    assert found.numbers.tolist() == [1]


@pytest.mark.parametrize(("partitioner", "refuses"), [("murmur2", True), ("crc32", True), ("any", False)])
@pytest.mark.parametrize("is_keyed", [True, False])
def test_a_record_in_another_partition_than_its_keys_is_refused(
    partitioner: str, refuses: bool, is_keyed: bool
) -> None:
    settings = msgspec.structs.replace(SETTINGS, kafka=Kafka(model="m", partitioner=partitioner))  # type: ignore[arg-type]
    keys = [f"k{number}" for number in range(20)]
    records = [(n, key.encode() if is_keyed else None, line_of(clicked(key, n))) for n, key in enumerate(keys)]
    found = one([look(clicks=records)], settings, partitions=3)
    partitions = partitions_of([key.encode() for key in keys], 3, "murmur2" if partitioner == "any" else partitioner)  # type: ignore[arg-type]
    assert partitions is not None
    astray = np.flatnonzero(partitions != 0).tolist() if refuses else []
    assert [int(refused.at.partition("@")[2]) for refused in found.refused] == astray
    assert all(f"by {partitioner}: produce it with that" in refused.reason for refused in found.refused)


def test_what_was_handed_on_is_not_handed_on_again() -> None:
    records: list[PolledRecord] = [(n, None, line_of(clicked("a", n))) for n in range(4)]
    live = source([look(clicks=records)], partitions=1, places={"m.clicks[0]": Place(2)})
    assert [arrivals.numbers.tolist() for arrivals in live] == [[2, 3]]
    assert live.places() == {"m.clicks[0]": Place(4, 0, T0 + 3)}


def test_a_topic_that_is_not_of_the_settings_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"x\.clicks\[0\] was read, and \[kafka\] names no such topic"):
        list(source([Polled(0, {"x.clicks[0]": []}, {})]))


def test_who_runs_ahead_is_paused_until_the_others_have_come() -> None:
    ends = {name: True for name in NAMES if name.endswith("[0]") and name != "m.clicks[0]"}
    looks = [
        look(idle=ends, impressions=[(0, None, line_of(shown("a", 0))), (1, None, line_of(shown("b", 200)))]),
        look(now=200, clicks=[(0, None, line_of(clicked("a", 150)))]),
    ]
    polls = ListPolls(looks)
    list(LiveSource(polls, SETTINGS, partitions=1, places={}))
    assert polls.paused == [frozenset(), frozenset({"m.impressions[0]"}), frozenset()]


class Backlog:
    """Streams of partition 0 that are read a few records at a time, unless paused; at their ends they are idle."""

    def __init__(self, **unread: list[PolledRecord]) -> None:
        self._unread = {f"m.{stem}[0]": records for stem, records in unread.items()}

    def poll(self, paused: frozenset[str]) -> Polled | None:
        records = {name: some[:3] for name, some in self._unread.items() if some and name not in paused}
        if not records:
            assert not any(self._unread.values()), f"stands still: {paused}"
            return None
        for name, some in records.items():
            self._unread[name] = self._unread[name][len(some) :]
        ended = [f"m.{kind.stem}[0]" for kind in RecordKind if not self._unread.get(f"m.{kind.stem}[0]")]
        return Polled(T0 + DAY, records, dict.fromkeys(ended, True))


DAY = 86_400_000


@pytest.mark.parametrize("wrong", ["impressions", "clicks"])
def test_a_wrong_time_in_a_backlog_makes_nothing_late(wrong: str) -> None:
    times = range(0, 6_000, 20)
    streams = {
        "impressions": [(f"i{at}", shown(f"i{at}", at)) for at in times],
        "clicks": [(f"i{at}", clicked(f"i{at}", at + 5)) for at in times],
    }
    streams[wrong].insert(40, ("w", (shown if wrong == "impressions" else clicked)("w", DAY // 2)))
    backlog = Backlog(
        **{
            stem: [(offset, name.encode(), line_of(event)) for offset, (name, event) in enumerate(events)]
            for stem, events in streams.items()
        }
    )
    places = start_places(dict.fromkeys([f"m.{kind.stem}[0]" for kind in RecordKind], 0))
    arrived = list(LiveSource(backlog, SETTINGS, partitions=1, places=places))
    assert sum(arrivals.records for arrivals in arrived) == 2 * len(times) + 1
    assert [rows(arrivals) for arrivals in arrived if (arrivals.times < arrivals.watermarks).any()] == []


def test_a_stall_is_told_by_name_and_by_how_much_it_holds() -> None:
    settings = msgspec.structs.replace(SETTINGS, event_time=msgspec.structs.replace(TIME, alignment_ms=10_000))
    many = [(n, None, line_of(shown(f"i{n}", n // 10))) for n in range(200)]
    clicks = [(n, None, line_of(clicked(f"i{n}", n // 10))) for n in range(100)]
    more = [(200 + n, None, line_of(shown(f"j{n}", 100 + n))) for n in range(200)]
    live = source(
        [
            look(now=500, idle={"m.conversions[0]": True}, impressions=many, clicks=clicks),
            look(now=500, idle={"m.clicks[0]": True}),
            look(now=500, impressions=more),
        ],
        settings,
        1,
    )
    assert (live.stalled(), live.held_ms) == ([], 0)
    *_, last = live
    assert live.stalled() == ["m.clicks[0]"]
    assert live.held_ms == T0 + 299 - 10 - (last.watermark_ms or 0)
    assert live.held_ms > 0


def test_a_look_that_showed_nothing_says_what_time_it_is() -> None:
    """For batches that have been open for long; one for each part of a look, so that a tape gives the same."""
    for arrivals in list(source([look(), Polled(T0, {}, {"m.clicks[0]": False})])):
        assert (arrivals.records, arrivals.watermark_ms, arrivals.now_ms) == (0, None, T0)


def test_a_look_says_whether_the_brokers_are_away() -> None:
    looks = [look(), Polled(T0, {}, {}, True), Polled(T0, {}, {"m.clicks[0]": True}, True), look()]
    assert [arrivals.is_away for arrivals in source(looks)] == [False, True, True, False]
    figures = IngestFigures()
    for arrivals in source(looks[:2]):
        count_arrivals(figures, arrivals)
    assert figures.is_broker_away


IDS = [f"i{number}" for number in range(12)]
P_OF = dict(zip(IDS, partitions_of([name.encode() for name in IDS], N, "murmur2").tolist(), strict=True))  # type: ignore[union-attr]


@st.composite
def looks_of(draw: st.DrawFn) -> list[Polled]:
    offsets = dict.fromkeys(NAMES, 0)
    looks = []
    for _ in range(draw(st.integers(0, 6))):
        records: dict[str, list[PolledRecord]] = {}
        for kind, name, at in draw(
            st.lists(st.tuples(st.sampled_from(RecordKind), st.sampled_from(IDS), st.integers(0, 1_500)), max_size=8)
        ):
            event = (shown, clicked, converted)[kind](name, at)
            stream = f"m.{kind.stem}[{P_OF[name] if draw(st.integers(0, 9)) else 0}]"
            value = draw(st.sampled_from([line_of(event)] * 6 + [None, b"?"]))
            records.setdefault(stream, []).append((offsets[stream], name.encode(), value))
            offsets[stream] += 1
        idle = draw(st.dictionaries(st.sampled_from(NAMES), st.booleans(), max_size=4))
        looks.append(Polled(T0 + draw(st.integers(0, 600)), records, idle))
    return looks


@given(looks_of())
@hypothesis_settings(max_examples=60)
def test_every_record_leaves_by_one_door_and_the_places_tell_it(looks: list[Polled]) -> None:
    live, seen = source(looks), set()
    for arrivals in live:
        at = [arrivals.at(index) for index in range(len(arrivals.times))] + [refused.at for refused in arrivals.refused]
        assert len(set(at)) == len(at)
        assert seen.isdisjoint(at)
        seen.update(at)
        handed_on = {f"{name}@{offset}" for name, place in live.places().items() for offset in range(place.line)}
        assert handed_on == seen
    polled = {f"{name}@{offset}" for one in looks for name, some in one.records.items() for offset, _, _ in some}
    assert seen == polled


@given(looks_of())
@hypothesis_settings(max_examples=40)
def test_its_tape_gives_the_same_again(looks: list[Polled]) -> None:
    tape: list[bytes] = []
    live = source(looks, tap=lambda polled: tape.append(msgspec.msgpack.encode(polled)))
    first = [whole(arrivals) for arrivals in live]
    again = source([msgspec.msgpack.decode(data, type=Polled) for data in tape])
    assert [whole(arrivals) for arrivals in again] == first
    assert again.snapshot() == live.snapshot()


@given(looks_of(), st.integers(0, 12))
@hypothesis_settings(max_examples=60)
def test_cut_after_any_arrivals_it_goes_on_alike(looks: list[Polled], at: int) -> None:
    expected = [whole(arrivals) for arrivals in source(looks)]
    tape: list[Polled] = []
    live = source(looks, tap=tape.append)
    handed_on: Iterator[Arrivals] = iter(live)
    first = [whole(arrivals) for _, arrivals in zip(range(at), handed_on, strict=False)]
    places, clocks, length = live.places(), msgspec.msgpack.encode(live.snapshot()), len(tape)
    list(handed_on)
    resumed = source(tape[length:], places=places)
    resumed.restore(msgspec.msgpack.decode(clocks))
    assert first + [whole(arrivals) for arrivals in resumed] == expected
