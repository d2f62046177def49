"""The live watermark: laws over any course of records and idleness, held against a second writing, and its cases drawn."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import RecordKind
from streaming.stalls import Following
from streaming.watermark import ClockSnapshot, PartitionClock

I, C, V = RecordKind.IMPRESSION, RecordKind.CLICK, RecordKind.CONVERSION  # noqa: E741
BOUND, ALIGNED, SKEW, HOLD = 5, 50, 100, 40
LEADER = {C: I, V: C}


class Block(NamedTuple):
    kind: RecordKind
    times: list[int]
    now_ms: int


class Idle(NamedTuple):
    kind: RecordKind
    is_idle: bool


KINDS = st.sampled_from(list(RecordKind))
# Few distinct counts that stall: 30 clicks after 30 impressions, and then many impressions.
MANY = st.builds(
    lambda kind, at, n: Block(kind, [at + i // 8 for i in range(n)], 600),
    KINDS,
    st.integers(0, 400),
    st.integers(20, 60),
)
FEW = st.builds(Block, KINDS, st.lists(st.integers(0, 800), min_size=1, max_size=8), st.integers(0, 700))
COURSE = st.lists(st.one_of(FEW, MANY, st.builds(Idle, KINDS, st.booleans())), max_size=25)


def fresh() -> PartitionClock:
    return PartitionClock(out_of_orderness_ms=BOUND, alignment_ms=ALIGNED, future_skew_ms=SKEW, stall_hold_ms=HOLD)


class SlowClock:
    """The second writing: sets, a record at a time, straight from the rules."""

    def __init__(self) -> None:
        self.newest: dict[RecordKind, int] = {}
        self.idle: set[RecordKind] = set()
        self.following = {C: Following(), V: Following()}
        self.jumping: dict[RecordKind, list[int]] = {kind: [] for kind in RecordKind}
        self.first: dict[RecordKind, list[int]] = {kind: [] for kind in RecordKind}
        self.seen, self.against = dict.fromkeys(RecordKind, 0), dict.fromkeys(RecordKind, 0)
        self.starts: list[int] = []
        self.watermark: int | None = None
        self.unheld: int | None = None

    def stalled(self) -> set[RecordKind]:
        return {kind for kind in self.idle if kind in LEADER and self.following[kind].is_stalled}

    def smallest(self, kinds: set[RecordKind]) -> int | None:
        if not kinds:
            return max((newest - BOUND for newest in self.newest.values()), default=None)
        return None if kinds - self.newest.keys() else min(self.newest[kind] for kind in kinds) - BOUND

    def move(self) -> None:
        running = set(RecordKind) - self.idle
        unheld = self.smallest(running)
        self.unheld = max((ms for ms in (self.unheld, unheld) if ms is not None), default=None)
        bounds = [
            self.watermark,
            self.smallest(running | self.stalled()),
            None if self.unheld is None else self.unheld - HOLD,
        ]
        self.watermark = max((ms for ms in bounds if ms is not None), default=None)

    def take(self, kind: RecordKind, time: int, now_ms: int) -> tuple[int | None, bool]:
        if time > now_ms + SKEW:
            return self.watermark, True
        self.idle.discard(kind)
        self.count(kind, time)
        for follower, leader in LEADER.items():
            if kind == follower:
                self.following[follower].follow(1)
            if kind == leader:
                self.following[follower].lead(np.array([time >= self.newest.get(follower, time)]))
        self.move()
        return self.watermark, False

    def count(self, kind: RecordKind, time: int) -> None:
        if self.seen[kind] < 16:
            self.seen[kind] += 1
            self.first[kind] = [own for own in self.first[kind] if own - time <= ALIGNED] + [time]
            self.newest[kind] = max(self.first[kind])
            self.starts.append(self.newest[kind])
            return
        jumping = self.jumping[kind]
        before = [ms for ms in (self.newest[kind], self.unheld) if ms is not None]
        is_near = self.is_near(kind, time)
        if is_near:
            self.newest[kind] = max(time, self.newest[kind])
        else:
            jumping.append(time)
            if len(jumping) == 16:
                self.newest[kind] = min(jumping)
        while near := [waiting for waiting in jumping if self.is_near(kind, waiting)]:
            self.newest[kind] = max(self.newest[kind], *near)
            self.jumping[kind] = jumping = [waiting for waiting in jumping if waiting not in near]
        if is_near and jumping and time >= max(before) - ALIGNED:
            self.against[kind] += 1
            if self.against[kind] == 3:
                self.jumping[kind], self.against[kind] = jumping[1:], 0

    def is_near(self, kind: RecordKind, time: int) -> bool:
        known = [ms for ms in (self.newest[kind], self.unheld) if ms is not None]
        return time <= max(known) + ALIGNED

    def set_idle(self, kind: RecordKind, is_idle: bool) -> None:
        if (kind in self.idle) != is_idle:
            if is_idle and (waiting := self.jumping[kind]):
                self.newest[kind] = max(self.newest[kind], *waiting)
                self.jumping[kind] = []
            self.against[kind] = 0 if is_idle else self.against[kind]
            (self.idle.add if is_idle else self.idle.discard)(kind)
            self.move()

    def ahead(self) -> list[RecordKind]:
        if not self.newest:
            return []
        base = min(self.starts) - BOUND if self.unheld is None else self.unheld
        far = [kind for kind in RecordKind if kind in self.newest and self.newest[kind] - base > ALIGNED]
        return [kind for kind in far if self.seen[kind] == 16 or kind in self.idle]


def told(clock: PartitionClock | SlowClock) -> tuple[object, ...]:
    if isinstance(clock, SlowClock):
        held = 0 if clock.watermark is None or clock.unheld is None else clock.unheld - clock.watermark
        is_idle = clock.idle == set(RecordKind) and not clock.stalled()
        return clock.watermark, is_idle, clock.stalled(), held, clock.ahead()
    return clock.watermark_ms, clock.is_idle, set(clock.stalled), clock.held_ms, clock.ahead()


def fed(clock: PartitionClock, course: list[Block | Idle]) -> list[tuple[object, ...]]:
    seen: list[tuple[object, ...]] = []
    for step in course:
        if isinstance(step, Idle):
            clock.set_idle(*step)
        else:
            met = clock.observe(step.kind, np.array(step.times, np.int64), step.now_ms)
            seen += zip(met.watermarks.tolist(), met.is_future.tolist(), strict=True)
        seen.append(told(clock))
    return seen


@given(COURSE)
@settings(max_examples=300)
def test_it_is_what_the_rules_say_record_by_record(course: list[Block | Idle]) -> None:
    slow, expected = SlowClock(), []
    for step in course:
        if isinstance(step, Idle):
            slow.set_idle(*step)
        else:
            for time in step.times:
                watermark, is_future = slow.take(step.kind, time, step.now_ms)
                expected.append((time - BOUND if watermark is None else watermark, is_future))
        expected.append(told(slow))
    assert fed(fresh(), course) == expected


@given(COURSE)
def test_it_never_falls(course: list[Block | Idle]) -> None:
    clock, seen = fresh(), []
    for step in course:
        fed(clock, [step])
        seen.append(clock.watermark_ms)
    known = [ms for ms in seen if ms is not None]
    assert known == sorted(known)
    assert seen[: len(seen) - len(known)] == [None] * (len(seen) - len(known))


@given(COURSE, st.data())
def test_a_block_in_portions_is_the_block(course: list[Block | Idle], data: st.DataObject) -> None:
    portions: list[Block | Idle] = []
    for step in course:
        if isinstance(step, Idle):
            portions.append(step)
        else:
            at = data.draw(st.integers(0, len(step.times)))
            portions += [step._replace(times=step.times[:at]), step._replace(times=step.times[at:])]
    whole, parted = fresh(), fresh()
    records = [item for item in fed(whole, course) if len(item) == 2]
    assert [item for item in fed(parted, portions) if len(item) == 2] == records
    assert parted.snapshot() == whole.snapshot()


@given(COURSE, st.integers(0, 25))
def test_cut_anywhere_it_goes_on_alike(course: list[Block | Idle], at: int) -> None:
    clock, again = fresh(), fresh()
    fed(clock, course[:at])
    packed = msgspec.msgpack.encode(clock.snapshot())
    again.restore(msgspec.msgpack.decode(packed, type=ClockSnapshot))
    assert fed(again, course[at:]) == fed(clock, course[at:])
    assert again.snapshot() == clock.snapshot()


@given(COURSE)
def test_whoever_holds_the_watermark_may_be_read(course: list[Block | Idle]) -> None:
    clock = fresh()
    fed(clock, course)
    waited_for = [kind for kind, is_idle in zip(RecordKind, clock.snapshot().is_idle, strict=True) if not is_idle]
    assert not waited_for or set(waited_for) - set(clock.ahead())


def shown(clock: PartitionClock, kind: RecordKind, *times: int) -> int | None:
    clock.observe(kind, np.array(times, np.int64), now_ms=10_000)
    return clock.watermark_ms


def test_a_stream_that_has_shown_nothing_holds_it_until_it_is_idle() -> None:
    clock = fresh()
    assert shown(clock, I, *[100] * 16) is None
    assert shown(clock, C, *[90] * 16) is None
    clock.set_idle(V, True)
    assert clock.watermark_ms == 85


def test_when_all_are_idle_it_goes_to_the_largest_and_stops() -> None:
    clock = fresh()
    for kind, at in ((I, 100), (C, 90), (V, 80)):
        shown(clock, kind, *[at] * 16)
    for kind in RecordKind:
        clock.set_idle(kind, True)
    assert (clock.watermark_ms, clock.is_idle) == (95, True)
    assert shown(clock, C, 92) == 95  # late, and it waits for clicks again
    assert not clock.is_idle


def test_a_future_record_moves_nothing() -> None:
    clock = fresh()
    met = clock.observe(I, np.array([*[100] * 16, 10_000, 101]), now_ms=100)
    assert met.is_future.tolist() == [False] * 16 + [True, False]
    assert clock.newest_ms(I) == 101


def begun() -> PartitionClock:
    clock = fresh()
    clock.set_idle(V, True)
    shown(clock, C, *[100] * 16)
    shown(clock, I, *[100] * 16)
    return clock


def test_a_wrong_time_in_a_backlog_moves_no_clock_and_pauses_no_stream() -> None:
    clock = begun()
    for at in range(100, 200, 5):
        shown(clock, C, at)
        shown(clock, I, at, *[9_000] * (at % 25 == 0))
    assert (clock.newest_ms(I), clock.watermark_ms, clock.ahead()) == (195, 190, [])


def test_sixteen_that_jump_are_a_gap_in_the_traffic() -> None:
    clock = begun()
    clock.set_idle(C, True)
    assert shown(clock, I, *range(9_000, 9_015)) == 95
    assert shown(clock, I, 9_015) == 9_010


def test_a_wrong_time_at_the_very_start_moves_nothing_either() -> None:
    clock = fresh()
    clock.set_idle(V, True)
    shown(clock, C, *[100] * 16)
    assert shown(clock, I, 9_000) == 95
    assert clock.ahead() == []  # it is read on, so that it can be contradicted
    shown(clock, I, 90)
    assert shown(clock, I, 101) == 95
    assert (clock.newest_ms(I), clock.ahead()) == (101, [])


def test_what_is_sent_again_holds_no_clock() -> None:
    clock = begun()
    clock.set_idle(C, True)
    shown(
        clock, I, *[at for n in range(30) for at in (9_000 + n, 40, 41, 42, 43, 44, 45)]
    )  # more than alignment behind
    assert clock.newest_ms(I) == 9_029
    shown(clock, I, *[at for n in range(300) for at in (9_500 + n, 9_029, 9_029)])  # one of three goes on elsewhere
    assert clock.newest_ms(I) == 9_799


def test_a_gap_is_seen_though_a_third_of_what_follows_is_late() -> None:
    clock = begun()
    clock.set_idle(C, True)
    shown(clock, I, *[at for n in range(30) for at in (9_000 + n, 9_000 + n, 50)])
    assert clock.newest_ms(I) == 9_029


def test_what_jumps_counts_once_nothing_more_can_speak_against_it() -> None:
    clock = begun()
    clock.set_idle(C, True)
    assert shown(clock, I, 9_000) == 95
    clock.set_idle(I, True)
    assert clock.watermark_ms == 8_995


def test_what_jumps_counts_once_the_others_have_come_as_far() -> None:
    clock = begun()
    shown(clock, I, 180)
    assert clock.newest_ms(I) == 100
    shown(clock, C, 140)  # the watermark stays at 95: impressions are not there yet
    shown(clock, I, 140)
    assert clock.newest_ms(I) == 180


def stalled_clicks() -> PartitionClock:
    """100 impressions and 50 clicks; then impressions alone."""
    clock = fresh()
    shown(clock, I, *[100] * 100)
    shown(clock, C, *[100] * 50)
    clock.set_idle(C, True)
    clock.set_idle(V, True)
    return clock


def test_a_dead_click_stream_holds_it_for_so_long_and_no_longer() -> None:
    #            clicks stop            impressions
    #   ------------95--------------------120---------------- 200 ----> event time
    #   watermark   |<----- held ----------|     up to 40 behind
    clock = stalled_clicks()
    assert clock.stalled == ()
    shown(clock, I, *[100] * 69)
    assert shown(clock, I, 120) == 95
    assert (clock.stalled, clock.held_ms) == ((C,), 20)
    assert shown(clock, I, *[200] * 16) == 155
    assert clock.held_ms == HOLD
    assert shown(clock, C, 201) == 195  # clicks are back, and conversions idle
    assert (clock.stalled, clock.held_ms) == ((), 0)


def test_a_backlog_read_with_clicks_ahead_of_impressions_is_no_stall() -> None:
    clock = fresh()
    shown(clock, I, *range(0, 100, 2))
    shown(clock, C, *range(0, 200, 4))  # all there are
    shown(clock, I, *range(100, 196))
    for kind in RecordKind:
        clock.set_idle(kind, True)
    assert (clock.stalled, clock.is_idle) == ((), True)


def test_a_stalled_partition_is_not_idle() -> None:
    clock = stalled_clicks()
    shown(clock, I, *[120] * 100)
    clock.set_idle(I, True)
    assert not clock.is_idle


def test_alignment_is_measured_without_the_hold() -> None:
    clock = stalled_clicks()
    shown(clock, I, *[100] * 70, *[190] * 16)
    assert (clock.watermark_ms, clock.held_ms, clock.ahead()) == (145, 40, [])


@pytest.mark.parametrize(("newest", "is_ahead"), [(100 + ALIGNED - BOUND, False), (101 + ALIGNED - BOUND, True)])
def test_a_stream_far_ahead_is_to_wait_for_the_others(newest: int, is_ahead: bool) -> None:
    clock = fresh()
    clock.set_idle(V, True)
    shown(clock, I, *[100] * 16, newest)
    assert clock.ahead() == ([I] if is_ahead else [])  # there is no watermark: measured from where it began
    shown(clock, C, *[100] * 16)
    assert clock.ahead() == ([I] if is_ahead else [])
    shown(clock, C, 110)
    assert clock.ahead() == []
