"""Intervals over days: against a loop that draws, by how often they hold the truth, and where there is none to give."""

from __future__ import annotations

import numpy as np
import pytest

from streaming.lab.compare.bootstrap import LEAST_DAYS, Days, Draws, Estimate, share_closed, student_975


def planted_days(days: int, *, seed: int = 1) -> tuple[Days, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return Days(days, resamples=400), random.normal(10, 3, days), random.uniform(50, 150, days)


def ends(found: Estimate) -> tuple[float | None, float | None, float | None]:
    return found.value, found.low, found.high


def test_an_interval_is_that_of_a_loop_over_the_same_draws() -> None:
    count, seed = 9, 3
    days = Days(count, resamples=200, seed=seed)
    random = np.random.default_rng(8)
    part, whole = random.normal(5, 2, count), random.uniform(20, 60, count)
    found = days.ratio(part, whole).estimate("")

    drawing = np.random.default_rng(seed)
    ratios = []
    for _ in range(200):
        chosen = np.repeat(np.arange(count), drawing.multinomial(count, [1 / count] * count))
        assert len(chosen) == count
        ratios.append(sum(part[day] for day in chosen) / sum(whole[day] for day in chosen))
    value = sum(part) / sum(whole)
    stretch = np.sqrt(count / (count - 1)) * 2.306 / 1.96  # Student's t with 8 degrees of freedom, over the normal
    low, high = (value + (np.quantile(ratios, at) - value) * stretch for at in (0.025, 0.975))
    assert ends(found) == pytest.approx((value, low, high), rel=1e-3)


@pytest.mark.parametrize("count", [5, 8, 20])
def test_intervals_hold_the_truth_about_as_often_as_they_say(count: int) -> None:
    days, random, truth, held = Days(count, resamples=400), np.random.default_rng(count), 0.3, 0
    for _ in range(600):
        whole = random.uniform(50, 150, count)
        found = days.ratio(whole * random.normal(truth, 0.1, count), whole).estimate("")
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 600 <= 0.985  # without the stretch, five days hold it .83 of the time


def test_differences_are_paired_a_shared_swing_cancels() -> None:
    days, part, whole = planted_days(12)
    swing = np.random.default_rng(4).normal(0, 20, 12)
    alone = days.ratio(part + swing, whole)
    difference = (days.ratio(part + swing + 0.01 * whole, whole) - alone).estimate("")
    assert difference.value == pytest.approx(0.01)
    assert difference.low == pytest.approx(0.01)
    assert difference.high == pytest.approx(0.01)
    own = alone.estimate("")
    assert own.low is not None
    assert own.high is not None
    assert own.high - own.low > 0.05


def test_the_same_seed_draws_the_same_days_and_another_others() -> None:
    part, whole = np.arange(10.0), np.ones(10)
    first, again, other = (Days(10, seed=seed).ratio(part, whole) for seed in (1, 1, 2))
    assert (first.resampled == again.resampled).all()
    assert (first.resampled != other.resampled).any()


def test_the_share_of_planted_losses_is_the_planted_share() -> None:
    days, base, clicks = planted_days(15)
    gap = np.random.default_rng(3).uniform(4, 6, 15)
    start, goal, own = (days.ratio(base + gap * left, clicks) for left in (1.0, 0.0, 0.2))
    assert share_closed(start, start, goal, names=("window", "oracle")).value == 0.0
    assert share_closed(start, goal, goal, names=("window", "oracle")) == Estimate(1.0, 1.0, 1.0)
    found = share_closed(start, own, goal, names=("window", "oracle"))
    assert ends(found) == pytest.approx((0.8, 0.8, 0.8))


def test_a_share_below_zero_is_worse_than_the_start() -> None:
    days, base, clicks = planted_days(8)
    start, own, goal = (days.ratio(base + clicks * more, clicks) for more in (0.2, 0.3, 0.1))
    assert share_closed(start, own, goal, names=("window", "oracle")).value == pytest.approx(-1.0)


def test_no_share_is_told_of_a_gap_that_is_not_there() -> None:
    days, base, clicks = planted_days(8)
    start, goal = days.ratio(base, clicks), days.ratio(base + 1.0, clicks)
    found = share_closed(start, start, goal, names=("window", "oracle"))
    assert found == Estimate(None, reason="no gap: oracle is no better than window here")


def test_no_share_is_told_of_a_gap_within_its_noise() -> None:
    days, base, clicks = planted_days(8)
    noise = np.array([5.0, -5, 4, -4, 3, -3, 5, -4])
    found = share_closed(
        days.ratio(base + noise, clicks), days.ratio(base, clicks), days.ratio(base, clicks), names=("window", "oracle")
    )
    assert found.value is None
    assert found.reason is not None
    assert "the gap from window to oracle lies within its noise (-" in found.reason


def test_too_few_days_give_a_value_and_say_why_there_is_no_interval() -> None:
    days = Days(LEAST_DAYS - 1)
    found = days.ratio(np.ones(4), np.full(4, 2.0)).estimate("")
    assert found == Estimate(0.5, reason="no interval: 4 days, and fewer than 5 can agree by chance")
    assert found.contains_zero is None
    assert days.resamples == 0
    start, own, goal = (days.ratio(np.full(4, left), np.ones(4)) for left in (3.0, 1.5, 1.0))
    share = share_closed(start, own, goal, names=("window", "oracle"))
    assert share.value == 0.75
    assert share.low is None


def test_a_figure_without_a_value_says_why() -> None:
    empty = Days(6).ratio(np.zeros(6), np.zeros(6))
    assert empty.estimate("no conversions") == Estimate(None, reason="no conversions")
    assert share_closed(empty, empty, empty, names=("window", "oracle")).reason == "the figure has no value"


def test_resamples_without_a_value_are_left_out_of_an_interval() -> None:
    # All conversions on one day of six: a third of the resamples has none.
    part, whole = np.array([0.5, 0, 0, 0, 0, 0]), np.array([1.0, 0, 0, 0, 0, 0])
    drawn = Days(6, resamples=300).ratio(part, whole)
    assert 0.2 < np.isnan(drawn.resampled).mean() < 0.5
    assert drawn.estimate("") == Estimate(0.5, 0.5, 0.5)


def test_no_days_are_refused() -> None:
    with pytest.raises(ValueError, match=r"count must be 1 or more \(got 0\)"):
        Days(0)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(4, 2.776), (5, 2.571), (7, 2.365), (13, 2.160), (30, 2.042), (120, 1.980)]
)
def test_students_quantile_is_that_of_the_printed_table(freedom: int, quantile: float) -> None:
    assert student_975(freedom) == pytest.approx(quantile, rel=3e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-1.0, 1.0, True), (0.0, 1.0, True), (0.1, 1.0, False), (-2.0, -1.0, False)]
)
def test_an_interval_contains_zero_with_its_ends(low: float, high: float, expected: bool) -> None:
    assert Estimate(0.5, low, high).contains_zero is expected


def test_one_over_another_has_no_value_where_the_other_is_not_positive() -> None:
    one, other = Draws(1.0, np.array([1.0, 2.0]), 6), Draws(-1.0, np.array([2.0, 0.0]), 6)
    found = one.over(other)
    assert np.isnan(found.value)
    assert found.resampled.tolist()[0] == 0.5
    assert np.isnan(found.resampled[1])
