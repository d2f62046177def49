"""The join: its table case by case, its laws over generated input, and a second writing by brute force."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest
from fakes import T0, arrivals_of, clicked, converted, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import Click, Event, Impression
from streaming.join import Join
from streaming.joined import CONVERSION_SLOT, Due, Schedule, Side, Windows

WINDOWS = Windows(click_ms=10, attribution_ms=100, clock_skew_ms=2, orphan_hold_ms=12)
SCHEDULE = Schedule(after_click_ms=((1, 20), (193, 100)))  # observed 20 after the click, outcome with the window
TELLING = Schedule(
    SCHEDULE.after_click_ms, tells_conversion=True, at_ages_ms=((129, 3), (130, 20), (131, 60), (132, 100))
)
LATE = 1_000


@dataclass
class Case:
    """Events in arrival order, each with the watermark it meets; what is due and what left by a side door in the end."""

    says: str
    arrivals: list[tuple[Event, int]]
    due: list[tuple[int, int, str, int | None, int | None]]  # due, slot, id, click, conversion, relative to T0
    doors: list[str]
    until: int = 1_000


A, B = "a", "b"
CASES = [
    Case(
        "an impression without a click closes after the click window", [(shown(A, 0), 0)], [(10, 0, A, None, None)], []
    ),
    Case(
        "a click at the window's very end counts",
        [(shown(A, 0), 0), (clicked(A, 10), 0)],
        [(10, 0, A, 10, None), (30, 1, A, 10, None), (110, 193, A, 10, None)],
        [],
    ),
    Case(
        "a click one past the window is out of window",
        [(shown(A, 0), 0), (clicked(A, 11), 0)],
        [(10, 0, A, None, None)],
        ["out_of_window"],
    ),
    Case(
        "a conversion at the attribution window's very end counts",
        [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, 105), 0)],
        [(10, 0, A, 5, 105), (25, 1, A, 5, 105), (105, 193, A, 5, 105)],
        [],
    ),
    Case(
        "a conversion one past the attribution window is out of window",
        [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, 106), 0)],
        [(10, 0, A, 5, None), (25, 1, A, 5, None), (105, 193, A, 5, None)],
        ["out_of_window"],
    ),
    Case(
        "the earliest click makes the label, whatever came first",
        [(shown(A, 0), 0), (clicked(A, 7), 0), (clicked(A, 4), 0)],
        [(10, 0, A, 4, None), (24, 1, A, 4, None), (104, 193, A, 4, None)],
        ["duplicates"],
    ),
    Case(
        "a late click never displaces the one that is there",
        [(shown(A, 0), 0), (clicked(A, 7), 0), (clicked(A, 4), 9)],
        [(10, 0, A, 7, None), (27, 1, A, 7, None), (107, 193, A, 7, None)],
        ["duplicates"],
    ),
    Case(
        "a late click of an open impression is used",
        [(shown(A, 0), 0), (clicked(A, 4), 10)],
        [(10, 0, A, 4, None), (24, 1, A, 4, None), (104, 193, A, 4, None)],
        [],
    ),
    Case(
        "a late click of a closed impression is late",
        [(shown(A, 0), 0), (clicked(A, 4), 11)],
        [(10, 0, A, None, None)],
        ["late"],
    ),
    Case(
        "a click up to the clock skew before its impression counts as at its time",
        [(clicked(A, -2), -5), (shown(A, 0), -5)],
        [(10, 0, A, 0, None), (20, 1, A, 0, None), (100, 193, A, 0, None)],
        [],
    ),
    Case(
        "a click further before its impression is out of window",
        [(clicked(A, -3), -5), (shown(A, 0), -5)],
        [(10, 0, A, None, None)],
        ["out_of_window"],
    ),
    Case(
        "a redelivered impression is a duplicate while open and while remembered",
        [(shown(A, 0), 0), (shown(A, 0), 0), (shown(A, 22), 0)],
        [(10, 0, A, None, None)],
        ["duplicates", "duplicates"],
    ),
    Case(
        "an id that was forgotten is a new impression",
        [(shown(A, 0), 0), (shown(A, 23), 0)],
        [(10, 0, A, None, None), (33, 0, A, None, None)],
        [],
    ),
    Case(
        "an impression that arrives after its closing is late",
        [(shown(B, 50), 0), (shown(A, 0), 11)],
        [(60, 0, B, None, None)],
        ["late"],
    ),
    Case(
        "an impression that arrives late but in its window is used, with the click that waited for it",
        [(clicked(A, 4), 0), (shown(A, 0), 10)],
        [(10, 0, A, 4, None), (24, 1, A, 4, None), (104, 193, A, 4, None)],
        [],
    ),
    Case("a click without an impression is an orphan after the hold", [(clicked(A, 4), 0)], [], ["orphans"]),
    Case("a late click without an impression is late after the hold", [(clicked(A, 4), 5)], [], ["late"]),
    Case("a held click is open while the hold lasts", [(clicked(A, 4), 0)], [], [], until=16),
    Case(
        "a conversion without a click is an orphan",
        [(shown(A, 0), 0), (converted(A, 5), 0)],
        [(10, 0, A, None, None)],
        ["orphans"],
    ),
    Case(
        "a conversion that came before its late click waits for it",
        [(shown(A, 0), 0), (converted(A, 5), 0), (clicked(A, 4), 8)],
        [(10, 0, A, 4, 5), (24, 1, A, 4, 5), (104, 193, A, 4, 5)],
        [],
    ),
    Case(
        "a late conversion of an open click is used, and what is due was not known before it came",
        [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, 15), 30)],
        [(10, 0, A, 5, 15), (25, 1, A, 5, 15), (105, 193, A, 5, 15)],
        [],
    ),
    Case(
        "a late conversion of an impression that has left is late",
        [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, 15), 106)],
        [(10, 0, A, 5, None), (25, 1, A, 5, None), (105, 193, A, 5, None)],
        ["late"],
    ),
    Case(
        "a second conversion is a duplicate, after the impression has left too",
        [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, 15), 0), (converted(A, 16), 0), (converted(A, 110), 0)],
        [(10, 0, A, 5, 15), (25, 1, A, 5, 15), (105, 193, A, 5, 15)],
        ["duplicates", "duplicates"],
    ),
    Case(
        "a click whose first label was due when it came late is told at once",
        [(shown(A, 0), 0), (shown(B, 60), 0), (clicked(A, 4), 10)],
        [(10, 0, A, 4, None), (24, 1, A, 4, None), (70, 0, B, None, None), (104, 193, A, 4, None)],
        [],
    ),
    Case(
        "at one due time impressions leave in the order of their ids",
        [(shown(B, 0), 0), (shown(A, 0), 0)],
        [(10, 0, A, None, None), (10, 0, B, None, None)],
        [],
    ),
]


def feed(join: Join, arrivals: list[tuple[Event, int]], until: int) -> tuple[list[Due], list[Side]]:
    """Lets records arrive one by one, the watermark where each meets it, and then goes on to `until`."""
    dues: list[Due] = []
    sides: list[Side] = []
    reached = -(10**9)
    for number, (event, watermark) in enumerate(arrivals, 1):
        reached = max(reached, watermark)
        for step in (join.on_watermark(T0 + reached),):
            dues += step[0]
            sides += step[1]
        join.on_arrivals(arrivals_of([event], [reached], first=number))
    due, side = join.on_watermark(T0 + until)
    return [*dues, *due], sides + side


def told(dues: list[Due]) -> list[tuple[int, int, str, int | None, int | None]]:
    def rel(ms: int | None) -> int | None:
        return None if ms is None else ms - T0

    return [
        (
            due.due_ms - T0,
            due.slot,
            due.joined.impression.impression_id,
            rel(due.joined.click_ms),
            rel(due.joined.conversion_ms),
        )
        for due in dues
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_table(case: Case) -> None:
    dues, sides = feed(Join(WINDOWS, SCHEDULE), case.arrivals, case.until)
    assert told(dues) == case.due
    assert [side.door for side in sides] == case.doors


@pytest.mark.parametrize(
    ("conversion", "watermark", "expected"),
    [
        # click at 5; ages 3, 20, 60 and 100 end at 8, 25, 65 and 105
        (5, 0, [(5, 191), (8, 129), (25, 130), (65, 131), (105, 132)]),
        (8, 0, [(8, 129), (8, 191), (25, 130), (65, 131), (105, 132)]),
        (9, 0, [(9, 191), (25, 130), (65, 131), (105, 132)]),
        (105, 0, [(105, 132), (105, 191)]),
        (9, 70, [(70, 130), (70, 131), (70, 191), (105, 132)]),  # late: told at once, with every age it is past
        (9, 105, [(105, 130), (105, 131), (105, 132), (105, 191)]),
        (9, 106, []),  # its impression has left
    ],
)
def test_a_conversion_is_told_when_it_takes_effect_and_at_every_age_from_its_own_on(
    conversion: int, watermark: int, expected: list[tuple[int, int]]
) -> None:
    arrivals: list[tuple[Event, int]] = [(shown(A, 0), 0), (clicked(A, 5), 0), (converted(A, conversion), watermark)]
    dues, _ = feed(Join(WINDOWS, TELLING), arrivals, LATE)
    assert [(due.due_ms - T0, due.slot) for due in dues if due.slot not in (0, 1, 193)] == expected


# --- laws over generated input ---------------------------------------------------------------------------------------------------

names = st.sampled_from("abcde")
events = st.one_of(
    st.builds(shown, names, st.integers(0, 150)),
    st.builds(clicked, names, st.integers(0, 170)),
    st.builds(converted, names, st.integers(0, 300)),
)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[Event, int]]:
    """Events in an arrival order of their own, with a watermark that never falls and lets some be late."""
    arriving = draw(st.lists(events, max_size=25))
    watermark, stream = -100, []
    for event in arriving:
        watermark = max(watermark, event.event_time_ms - T0 - draw(st.sampled_from([60, 30, 5, 0])))
        stream.append((event, watermark))
    return stream


@dataclass
class Naive:
    """The second writing: one impression, everything that ever happened to it looked at again for every fact."""

    impression: Impression
    click: tuple[int, int] | None = None  # when, known since
    conversion: tuple[int, int] | None = None

    @property
    def leave(self) -> int:
        if self.click is None:
            return self.impression.event_time_ms + WINDOWS.click_ms
        return max(self.click[0] + WINDOWS.attribution_ms, self.click[1])


def brute_force(stream: list[tuple[Event, int]], until: int) -> tuple[Counter, Counter]:
    """What is due and what left by which door, by walking over all effects in order and searching lists."""
    effects = []
    for number, (event, watermark) in enumerate(stream):
        line = number
        time = event.event_time_ms
        is_late = time < T0 + watermark
        kind = [Impression, Click].index(type(event)) if type(event) in (Impression, Click) else 2
        key = (T0 + watermark, 0, 0, "", line) if is_late else (time, 1, kind, event.impression_id, 0)
        if (is_late and T0 + watermark <= T0 + until) or (not is_late and time < T0 + until):
            effects.append((key, number, event, is_late))
    effects.sort(key=lambda effect: effect[0])
    all_of: list[Naive] = []
    held: list[tuple[Event, bool]] = []
    doors: Counter = Counter()

    def leave(event: Event, door: str) -> None:
        doors[(door, type(event).__name__, event.impression_id, event.event_time_ms)] += 1

    def expire(now: int) -> None:
        for entry in list(held):
            if entry[0].event_time_ms + WINDOWS.orphan_hold_ms < now:
                held.remove(entry)
                leave(entry[0], "late" if entry[1] else "orphans")

    def known(name: str, now: int) -> Naive | None:
        for one in all_of:
            if one.impression.impression_id == name and one.leave + WINDOWS.orphan_hold_ms >= now:
                return one
        return None

    def within(after: int, window: int) -> bool:
        return -WINDOWS.clock_skew_ms <= after <= window

    def act(event: Event, is_late: bool, now: int) -> None:
        one = known(event.impression_id, now)
        is_click = isinstance(event, Click)
        if one is None or (one.click is None and not is_click):
            held.append((event, is_late))
            return
        if one.conversion is not None or (is_click and one.click is not None):
            leave(event, "duplicates")
            return
        start = one.impression.event_time_ms if is_click else one.click[0]
        fits = within(event.event_time_ms - start, WINDOWS.click_ms if is_click else WINDOWS.attribution_ms)
        if one.leave < now:
            leave(event, "late" if is_late and fits else "out_of_window")
        elif not fits:
            leave(event, "out_of_window")
        elif is_click:
            one.click = (max(event.event_time_ms, start), now)
            release(event.impression_id, now)
        else:
            one.conversion = (max(event.event_time_ms, start), now)

    def release(name: str, now: int) -> None:
        mine = sorted(
            (e for e in held if e[0].impression_id == name),
            key=lambda e: (e[0].event_time_ms, not isinstance(e[0], Click)),
        )
        for entry in mine:
            held.remove(entry)
        for want_click in (True, False):
            for event, is_late in mine:
                if isinstance(event, Click) == want_click:
                    act(event, is_late, now)

    for key, _, event, is_late in effects:
        now = key[0]
        expire(now)
        if not isinstance(event, Impression):
            act(event, is_late, now)
        elif known(event.impression_id, now) is not None:
            leave(event, "duplicates")
        elif event.event_time_ms + WINDOWS.click_ms < now:
            leave(event, "late")
        else:
            all_of.append(Naive(event))
            release(event.impression_id, now)
    expire(T0 + until)
    due: Counter = Counter()
    for one in all_of:
        name, start = one.impression.impression_id, one.impression.event_time_ms
        slots = [(start + WINDOWS.click_ms, 0)]
        if one.click is not None:
            slots += [(max(one.click[0] + after, one.click[1]), slot) for slot, after in TELLING.after_click_ms]
        if one.conversion is not None:
            came, known = one.conversion
            slots.append((known, CONVERSION_SLOT))
            slots += [
                (max(one.click[0] + age, known), slot) for slot, age in TELLING.at_ages_ms if one.click[0] + age >= came
            ]
        for when, slot in slots:
            if when < T0 + until:
                knows = one.conversion is not None and one.conversion[1] <= when
                due[(when, slot, name, one.click and one.click[0], one.conversion[0] if knows else None)] += 1
    return due, doors


def summed(dues: list[Due], sides: list[Side]) -> tuple[Counter, Counter]:
    due = Counter(
        (
            d.due_ms,
            d.slot,
            d.joined.impression.impression_id,
            d.joined.click_ms,
            d.joined.conversion_ms
            if d.joined.conversion_known_ms is not None and d.joined.conversion_known_ms <= d.due_ms
            else None,
        )
        for d in dues
    )
    doors = Counter(
        (s.door, type(s.record.event).__name__, s.record.event.impression_id, s.record.event.event_time_ms)
        for s in sides
    )
    return due, doors


@settings(deadline=None, max_examples=400)
@given(streams(), st.integers(0, 500))
def test_equals_a_second_writing_by_brute_force(stream: list[tuple[Event, int]], until: int) -> None:
    until = max([until, *(watermark for _, watermark in stream)])
    assert summed(*feed(Join(WINDOWS, TELLING), stream, until)) == brute_force(stream, until)


@settings(deadline=None, max_examples=200)
@given(streams(), st.lists(st.integers(0, 25), max_size=6), st.integers(0, 500))
def test_records_one_by_one_and_in_blocks_give_the_same(
    stream: list[tuple[Event, int]], cuts: list[int], until: int
) -> None:
    until = max([until, *(watermark for _, watermark in stream)])
    one_by_one = feed(Join(WINDOWS, TELLING), stream, until)
    join = Join(WINDOWS, TELLING)
    dues: list[Due] = []
    sides: list[Side] = []
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, stop in pairwise(bounds):
        block = stream[start:stop]
        join.on_arrivals(arrivals_of([e for e, _ in block], [w for _, w in block], first=start + 1))
        due, side = join.on_watermark(T0 + block[-1][1])
        dues += due
        sides += side
    due, side = join.on_watermark(T0 + until)
    assert told([*dues, *due]) == told(one_by_one[0])
    assert sides + side == one_by_one[1]


@settings(deadline=None, max_examples=200)
@given(streams(), st.integers(0, 25))
def test_cut_anywhere_and_restored_it_goes_on_the_same(stream: list[tuple[Event, int]], cut: int) -> None:
    whole = feed(Join(WINDOWS, TELLING), stream, LATE)
    first, second = Join(WINDOWS, TELLING), Join(WINDOWS, TELLING)
    reached = max([-100, *(watermark for _, watermark in stream[:cut])])
    before = feed(first, stream[:cut], reached)
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    after = feed(second, stream[cut:], LATE)
    assert told(before[0] + after[0]) == told(whole[0])
    assert [(s.door, s.record.event, s.record.line) for s in before[1] + after[1]] == [
        (s.door, s.record.event, s.record.line) for s in whole[1]
    ]


@settings(deadline=None, max_examples=200)
@given(st.lists(events, max_size=20), st.randoms(use_true_random=False))
def test_within_the_bound_the_order_of_arrival_does_not_matter(in_time: list[Event], random: object) -> None:
    shuffled = list(in_time)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for order in (in_time, shuffled):
        dues, sides = feed(Join(WINDOWS, TELLING), [(event, -100) for event in order], LATE)
        results.append((told(dues), Counter((s.door, s.record.line) for s in sides)))
    assert results[0] == results[1]


@settings(deadline=None, max_examples=200)
@given(streams(), st.integers(0, 400))
def test_every_record_leaves_by_exactly_one_door_or_is_still_there(stream: list[tuple[Event, int]], until: int) -> None:
    join = Join(WINDOWS, TELLING)
    until = max([until, *(watermark for _, watermark in stream)])
    dues, sides = feed(join, stream, until)
    joined = {id(due.joined): due.joined for due in dues}
    joined |= {id(one): one for one in join._opened.clicked.values()}
    used = len(join._opened.unclicked) + sum(
        1 + (one.click_ms is not None) + (one.conversion_ms is not None) for one in joined.values()
    )
    assert used + len(sides) + join.held_facts + join.pending_records == len(stream)


@settings(deadline=None, max_examples=100)
@given(streams())
def test_what_is_due_leaves_in_order(stream: list[tuple[Event, int]]) -> None:
    dues, _ = feed(Join(WINDOWS, TELLING), stream, LATE)
    order = [(due.due_ms, due.joined.impression.impression_id, due.slot) for due in dues]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
