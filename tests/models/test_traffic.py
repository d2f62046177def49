"""Kappa and rho against sums written a second time, and on traffic whose growth is known."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.traffic import Growth, Kappa

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


# --- kappa ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=15))
def test_kappa_is_the_ratio_of_sums_that_halve_with_age(batches):
    kappa, now, seen = Kappa(half_life_ms=1000), 0, []
    for gap, mass, clicks in batches:
        now += gap
        kappa.update(mass=mass, clicks=clicks, at_ms=now)
        if seen or mass:
            seen.append((now, mass, clicks))
        ages = [0.5 ** ((now - at) / 1000) for at, _, _ in seen]
        masses, counts = (sum(age * each[column] for age, each in zip(ages, seen, strict=True)) for column in (1, 2))
        assert kappa.value == pytest.approx(masses / counts if counts else 0.0)


def test_kappa_counts_clicks_from_the_first_mass_on():
    kappa = Kappa(half_life_ms=10**9)
    kappa.update(mass=0, clicks=1000, at_ms=0)
    assert kappa.value == 0
    kappa.update(mass=2, clicks=8, at_ms=0)
    assert kappa.value == 0.25


def test_kappa_does_not_go_back_in_time():
    kappa = Kappa(half_life_ms=1000)
    kappa.update(mass=1, clicks=4, at_ms=5000)
    kappa.update(mass=1, clicks=0, at_ms=1000)
    assert kappa.value == 0.5


def test_restored_kappa_goes_on():
    whole, cut = Kappa(half_life_ms=700), Kappa(half_life_ms=700)
    for at_ms in (100, 900):
        whole.update(mass=1.5, clicks=3, at_ms=at_ms)
    cut.restore(json.loads(json.dumps(whole.snapshot())))
    for kappa in (whole, cut):
        kappa.update(mass=0.3, clicks=2, at_ms=2500)
    assert cut.value == whole.value
    fresh = Kappa(half_life_ms=700)
    cut.restore(fresh.snapshot())
    assert cut.snapshot() == fresh.snapshot()


def test_half_life_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"half_life_ms must be above 0 \(got 0\)"):
        Kappa(half_life_ms=0)


# --- rho --------------------------------------------------------------------------------------------------------------


def grown(batches: list[tuple[int, int]], *, reach_ms: int = 60 * DAY_MS) -> Growth:
    """Told of (event time, clicks) batches."""
    growth = Growth(reach_ms=reach_ms)
    for at_ms, clicks in batches:
        growth.update(clicks=clicks, at_ms=at_ms)
    return growth


def clicks_between(batches: list[tuple[int, int]], from_ms: float, to_ms: float) -> float:
    """Batch after batch, how much of it falls within, its clicks coming evenly since the batch before."""
    count = 0.0
    for (start_ms, _), (end_ms, clicks) in pairwise(batches):
        within = min(end_ms, to_ms) - max(start_ms, from_ms)
        count += clicks * max(within, 0) / (end_ms - start_ms)
    return count


def rho(batches: list[tuple[int, int]], click_ms: int) -> float:
    """The second writing: of clicks made at a time, taught at the end of the last batch."""
    starts_ms = batches[0][0]
    now_ms = max((at_ms for at_ms, clicks in batches[1:] if clicks), default=starts_ms)
    click_ms = min(click_ms, now_ms)
    rates = []
    for from_ms, to_ms in ((now_ms - 2 * HOUR_MS, now_ms), (click_ms - HOUR_MS, click_ms + HOUR_MS)):
        from_ms, to_ms = max(from_ms, starts_ms), min(to_ms, batches[-1][0])
        rates.append(clicks_between(batches, from_ms, to_ms) / (to_ms - from_ms) if to_ms > from_ms else 0.0)
    if click_ms < starts_ms or min(rates) == 0:
        return 1.0
    return min(max(rates[0] / rates[1], 0.25), 4.0)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(HOUR_MS, 9 * HOUR_MS), st.integers(0, 50)), min_size=1, max_size=30),
    st.integers(-(10**9), 10**9),
    st.data(),
)
def test_rho_is_the_clicks_an_hour_of_now_over_those_about_the_click(gaps, start_ms, data):
    ends = start_ms + np.cumsum([gap for gap, _ in gaps])
    batches = list(zip(ends.tolist(), (clicks for _, clicks in gaps), strict=True))
    clicks_ms = data.draw(
        st.lists(st.integers(batches[0][0] - DAY_MS, batches[-1][0] + HOUR_MS), min_size=1, max_size=8)
    )
    found = grown(batches).ratio(np.array(clicks_ms), at_ms=batches[-1][0])
    assert found == pytest.approx([rho(batches, click_ms) for click_ms in clicks_ms], rel=1e-6)


def arriving(
    rate_a_day: float, *, days: float, every_ms: int = 5 * MINUTE_MS, clicks_a_day: float = 1e6, hour_of_day=None
) -> list[tuple[int, int]]:
    """Batches of traffic that grows by a rate every day, exactly in the mean, with a daily rhythm if there is one."""
    batches, owed = [], 0.0
    for at_ms in range(every_ms, int(days * DAY_MS) + 1, every_ms):
        rhythm = 1.0 if hour_of_day is None else hour_of_day(at_ms / HOUR_MS % 24)
        owed += clicks_a_day * (1 + rate_a_day) ** (at_ms / DAY_MS) * rhythm * every_ms / DAY_MS
        batches.append((at_ms, int(owed)))
        owed -= int(owed)
    return batches


@pytest.mark.parametrize("rate", [0.05, 0.23, -0.1])
def test_steady_growth_gives_growth_to_the_power_of_the_age(rate):
    growth, now_ms = grown(arriving(rate, days=8)), 8 * DAY_MS
    ages = np.array([0.0, 0.04, 0.5, 1.0, 2.0, 3.0])
    found = growth.ratio((now_ms - ages * DAY_MS).astype(np.int64), at_ms=now_ms)
    # Now is the mean of two hours, so it is an hour old; the end of the stream is in no middle.
    assert found[2:] == pytest.approx((1 + rate) ** (ages[2:] - 1 / 24), rel=2e-3)
    assert found == pytest.approx((1 + rate) ** ages, rel=0.01)


def busy_at(hour: float) -> float:
    """Four times as many clicks at six in the morning as at six in the evening."""
    return 1 + 0.6 * np.sin(2 * np.pi * hour / 24)


@pytest.mark.parametrize("rate", [0.0, 0.23])
@pytest.mark.parametrize("now_h", [6, 12, 18, 24])
def test_labels_of_any_age_stand_for_a_traffic_that_had_always_been_as_it_is_now(rate, now_h):
    now_ms = (4 * 24 + now_h) * HOUR_MS
    batches = [batch for batch in arriving(rate, days=6, hour_of_day=busy_at) if batch[0] <= now_ms]
    ages = np.arange(1, 72)
    found = grown(batches).ratio(now_ms - ages * HOUR_MS, at_ms=now_ms)
    clicks = np.array([busy_at((now_h - age) % 24) * (1 + rate) ** (-age / 24) for age in ages])
    stand_for = (clicks * found)[(found > 0.25) & (found < 4)]
    assert len(stand_for) > 50
    assert stand_for == pytest.approx(stand_for.mean(), rel=0.05)  # the same of each age; without rho, from 1 to 4


def test_rho_is_held_within_a_fourth_and_four():
    falling = [(hour * HOUR_MS, 10_000 if hour <= 48 else 10) for hour in range(120)]
    rising = [(hour * HOUR_MS, 10 if hour <= 48 else 10_000) for hour in range(120)]
    for batches, held in ((falling, 0.25), (rising, 4.0)):
        assert grown(batches).ratio(np.array([46 * HOUR_MS]), at_ms=119 * HOUR_MS).tolist() == [held]


def test_where_traffic_has_ended_its_last_hours_stand_for_now():
    over = [(hour * HOUR_MS, 300 if hour <= 24 else 100 if hour <= 48 else 0) for hour in range(120)]
    clicks_ms = np.array([20, 40, 48]) * HOUR_MS
    assert grown(over).ratio(clicks_ms, at_ms=119 * HOUR_MS) == pytest.approx([1 / 3, 1, 2])
    assert grown(over[:49]).ratio(clicks_ms[:2], at_ms=48 * HOUR_MS) == pytest.approx([1 / 3, 1])


def test_rho_is_one_for_clicks_from_before_the_stream_and_before_there_is_one():
    batches = [(hour * HOUR_MS, 1000 + 10 * hour) for hour in range(10, 80)]
    growth = grown(batches)
    before, after = growth.ratio(np.array([10 * HOUR_MS - 1, 10 * HOUR_MS]), at_ms=79 * HOUR_MS)
    assert before == 1
    assert after == pytest.approx((1780 + 1790) / 2 / 1110)
    assert Growth(reach_ms=DAY_MS).ratio(np.array([5, -1]), at_ms=10).tolist() == [1, 1]
    assert growth.ratio(np.zeros(0, np.int64), at_ms=79 * HOUR_MS).shape == (0,)
    assert growth.ratio(np.array([5 * HOUR_MS, 40 * HOUR_MS]), at_ms=9 * HOUR_MS).tolist() == [1, 1]


def test_mass_that_is_taught_anew_stands_beside_the_traffic_of_its_own_time():
    growth = grown([(hour * HOUR_MS, 100 if hour <= 48 else 300) for hour in range(120)])
    assert growth.ratio(np.array([30 * HOUR_MS]), at_ms=40 * HOUR_MS).tolist() == [1.0]
    assert growth.ratio(np.array([30 * HOUR_MS]), at_ms=119 * HOUR_MS) == pytest.approx([3])


def test_a_click_from_after_the_last_batch_is_of_now():
    growth = grown([(hour * HOUR_MS, 100) for hour in range(80)])
    assert growth.ratio(np.array([81 * HOUR_MS]), at_ms=82 * HOUR_MS).tolist() == [1.0]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 3 * HOUR_MS), st.lists(st.integers(0, 9), min_size=1, max_size=4)), max_size=12)
)
def test_clicks_of_one_time_count_alike_one_by_one_and_together(steps):
    single, together, at_ms = Growth(reach_ms=DAY_MS), Growth(reach_ms=DAY_MS), 0
    for gap, parts in steps:
        at_ms += gap
        together.update(clicks=sum(parts), at_ms=at_ms)
        for clicks in parts:
            single.update(clicks=clicks, at_ms=at_ms)
    clicks_ms = np.arange(0, at_ms + 1, HOUR_MS // 2)
    assert single.ratio(clicks_ms, at_ms=at_ms) == pytest.approx(together.ratio(clicks_ms, at_ms=at_ms))


def test_batches_of_any_length_see_the_same_growth():
    now_ms, clicks_ms = 5 * DAY_MS, 5 * DAY_MS - np.array([HOUR_MS, DAY_MS, 3 * DAY_MS])
    fine = grown(arriving(0.23, days=5, every_ms=MINUTE_MS)).ratio(clicks_ms, at_ms=now_ms)
    coarse = grown(arriving(0.23, days=5, every_ms=HOUR_MS)).ratio(clicks_ms, at_ms=now_ms)
    assert fine == pytest.approx(coarse, rel=0.01)


def test_time_does_not_go_back():
    growth = grown([(hour * HOUR_MS, 100) for hour in range(60)])
    twin = grown([(hour * HOUR_MS, 100) for hour in range(59)] + [(59 * HOUR_MS, 107)])
    growth.update(clicks=7, at_ms=3)
    assert growth.snapshot() == twin.snapshot()


def test_what_is_kept_is_bounded_by_the_reach_and_two_points_a_quarter():
    growth = grown(arriving(0.05, days=30, every_ms=5 * MINUTE_MS), reach_ms=2 * DAY_MS)
    assert len(growth.snapshot()["ends_ms"]) <= 2 * 4 * (2 + 1) * 24 + 3
    now_ms = 30 * DAY_MS
    found = growth.ratio(now_ms - np.array([DAY_MS, 2 * DAY_MS]), at_ms=now_ms)
    assert found == pytest.approx([1.05 ** (1 - 1 / 24), 1.05 ** (2 - 1 / 24)], rel=2e-3)


def test_restored_growth_goes_on_with_the_same_bits():
    batches = arriving(0.1, days=5, every_ms=20 * MINUTE_MS)
    whole, cut = grown(batches), Growth(reach_ms=60 * DAY_MS)
    for at_ms, clicks in batches[:7]:
        cut.update(clicks=3 * clicks, at_ms=at_ms)
    cut.restore(json.loads(json.dumps(grown(batches[:100]).snapshot())))
    for at_ms, clicks in batches[100:]:
        cut.update(clicks=clicks, at_ms=at_ms)
    clicks_ms = np.arange(0, 5 * DAY_MS, 5 * HOUR_MS)
    assert (cut.ratio(clicks_ms, at_ms=5 * DAY_MS) == whole.ratio(clicks_ms, at_ms=5 * DAY_MS)).all()
    assert cut.snapshot() == whole.snapshot()


def test_a_snapshot_is_not_touched_by_what_comes_after_it():
    growth = grown([(hour * HOUR_MS, 100) for hour in range(30)])
    taken = growth.snapshot()
    kept = json.dumps(taken)
    growth.update(clicks=5, at_ms=40 * HOUR_MS)
    assert json.dumps(taken) == kept
