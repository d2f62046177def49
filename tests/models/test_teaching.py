"""What batches teach: S and F from a taught delay model, the start, the memory of clicks, kappa and rho, told ages."""

import importlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Aged, Batch, ClickMemory, Event, Inputs, Matured
from models.delay import METHODS, weigh
from models.delay_edges import edges_ms, horizons_ms
from models.likelihoods import DAY_MS, Dfm
from models.schema import Feature, Labels
from models.teaching import Lesson, Teaching
from models.weighing import Seen

HOUR_MS = 3_600_000
W_O, W_A = HOUR_MS, 3 * DAY_MS
LOOKS = horizons_ms(W_O, W_A, 4)
COMPLETED = (
    0.4,
    0.6,
    0.8,
    0.9,
    1.0,
)  # by each look: what the prior says, and a model that was taught nothing believes it
IP, ON, REVISIT = Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE, Event.REVISIT
DP, RN = Event.DELAYED_POSITIVE, Event.REAL_NEGATIVE
ON_CLICKS = (IP, ON, REVISIT, DP, RN)
USER = [Feature(name="user", kind="categorical")]
START = 100 * DAY_MS


def teaching(method: str, *, objective: str = "composed", w_o: int = W_O, w_a: int = W_A, **changes) -> Teaching:
    known = {"horizons": 4, "growth": False, "delay_prior_ages_ms": LOOKS, "delay_prior_shares": COMPLETED}
    return Teaching(
        USER,
        labels=Labels(method=method, **(known | changes)),
        objective=objective,
        observation_window_ms=w_o,
        attribution_window_ms=w_a,
        kappa_half_life_ms=DAY_MS,
    )


def settled(own: Teaching) -> Teaching:
    """One that has been running for as long as a label may take."""
    own.learned(mass=0.0, clicks=0, at_ms=START - W_A)
    return own


def users(*ids: int) -> Inputs:
    none = np.zeros(0, np.int64)
    return Inputs(
        np.array(ids, np.int64).reshape(-1, 1), none, np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32)
    )


def rows(events, *, user=None, look=0, click=None, click_ms=None, delay_ms=None, memory=None) -> Batch:
    """A batch; whatever is one number holds for all of its rows."""
    events = np.array(events, np.int8)

    def column(given, dtype, missing=-1):
        return np.broadcast_to(np.array(missing if given is None else given, dtype), events.shape).copy()

    if memory is None and click is not None:
        clicks = int(np.max(click)) + 1
        memory = ClickMemory(column(click, np.int64), *np.full((3, clicks), np.nan))
    return Batch.of(
        users(*column(user, np.int64, 0)),
        events,
        np.isin(events, (IP, DP)).astype(np.float32),
        click_ms=column(click_ms, np.int64),
        delay_ms=column(delay_ms, np.int64),
        looks=column(look, np.int8, 0),
        memory=memory,
    )


def pairs_of(lesson: Lesson) -> list[tuple[float, float]]:
    return list(zip(lesson.positive.tolist(), lesson.negative.tolist(), strict=True))


# --- S and F ----------------------------------------------------------------------------------------------------------


def taught_delays(own: Teaching) -> Teaching:
    """Has seen that user 5 converts on the second day and user 6 at once; of user 7 nothing."""
    edges = np.array(own.delays.edges)
    user = np.tile([5, 6], 4)
    bins = np.searchsorted(edges, np.where(user == 5, 30 * HOUR_MS, 10 * 60_000))
    for _ in range(20):
        for edge in range(1, len(edges)):
            shown = np.flatnonzero(edge >= bins)
            aged = Aged(users(*user[shown]), np.full(len(shown), edge), bins[shown] == edge)
            own.learn_delays(aged, at_ms=START)
    return own


@pytest.mark.parametrize("name", ["es_dfm", "defer", "defuse", "ddfm", "survival"])
def test_every_row_is_weighed_with_s_and_f_of_its_own_features_and_age(name):
    own = taught_delays(settled(teaching(name)))
    events = [Event.UNCLICKED, ON, REVISIT, Event.CLICKED, DP, IP, RN, REVISIT, ON, Event.UNCLICKED, ON, REVISIT]
    look = np.array([0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 0, 2])
    user = np.array([6, 5, 5, 6, 5, 6, 6, 6, 6, 5, 7, 7])
    f = np.linspace(0.05, 0.6, len(events))
    first_f = np.where(np.isin(events, (ON,)), f, np.linspace(0.3, 0.1, len(events)))
    memory = ClickMemory(
        np.where(np.isin(events, ON_CLICKS), np.arange(len(events)), -1),
        first_f,
        *np.where(np.isin(events, (ON, IP)), np.nan, np.zeros((2, len(events)))),
    )
    batch = rows(events, user=user, look=look, memory=memory)
    lesson = own.weigh(batch, f, at_ms=START)

    ages = np.array(LOOKS)[look]
    s = own.delays.survival_at(batch.inputs, W_O)
    seen = Seen(f, s, batch.converted.astype(np.float64), own.delays.completed(batch.inputs, ages), first_f)
    positive, negative = weigh(METHODS[name].pairs, batch.events, seen)
    np.testing.assert_allclose(lesson.positive, positive, rtol=1e-12)
    np.testing.assert_allclose(lesson.negative, negative, rtol=1e-12)
    # The model was taught, and says so: of user 5 most comes late, of user 6 little.
    assert s[1] > 0.8
    assert s[8] < 0.2
    assert 0.2 < s[10] < 0.8
    assert lesson.positive[[0, 3, 9]].tolist() == lesson.negative[[0, 3, 9]].tolist() == [0, 0, 0]


def test_what_nobody_has_taught_is_the_prior():
    own = settled(teaching("es_dfm"))
    f, s = 0.3, 1 - COMPLETED[0]
    lesson = own.weigh(rows([ON]), np.array([f]), at_ms=START)
    assert pairs_of(lesson) == [(0, pytest.approx((1 - f) / (1 - f + f * s)))]


def matured(own: Teaching, clicks: int) -> Teaching:
    """Of user 5 half of the clicks convert late, of user 6 half at once."""
    user = np.tile([5, 6], clicks // 2)
    converted = np.arange(clicks) % 4 < 2
    own.learn_matured(Matured(users(*user), converted & (user == 6), converted), at_ms=START)
    return own


@pytest.mark.parametrize("name", ["es_dfm", "defer", "defuse", "ddfm"])
def test_two_heads_weigh_by_their_own_dp_and_rn_and_by_no_more_dp_than_f(name):
    own = matured(settled(teaching(name, delay_model="heads")), 400)
    events, user, f = (
        [ON, ON, DP, RN, IP, Event.CLICKED],
        np.array([5, 6, 5, 6, 5, 5]),
        np.array([0.6, 0.6, 0.2, 0.6, 0.6, 0.1]),
    )
    batch = rows(events, user=user)
    lesson = own.weigh(batch, f, at_ms=START)
    assert own.heads is not None
    told = own.heads.predict(batch.inputs)
    assert told.dp[0] > 0.35 > 0.1 > told.dp[1]
    dp = np.minimum(told.dp, f)
    assert dp[2] == f[2]
    seen = Seen(f, dp / f, batch.converted.astype(np.float64), np.ones(6), np.full(6, np.nan))
    expected = weigh(METHODS[name].pairs, batch.events, seen._replace(told_dp=dp, told_rn=told.rn))
    np.testing.assert_allclose([lesson.positive, lesson.negative], expected, rtol=1e-12)
    assert np.abs([lesson.positive, lesson.negative]).max() <= 2


def test_heads_that_are_hardly_taught_leave_it_to_the_curve_of_all_clicks():
    untaught, by_curve = (settled(teaching("es_dfm", delay_model=name)) for name in ("heads", "global"))
    batch, f = rows([ON, ON], user=np.array([5, 6])), np.array([0.3, 0.2])
    matured(untaught, 40)  # ten of them late
    assert pairs_of(untaught.weigh(batch, f, at_ms=START)) == pairs_of(by_curve.weigh(batch, f, at_ms=START))
    matured(untaught, 40)
    assert pairs_of(untaught.weigh(batch, f, at_ms=START)) != pairs_of(by_curve.weigh(batch, f, at_ms=START))


def test_under_the_curve_of_all_clicks_features_say_nothing_of_delays():
    own = taught_delays(settled(teaching("es_dfm", delay_model="global")))
    f = np.full(3, 0.3)
    lesson = own.weigh(rows([ON, ON, ON], user=np.array([5, 6, 7])), f, at_ms=START)
    assert len(set(pairs_of(lesson))) == 1
    assert own.heads_window_ms is None
    assert teaching("es_dfm", delay_model="heads").heads_window_ms == W_O


@pytest.mark.parametrize("delay_model", ["hazard", "global"])
def test_final_labels_teach_heads_alone(delay_model):
    own = teaching("es_dfm", delay_model=delay_model)
    before = state_of(own)
    matured(own, 400)
    assert state_of(own) == before


def test_heads_go_over_to_another_method_with_the_curve():
    first, second = (matured(teaching("mature", delay_model="heads"), 400), teaching("es_dfm", delay_model="heads"))
    second.begin_from(*first.snapshot())
    assert second.heads is not None
    assert second.heads.is_taught


@pytest.mark.parametrize("name", ["fnw", "fnc"])
def test_methods_that_look_at_the_click_have_their_first_edge_there(name):
    own = teaching(name)
    assert own.delays.edges == edges_ms(0, W_A, 4)
    assert teaching("es_dfm").delays.edges == edges_ms(W_O, W_A, 4)
    lesson = own.weigh(rows([ON]), np.array([0.3]), at_ms=START)
    assert pairs_of(lesson) == [(0, 0.7 if name == "fnw" else 1.0)]


OWN = """
from models.batch import Event
from models.delay import Method
from models.weighing import positive, survival_open

# F says by itself that nothing is open any more when a click has come of age.
TO_THE_END = Method(
    pairs={
        Event.IMMEDIATE_POSITIVE: positive,
        Event.OBSERVED_NEGATIVE: survival_open,
        Event.REVISIT: survival_open,
        Event.DELAYED_POSITIVE: positive,
        Event.REAL_NEGATIVE: survival_open,
    },
    uses_delay=True,
    adjusts=True,
)
"""


def test_a_settled_click_has_all_its_conversions_behind_it(tmp_path, monkeypatch):
    (tmp_path / "looks_to_the_end.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    own = teaching("looks_to_the_end:TO_THE_END")
    sys.modules.pop("looks_to_the_end")
    batch = rows([ON, RN], click=[0, 0])
    lesson = own.weigh(batch, np.array([0.3, 0.9]), at_ms=START)
    assert lesson.positive.sum() == pytest.approx(0, abs=1e-12)
    assert lesson.negative.sum() == pytest.approx(1)


# --- a population whose delays are known exactly ----------------------------------------------------------------------


def life(bin_: int | None) -> list[tuple[Event, int]]:
    """(event, look) of a click that converts in the bin before a look, or never."""
    if bin_ == 0:
        return [(IP, 0)]
    last = len(LOOKS) - 1 if bin_ is None else bin_
    opened = [(ON if look == 0 else REVISIT, look) for look in range(last)]
    return [*opened, (RN if bin_ is None else DP, 0)]


@pytest.mark.parametrize("objective", ["esmm", "composed"])
@pytest.mark.parametrize("name", ["fnw", "es_dfm", "defer", "defuse", "ddfm", "survival"])
def test_a_population_teaches_as_many_clicks_as_it_has(name, objective):
    own = settled(teaching(name, objective=objective))
    bins = [80, 40, 40, 20, 20]  # of 200 converters among 1000 clicks, as COMPLETED says
    if name == "fnw":
        bins = [0, 120, 40, 20, 20]  # it looks at the click
    events, looks, clicks = [], [], []
    for bin_, count in [*enumerate(bins), (None, 800)]:
        for _ in range(count):
            number = clicks[-1] + 1 if clicks else 0
            for event, look in life(bin_):
                events.append(event)
                looks.append(look)
                clicks.append(number)
    batch = rows(events, look=looks, click=clicks)
    lesson = own.weigh(batch, np.full(len(batch), 0.2), at_ms=START)
    assert lesson.positive.sum() == pytest.approx(200)
    assert lesson.negative.sum() == pytest.approx(800)
    assert lesson.mass == pytest.approx(1000)


def test_published_weights_are_taken_where_they_are_asked_for():
    f, s = 0.3, 1 - COMPLETED[0]
    batch = rows([IP, ON, DP])
    unit, paper = (
        settled(teaching("es_dfm", normalization=name)).weigh(batch, np.full(3, f), at_ms=START)
        for name in ("unit", "paper")
    )
    np.testing.assert_allclose(paper.positive, (1 + f * s) * unit.positive)
    np.testing.assert_allclose(paper.negative, (1 + f * s) * unit.negative)
    with pytest.raises(ValueError, match=r'labels.normalization = "paper" needs network.objective = "composed"'):
        teaching("es_dfm", objective="esmm", normalization="paper")


# --- the start --------------------------------------------------------------------------------------------------------


def young_and_old(name: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """What its first five events teach as `es_dfm`, and as themselves."""
    batch, f = rows(ON_CLICKS, look=[0, 0, 2, 0, 0], click=[0, 1, 1, 2, 3]), np.full(5, 0.3)
    return tuple(pairs_of(settled(teaching(each)).weigh(batch, f, at_ms=START)) for each in ("es_dfm", name))


@pytest.mark.parametrize("name", ["defer", "ddfm"])
def test_until_the_stream_is_as_old_as_the_window_events_teach_as_es_dfm_and_then_as_themselves(name):
    own, batch, f = teaching(name), rows(ON_CLICKS, look=[0, 0, 2, 0, 0], click=[0, 1, 1, 2, 3]), np.full(5, 0.3)
    young, old = young_and_old(name)
    assert young != old
    assert young[4] == (0, 0)  # a real negative
    for at_ms, expected in [
        (START, young),  # the first batch of all
        (START + W_A - 1, young),
        (START + W_A, old),
        (START + 10 * W_A, old),
    ]:
        assert pairs_of(own.weigh(batch, f, at_ms=at_ms)) == expected, at_ms - START
        own.learned(mass=1.0, clicks=3, at_ms=at_ms)


@pytest.mark.parametrize("name", ["defer", "ddfm"])
def test_a_primed_stream_teaches_with_the_weights_of_the_method_at_once(name):
    own, batch, f = teaching(name), rows(ON_CLICKS, look=[0, 0, 2, 0, 0], click=[0, 1, 1, 2, 3]), np.full(5, 0.3)
    own.learned(mass=1.0, clicks=3, at_ms=START - 10)
    own.primed(at_ms=START)
    assert pairs_of(own.weigh(batch, f, at_ms=START)) == young_and_old(name)[1]


def test_survival_teaches_as_es_dfm_what_comes_of_clicks_whose_first_event_was_not_taught():
    """They are older than the stream: there are conversions of them to teach, and no negative to correct."""
    own, f = teaching("survival"), np.full(6, 0.3)
    events, click = [ON, REVISIT, REVISIT, DP, REVISIT, RN], [0, 0, 1, 1, 2, 2]
    for at_ms in (START, START + 10 * W_A):
        lesson = own.weigh(rows(events, look=[0, 1, 2, 0, 2, 0], click=click), f, at_ms=at_ms)
        negative = [0.7 / (1 - 0.3 * COMPLETED[look]) for look in (0, 1)]
        of_known = [(0, pytest.approx(negative[0])), (0, pytest.approx(negative[1] - negative[0]))]
        assert pairs_of(lesson) == [*of_known, (0, 0), (1, 0), (0, 0), (0, 0)]
        assert np.isnan(lesson.memory.negative[1:]).all()
        own.learned(mass=1.0, clicks=3, at_ms=at_ms)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.before_history is None])
def test_other_methods_have_no_childhood(name):
    batch = rows([*ON_CLICKS, Event.MATURED, Event.ORACLE])
    f = np.full(len(batch), 0.3)
    first, later = (pairs_of(own.weigh(batch, f, at_ms=START)) for own in (teaching(name), settled(teaching(name))))
    assert first == later


def test_the_first_click_of_a_stream_is_settled_like_any_other():
    own = teaching("survival")
    first = own.weigh(rows([ON], click=0), np.array([0.3]), at_ms=START)
    s = 1 - COMPLETED[0]
    assert pairs_of(first) == [(0, pytest.approx(0.7 / (0.7 + 0.3 * s)))]  # as `es_dfm`
    assert first.memory.negative.tolist() == [pytest.approx(0.7 / (0.7 + 0.3 * s))]
    own.learned(mass=1.0, clicks=1, at_ms=START)
    last = own.weigh(rows([RN], memory=first.memory), np.array([0.9]), at_ms=START + W_A)
    assert pairs_of(last) == [(0, pytest.approx(1 - first.memory.negative[0]))]


# --- the memory of clicks ---------------------------------------------------------------------------------------------


class Clicks:
    """What clicks were told, by name, from batch to batch."""

    def __init__(self):
        self.kept = {}

    def recall(self, names) -> ClickMemory:
        order = list(dict.fromkeys(names))
        columns = np.array([self.kept.get(name, (np.nan,) * 3) for name in order]).T
        return ClickMemory(np.array([order.index(name) for name in names], np.int64), *columns)

    def remember(self, names, memory: ClickMemory) -> None:
        for name, number in zip(names, memory.click, strict=True):
            self.kept[name] = memory.first_f[number], memory.positive[number], memory.negative[number]


WISE = taught_delays(settled(teaching("survival")))
bins = st.none() | st.integers(0, len(LOOKS) - 1)


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(bins, st.integers(0, 20)), min_size=1, max_size=5), st.data())
def test_every_click_is_settled_exactly_however_its_events_are_batched_and_whatever_is_refused(lives, data):
    clicks = Clicks()
    events = [
        (shift + step, number, event, look)
        for number, (bin_, shift) in enumerate(lives)
        for step, (event, look) in enumerate(life(bin_))
    ]
    events.sort()
    taught, unknown = np.zeros((len(lives), 2)), set()
    while events:
        size = data.draw(st.integers(1, len(events)))
        group, events = events[:size], events[size:]
        names = [number for _, number, _, _ in group]
        batch = rows(
            [event for _, _, event, _ in group],
            user=[5 + number for number in names],
            look=[look for _, _, _, look in group],
            memory=clicks.recall(names),
        )
        f = np.array(data.draw(st.lists(st.floats(1e-9, 1 - 1e-9), min_size=size, max_size=size)))
        lesson = WISE.weigh(batch, f, at_ms=START)
        is_refused = not np.isin(batch.events, (IP, DP, RN)).any() and data.draw(st.booleans())
        if not is_refused:
            clicks.remember(names, lesson.memory)
            np.add.at(taught, names, np.stack([lesson.positive, lesson.negative], axis=1))
        else:
            unknown |= {number for _, number, event, _ in group if event == ON}
    for number, ((bin_, _), (plus, minus)) in enumerate(zip(lives, taught, strict=True)):
        assert plus == pytest.approx(float(bin_ is not None), abs=1e-9)
        assert minus == pytest.approx(float(bin_ is None and number not in unknown), abs=1e-9)


def test_two_events_of_one_click_in_one_batch_teach_what_they_would_one_after_the_other():
    own, f = settled(teaching("survival")), 0.3
    steps = [(ON, 0), (REVISIT, 1), (REVISIT, 3), (RN, 0)]
    together = own.weigh(
        rows([event for event, _ in steps], look=[look for _, look in steps], click=[0] * 4), np.full(4, f), at_ms=START
    )
    memory, apart = rows([ON], click=0).memory, []
    for event, look in steps:
        lesson = own.weigh(rows([event], look=look, memory=memory), np.array([f]), at_ms=START)
        memory = lesson.memory
        apart += pairs_of(lesson)
    assert pairs_of(together) == [pytest.approx(pair, abs=1e-15) for pair in apart]
    targets = [(1 - f) / (1 - f * COMPLETED[look]) for look in (0, 1, 3)] + [1.0]
    assert together.negative.tolist() == pytest.approx(np.diff(targets, prepend=0.0).tolist())
    assert together.positive.tolist() == [0, 0, 0, 0]


def test_looks_at_a_click_go_by_the_prediction_of_its_first_event():
    own = settled(teaching("survival"))
    first = own.weigh(rows([ON], click=0), np.array([0.3]), at_ms=START)
    low, high = (
        own.weigh(rows([REVISIT], look=1, memory=first.memory), np.array([f]), at_ms=START) for f in (0.01, 0.99)
    )
    assert pairs_of(low) == pairs_of(high)
    assert low.memory.first_f.tolist() == [0.3]
    assert own.weigh(rows([ON], click=0), np.array([1.0]), at_ms=START).memory.first_f.tolist() == [1 - 1e-6]


def test_a_look_at_a_click_whose_first_event_was_never_taught_teaches_nothing():
    own = settled(teaching("survival"))
    looked = own.weigh(rows([REVISIT, REVISIT], look=[1, 2], click=[0, 0]), np.full(2, 0.3), at_ms=START)
    assert pairs_of(looked) == [(0, 0), (0, 0)]
    assert np.isnan(looked.memory.positive + looked.memory.negative).all()
    memory = ClickMemory(np.zeros(1, np.int64), looked.memory.first_f, looked.memory.positive, looked.memory.negative)
    for event, pair in ((DP, (1, 0)), (RN, (0, 0))):
        assert pairs_of(own.weigh(rows([event], memory=memory), np.full(1, 0.3), at_ms=START)) == [pair]


def test_what_a_batch_was_given_of_its_clicks_is_not_touched():
    own = settled(teaching("survival"))
    batch = rows([ON, REVISIT, ON], look=[0, 1, 0], click=[0, 0, 1])
    own.weigh(batch, np.full(3, 0.3), at_ms=START)
    assert np.isnan(batch.memory.first_f).all()
    assert np.isnan(batch.memory.positive + batch.memory.negative).all()


def test_rows_that_are_about_no_click_remember_nothing():
    own = settled(teaching("survival"))
    batch = rows(
        [Event.UNCLICKED, ON, Event.CLICKED],
        memory=ClickMemory(np.array([-1, 0, -1]), *np.full((3, 1), np.nan)),
    )
    lesson = own.weigh(batch, np.array([0.9, 0.3, 0.9]), at_ms=START)
    assert lesson.positive[[0, 2]].tolist() == lesson.negative[[0, 2]].tolist() == [0, 0]
    assert lesson.memory.first_f.tolist() == [0.3]


def test_a_method_that_adjusts_clicks_must_be_told_of_them():
    own = settled(teaching("survival"))
    with pytest.raises(ValueError, match=r"batch.memory must be given .* 'survival' \(got None\)"):
        own.weigh(rows([ON]), np.array([0.3]), at_ms=START)
    assert own.weigh(rows([Event.UNCLICKED]), np.array([0.3]), at_ms=START).memory is None
    assert settled(teaching("es_dfm")).weigh(rows([ON]), np.array([0.3]), at_ms=START).memory is None


# --- kappa and rho ----------------------------------------------------------------------------------------------------


def growing(own: Teaching, *, days: int = 6) -> int:
    """Tells it of traffic that doubles every other day; the time by then."""
    for hour in range(days * 24 + 1):
        own.learned(mass=0.0, clicks=int(1000 * 2 ** (hour / 48)), at_ms=START + hour * HOUR_MS)
    return START + days * DAY_MS


@pytest.mark.parametrize("name", ["mature", "fnw", "es_dfm", "defer", "defuse", "ddfm", "survival"])
def test_growth_multiplies_what_late_mass_teaches(name):
    own, plain = (settled(teaching(name, growth=growth)) for growth in (True, False))
    at_ms = growing(own)
    growing(plain)
    events = [*ON_CLICKS, Event.MATURED, Event.MATURED, Event.UNCLICKED]
    ages = np.array([0, 0, 12, 24, 48, 36, 48, 0]) * HOUR_MS
    click_ms = np.where(np.array(events) == Event.UNCLICKED, -1, at_ms - ages)
    batch = rows(events, look=[0, 0, 2, 0, 0, 0, 0, 0], click=[0, 1, 1, 2, 3, -1, -1, -1], click_ms=click_ms)
    f, rho = np.full(len(events), 0.3), 2 ** (ages / (2 * DAY_MS))
    with_growth, without = (each.weigh(batch, f, at_ms=at_ms) for each in (own, plain))
    np.testing.assert_allclose(with_growth.positive, rho * without.positive, rtol=0.02)
    np.testing.assert_allclose(with_growth.negative, rho * without.negative, rtol=0.02)
    assert with_growth.mass > 1.1 * without.mass


def test_growth_multiplies_what_a_likelihood_is_told_and_not_what_a_click_is_remembered_by():
    own, survival = (settled(teaching(name, growth=True)) for name in ("dfm", "survival"))
    at_ms = growing(own)
    growing(survival)
    batch = rows([ON, Event.UNCLICKED], click=[0, -1], click_ms=[at_ms - DAY_MS, -1])
    assert own.weigh(batch, np.full(2, 0.3), at_ms=at_ms).told.weight == pytest.approx([2**0.5, 1], rel=0.02)
    lesson = survival.weigh(batch, np.full(2, 0.3), at_ms=at_ms)
    rest = 0.7 / (0.7 + 0.3 * 0.6)
    assert lesson.memory.negative.tolist() == [pytest.approx(rest)]
    assert lesson.negative[0] == pytest.approx(2**0.5 * rest, rel=0.02)


def test_kappa_is_the_mass_a_click_or_one_where_it_is_off():
    on, off = teaching("mature", objective="esmm"), teaching("mature", objective="esmm", kappa=False)
    assert (on.kappa, off.kappa) == (0, 1)
    for own in (on, off):
        own.learned(mass=3.0, clicks=4, at_ms=START)
    assert (on.kappa, off.kappa) == (0.75, 1)
    lesson = on.weigh(rows([Event.UNCLICKED, Event.MATURED]), np.full(2, 0.3), at_ms=START)
    assert lesson.kappa == 0.75
    assert lesson.mass == 1  # an unclicked row's part is the loss's, not the method's


# --- what dfm is told -------------------------------------------------------------------------------------------------


def test_looks_are_told_with_their_age_and_that_of_the_look_before():
    batch = rows([ON, REVISIT, REVISIT, REVISIT, RN], look=[0, 1, 2, 3, 0])
    told = teaching("dfm").weigh(batch, np.full(5, 0.3), at_ms=START).told
    assert told.age_ms.tolist() == list(LOOKS)
    assert told.before_ms.tolist() == [0, *LOOKS[:-1]]
    assert told.events.tolist() == batch.events.tolist()


def test_a_conversion_is_told_with_the_last_look_before_it():
    e = LOOKS
    delays = [5, W_O + 1, e[1] - 1, e[1], e[1] + 1, e[3], e[3] + 1, W_A]
    before = [W_O, W_O, W_O, W_O, e[1], e[2], e[3], e[3]]  # at an edge it has come, and is not looked at there
    batch = rows([DP] * len(delays), delay_ms=delays)
    told = teaching("dfm").weigh(batch, np.full(len(delays), 0.3), at_ms=START).told
    assert told.delay_ms.tolist() == delays
    assert told.before_ms.tolist() == before
    immediate = teaching("dfm").weigh(rows([IP], delay_ms=W_O), np.full(1, 0.3), at_ms=START).told
    assert (immediate.delay_ms.item(), immediate.before_ms.item()) == (W_O, 0)


@pytest.mark.parametrize(
    ("w_o", "horizons"), [(W_O, 4), (W_O, 1), (0, 6), (W_A, 4)], ids=["looks", "one step", "at the click", "once"]
)
@pytest.mark.parametrize("share", [None, 0.01, 0.4, 1.0])
def test_over_the_life_of_a_click_dfm_is_told_its_likelihood_once(w_o, horizons, share):
    looks = horizons_ms(w_o, W_A, horizons)
    delay = None if share is None else int(share * W_A)
    events, numbers = [], []
    if delay is not None and delay <= w_o:
        events, numbers = [IP], [0]
    else:
        open_looks = [number for number, age in enumerate(looks[:-1] or looks) if delay is None or age < delay]
        events = [ON if number == 0 else REVISIT for number in open_looks] + [RN if delay is None else DP]
        numbers = [*open_looks, 0]
    batch = rows(events, look=numbers, delay_ms=[-1 if event in (ON, REVISIT, RN) else delay for event in events])
    own = teaching("dfm", w_o=w_o, horizons=horizons)
    s, w = -1.0, 0.4
    p, hazard = 1 / (1 + np.exp(-s)), np.log1p(np.exp(w))
    nats, _ = Dfm(attribution_window_ms=W_A).cost(
        np.repeat([[s], [w]], len(events), axis=1), own.weigh(batch, np.full(len(events), 0.3), at_ms=START).told
    )
    days = 0.0 if delay is None else delay / DAY_MS
    never, then = 1 - p + p * np.exp(-hazard * W_A / DAY_MS), p * hazard * np.exp(-hazard * days)
    assert nats == pytest.approx(-np.log(never if delay is None else then))


def test_a_conversion_undoes_the_looks_until_it_was_known_and_not_only_until_it_came():
    own = teaching("dfm")
    batch = rows([DP, DP, DP, DP], delay_ms=[HOUR_MS // 2, HOUR_MS // 2, LOOKS[2] + 1, LOOKS[2] + 1])
    known = np.array([-1, LOOKS[3], LOOKS[2] + 1, LOOKS[3] + 1])  # a batch that does not tell: as soon as it came
    told = own.weigh(replace(batch, age_ms=known), np.full(4, 0.3), at_ms=START).told
    assert told.before_ms.tolist() == [
        LOOKS[0],
        LOOKS[2],
        LOOKS[2],
        LOOKS[3],
    ]  # at LOOKS[3] it was known: no look at it


# --- state ------------------------------------------------------------------------------------------------------------


def course(own: Teaching, hours: range) -> list[Lesson]:
    lessons = []
    for hour in hours:
        rng = np.random.default_rng(hour)
        at_ms = START + 3 * hour * HOUR_MS
        events = rng.choice([Event.UNCLICKED, Event.CLICKED, *ON_CLICKS], 12)
        click = np.where(np.isin(events, ON_CLICKS), np.arange(12), -1)
        taught = np.where(events == ON, np.nan, rng.random((2, 12)))
        memory = ClickMemory(click, rng.random(12), *taught)
        click_ms = np.where(click < 0, -1, at_ms - rng.integers(0, W_A, 12))
        batch = rows(events, user=rng.integers(0, 4, 12), look=rng.integers(0, 4, 12), click_ms=click_ms, memory=memory)
        lesson = own.weigh(batch, rng.random(12), at_ms=at_ms)
        lessons.append(lesson)
        own.learned(mass=lesson.mass, clicks=int((events == Event.CLICKED).sum()), at_ms=at_ms)
        edges = rng.integers(1, len(own.delays.edges), 6)
        own.learn_delays(Aged(users(*rng.integers(0, 4, 6)), edges, rng.random(6) < 0.5), at_ms=at_ms)
        late = rng.random(6) < 0.5
        own.learn_matured(Matured(users(*rng.integers(0, 4, 6)), ~late, late | ~late), at_ms=at_ms)
    return lessons


def state_of(own: Teaching) -> tuple[dict[str, bytes], str]:
    tensors, state = own.snapshot()
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, json.dumps(state, sort_keys=True)


@pytest.mark.parametrize("cut", [0, 1, 17, 30])
@pytest.mark.parametrize(
    ("name", "delay_model"), [("survival", "hazard"), ("ddfm", "hazard"), ("ddfm", "heads"), ("survival", "global")]
)
def test_restored_teaching_goes_on_bit_for_bit(name, delay_model, cut):
    whole, first, second = (teaching(name, objective="esmm", growth=True, delay_model=delay_model) for _ in range(3))
    expected = course(whole, range(60))
    course(first, range(cut))
    course(second, range(100, 105))
    tensors, state = first.snapshot()
    second.restore({key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(state)))
    for own, other in zip(course(second, range(cut, 60)), expected[cut:], strict=True):
        assert pairs_of(own) == pairs_of(other)
        assert own.kappa == other.kappa
        assert own.told.weight.tolist() == other.told.weight.tolist()
    assert state_of(second) == state_of(whole)
    assert any(lesson.told.weight.max() > 1 for lesson in expected)


def test_weighing_changes_nothing():
    own = teaching("survival", objective="esmm", growth=True)
    course(own, range(30))
    before = state_of(own)
    for at_ms in (START, START + 40 * DAY_MS):
        own.weigh(rows([ON, RN, Event.CLICKED], click=[0, 0, -1], click_ms=at_ms), np.full(3, 0.3), at_ms=at_ms)
    assert state_of(own) == before


def test_a_snapshot_is_not_touched_by_what_is_learned_after_it():
    own = teaching("ddfm", growth=True)
    course(own, range(20))
    tensors, state = own.snapshot()
    copies, said = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(state)
    course(own, range(20, 40))
    assert all(torch.equal(tensors[name], copy) for name, copy in copies.items())
    assert json.dumps(state) == said


def test_no_rows_teach_nothing():
    for name in METHODS:
        own = settled(teaching(name))
        lesson = own.weigh(rows([]), np.zeros(0), at_ms=START)
        assert (lesson.mass, len(lesson.told.events)) == (0, 0)
        own.learn_delays(Aged(users(), np.zeros(0, np.int64), np.zeros(0, np.bool_)), at_ms=START)
