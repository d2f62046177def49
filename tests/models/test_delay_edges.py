"""At which ages the delay model looks at a click."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.delay_edges import MOST_EDGES, MOST_HORIZONS, bin_of, edges_ms, horizons_ms, log_age

DAY_MS = 86_400_000
windows = st.tuples(st.integers(0, 60 * DAY_MS), st.integers(1, 60 * DAY_MS)).map(lambda pair: (min(pair), max(pair)))


@settings(deadline=None, max_examples=100)
@given(windows, st.integers(1, MOST_HORIZONS))
def test_edges_ascend_hold_all_horizons_and_end_with_the_attribution_window(pair, count):
    observation, attribution = pair
    edges, horizons = edges_ms(observation, attribution, count), horizons_ms(observation, attribution, count)
    assert list(edges) == sorted(set(edges))
    assert len(edges) <= MOST_EDGES
    assert edges[0] >= 0
    assert edges[-1] == attribution
    assert set(horizons) <= set(edges)
    assert list(horizons) == sorted(set(horizons))
    assert (horizons[0], horizons[-1]) == (observation, attribution)
    assert len(horizons) <= count + 1


@pytest.mark.parametrize("observation", [0, 900_000, 3_600_000])
def test_horizons_are_evenly_spaced_in_log_age(observation):
    steps = [log_age(age) for age in horizons_ms(observation, 3 * DAY_MS, 6)]
    assert len(steps) == 7
    assert [b - a for a, b in pairwise(steps)] == pytest.approx([(steps[-1] - steps[0]) / 6] * 6, abs=1e-4)


def test_equal_windows_leave_one_horizon_and_still_sixteen_bins():
    assert horizons_ms(DAY_MS, DAY_MS) == (DAY_MS,)
    assert len(edges_ms(DAY_MS, DAY_MS)) == 16


def test_a_look_at_the_click_itself_is_an_edge_of_its_own():
    assert edges_ms(0, DAY_MS)[0] == 0


@pytest.mark.parametrize(("delay", "number"), [(0, 0), (5, 0), (6, 1), (9, 1), (10, 2), (20, 2)])
def test_a_delay_on_an_edge_belongs_to_the_bin_that_ends_there(delay, number):
    assert bin_of(delay, (5, 9, 20)) == number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 6), r"attribution_window_ms must be above 0 \(got 0\)"),
        ((-1, 10, 6), r"observation_window_ms must lie between 0 and attribution_window_ms = 10 \(got -1\)"),
        ((11, 10, 6), r"observation_window_ms must lie between 0 and attribution_window_ms = 10 \(got 11\)"),
        ((1, 10, 0), r"horizons must lie between 1 and 32 \(got 0\)"),
        ((1, 10, 33), r"horizons must lie between 1 and 32 \(got 33\)"),
    ],
)
def test_windows_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        edges_ms(*arguments)
