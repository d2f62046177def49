"""Likelihoods of their own: slopes against finite differences, whole lives, and where they come to rest."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Event
from models.likelihoods import (
    DAY_MS,
    BiDefuse,
    Dfm,
    Fnc,
    Likelihood,
    Told,
    likelihood_of,
    logit,
    sigmoid,
    softplus,
)

IP, ON, REVISIT = Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE, Event.REVISIT
DP, RN = Event.DELAYED_POSITIVE, Event.REAL_NEGATIVE
W_A = 3 * DAY_MS
LIKELIHOODS: dict[str, Likelihood] = {"fnc": Fnc(), "bi_defuse": BiDefuse(), "dfm": Dfm(attribution_window_ms=W_A)}
SEEN = {"fnc": (IP, ON, DP), "bi_defuse": (IP, ON, DP), "dfm": (IP, ON, REVISIT, DP, RN)}


def told(rows: list[tuple[Event, float, float, float]], weight: float = 1.0) -> Told:
    """Rows of (event, age, delay, age at the look before), in days."""
    events, *days = zip(*rows, strict=True)
    age, delay, before = (np.array(column) * DAY_MS for column in days)
    return Told(np.array(events, np.int8), np.full(len(rows), weight), age, delay, before)


def one_of(event: Event) -> Told:
    return told([(event, 1.5, 0.7, 0.4)])


# --- slopes -----------------------------------------------------------------------------------------------------------


def frozen_cost(name: str, logits: np.ndarray, rows: Told, *, at: np.ndarray) -> float:
    """Nats of `cost`; of `bi_defuse` with the weights of the outer head kept as they are `at` some logits, written again."""
    if name != "bi_defuse":
        return LIKELIHOODS[name].cost(logits, rows)[0]
    nats, g = 0.0, 1 / (1 + np.exp(-at[1]))
    for row, event in enumerate(rows.events):
        p_in, p_out = 1 / (1 + np.exp(-logits[:, row]))
        if event == DP:
            nats -= rows.weight[row] * np.log(p_out)
            continue
        nats -= rows.weight[row] * np.log(p_in if event == IP else 1 - p_in)
        nats -= rows.weight[row] * (g[row] ** 2 * np.log(p_out) + (1 - g[row]) * (1 + g[row]) * np.log(1 - p_out))
    return float(nats)


@pytest.mark.parametrize("name", LIKELIHOODS)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.data(),
)
def test_slopes_are_those_of_the_loss(name, days, seed, data):
    events = data.draw(st.lists(st.sampled_from(SEEN[name]), min_size=len(days), max_size=len(days)))
    rng = np.random.default_rng(seed)
    rows = told(
        [
            (event, age, delay, before * min(age, delay))
            for event, (age, delay, before) in zip(events, days, strict=True)
        ],
        0.7,
    )
    logits = rng.uniform(-6, 6, (len(LIKELIHOODS[name].heads), len(days)))
    nats, slopes = LIKELIHOODS[name].cost(logits, rows)
    assert nats == pytest.approx(frozen_cost(name, logits, rows, at=logits), rel=1e-9, abs=1e-9)
    assert slopes.shape == logits.shape
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        up, down = (frozen_cost(name, logits + sign * step, rows, at=logits) for sign in (1, -1))
        assert slopes[place] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


def test_no_gradient_flows_through_the_weights_of_the_outer_head():
    logits = np.array([[0.2], [0.5]])
    nats = [BiDefuse().cost(logits + step * np.array([[0.0], [1.0]]), one_of(ON))[0] for step in (1e-5, -1e-5)]
    flowing = (nats[0] - nats[1]) / 2e-5
    assert BiDefuse().cost(logits, one_of(ON))[1][1, 0] != pytest.approx(flowing, rel=0.1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_loss_and_slopes_are_finite_at_the_ends_of_the_line(name):
    likelihood = LIKELIHOODS[name]
    ends = np.array([-50.0, -20.0, 0.0, 20.0, 50.0])
    logits = np.stack([grid.ravel() for grid in np.meshgrid(*[ends] * len(likelihood.heads))])
    for event in SEEN[name]:
        for age, delay, before in [(0.0, 0.0, 0.0), (1e-8, 1e-8, 0.0), (3.0, 2.9, 1.0), (90.0, 90.0, 90.0)]:
            nats, slopes = likelihood.cost(logits, told([(event, age, delay, before)] * logits.shape[1]))
            assert np.isfinite(nats)
            assert np.isfinite(slopes).all()
    pcvr = likelihood.pcvr(logits)
    assert ((pcvr >= 0) & (pcvr <= 1)).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_rows_of_other_events_have_no_part_whatever_they_hold(name):
    likelihood = LIKELIHOODS[name]
    others = [event for event in Event if event not in SEEN[name]]
    logits = np.full((len(likelihood.heads), len(others)), 0.3)
    nats, slopes = likelihood.cost(logits, told([(event, 2.0, -1.0, 1.0) for event in others]))
    assert nats == 0
    assert not slopes.any()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_row_counts_as_much_as_its_weight(name):
    likelihood = LIKELIHOODS[name]
    for event in SEEN[name]:
        logits = np.linspace(-1, 1, len(likelihood.heads))[:, None]
        once = likelihood.cost(logits, one_of(event))
        twice = likelihood.cost(logits, told([(event, 1.5, 0.7, 0.4)], 2.0))
        assert twice[0] == pytest.approx(2 * once[0])
        np.testing.assert_allclose(twice[1], 2 * once[1])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_no_rows_cost_nothing(name):
    none = np.zeros(0)
    nats, slopes = LIKELIHOODS[name].cost(
        np.zeros((len(LIKELIHOODS[name].heads), 0)), Told(none.astype(np.int8), *[none] * 4)
    )
    assert nats == 0
    assert slopes.shape == (len(LIKELIHOODS[name].heads), 0)


# --- starts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [("fnc", 1.0), ("bi_defuse", 1.0), ("dfm", 1 - np.exp(-3))])
@pytest.mark.parametrize("prior", [1e-4, 0.1, 0.5])
def test_what_is_served_starts_at_the_prior(name, share, prior):
    starts = LIKELIHOODS[name].starts(prior)
    assert len(starts) == len(LIKELIHOODS[name].heads)
    assert LIKELIHOODS[name].pcvr(np.array(starts)[:, None]) == pytest.approx(prior * share, rel=1e-6)


@pytest.mark.parametrize("window_ms", [1, 60_000, 90 * DAY_MS])
def test_the_hazard_starts_finite_for_any_window(window_ms):
    assert np.isfinite(Dfm(attribution_window_ms=window_ms).starts(0.1)).all()


def test_both_heads_together_never_promise_more_than_one():
    assert BiDefuse().pcvr(np.array([[3.0, -2.0], [3.0, -2.0]])) == pytest.approx([1.0, 2 * sigmoid(np.array(-2.0))])


def test_a_likelihood_belongs_to_its_form():
    for form, kind in (("fnc", Fnc), ("bi_defuse", BiDefuse), ("dfm", Dfm)):
        assert isinstance(likelihood_of(form, attribution_window_ms=W_A), kind)
    assert likelihood_of("pairs", attribution_window_ms=W_A) is None


@settings(deadline=None, max_examples=50)
@given(st.floats(-30, 30))
def test_sigmoid_softplus_and_logit_agree(x):
    assert softplus(np.array(x)) == pytest.approx(np.logaddexp(0, x), rel=1e-12)
    assert sigmoid(np.array(x)) == pytest.approx(1 / (1 + np.exp(-x)), rel=1e-12)
    assert logit(1 / (1 + np.exp(-min(x, 10)))) == pytest.approx(min(x, 10), rel=1e-9, abs=1e-9)


# --- where they come to rest ------------------------------------------------------------------------------------------


def rest(slope: Callable[[float], float], low: float = -12.0, high: float = 12.0) -> float:
    """Where a slope by a logit crosses zero from below."""
    assert slope(low) < 0 < slope(high)
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def expected_slopes(name: str, logits: list[float], chances: dict[Event, float]) -> np.ndarray:
    """Of the events on a click and how often each happens: (heads,)."""
    rows = [LIKELIHOODS[name].cost(np.array(logits)[:, None], one_of(event))[1][:, 0] for event in chances]
    return np.sum([chance * row for chance, row in zip(chances.values(), rows, strict=True)], axis=0)


@pytest.mark.parametrize("p", [0.02, 0.2, 0.6])
def test_fnc_serves_the_truth_while_it_trains_on_less(p):
    at_click = {ON: 1.0, DP: p}
    b = rest(lambda b: expected_slopes("fnc", [b], at_click)[0])
    served = Fnc().pcvr(np.array([[b]])).item()
    assert served == pytest.approx(p, rel=1e-9)
    # The number that is trained is the published p / (1 + p): log sigmoid(b) taken for a logit.
    assert sigmoid(np.array(-softplus(np.array(-b)))) == pytest.approx(p / (1 + p), rel=1e-9)


@pytest.mark.parametrize(("p", "dp"), [(0.2, 0.1), (0.02, 0.012), (0.6, 0.5)])
def test_the_heads_of_bi_defuse_rest_at_what_comes_in_time_and_what_comes_late(p, dp):
    chances = {IP: p - dp, ON: 1 - p + dp, DP: dp}
    inner = rest(lambda s: expected_slopes("bi_defuse", [s, 0.0], chances)[0])
    outer = rest(lambda s: expected_slopes("bi_defuse", [0.0, s], chances)[1])
    assert sigmoid(np.array([inner, outer])) == pytest.approx([p - dp, dp], rel=1e-8)
    assert BiDefuse().pcvr(np.array([[inner], [outer]])) == pytest.approx(p, rel=1e-8)


def test_the_outer_head_of_bi_defuse_rests_at_one_as_well_but_does_not_stay():
    chances = {IP: 0.1, ON: 0.9, DP: 0.1}
    near_one = expected_slopes("bi_defuse", [0.0, 12.0], chances)[1]
    assert 0 < near_one < 1e-4  # nearly flat, and downhill to dp


# --- dfm over the life of a click -------------------------------------------------------------------------------------

LOOKS = (0.04, 0.2, 0.9, 3.0)  # days; the last is the attribution window


def life(delay: float | None, looks: tuple[float, ...] = LOOKS) -> list[tuple[Event, float, float, float]]:
    """What a click sends that converts after so many days, or never within the window."""
    if delay is not None and delay <= looks[0]:
        return [(IP, 0.0, delay, 0.0)]
    rows, before = [], 0.0
    for number, age in enumerate(looks[:-1]):
        if delay is not None and delay <= age:
            break
        rows.append((ON if number == 0 else REVISIT, age, -1.0, before))
        before = age
    return [*rows, (RN, looks[-1], -1.0, before) if delay is None else (DP, 0.0, delay, before)]


@settings(deadline=None, max_examples=60)
@given(st.floats(-8, 8), st.floats(-6, 4), st.none() | st.floats(1e-6, 3.0))
def test_over_the_life_of_a_click_dfm_teaches_its_likelihood_once(s, w, delay):
    rows = life(delay)
    dfm = Dfm(attribution_window_ms=W_A)
    nats, slopes = dfm.cost(np.repeat([[s], [w]], len(rows), axis=1), told(rows))
    p, hazard = 1 / (1 + np.exp(-s)), np.log1p(np.exp(w))
    never, then = 1 - p + p * np.exp(-hazard * LOOKS[-1]), p * hazard * np.exp(-hazard * (delay or 0.0))
    likelihood = never if delay is None else then
    assert nats == pytest.approx(-np.log(likelihood), rel=1e-9, abs=1e-12)
    # And so do the slopes: those of looking once, at the end.
    once = [(RN, LOOKS[-1], -1.0, 0.0)] if delay is None else [(IP, 0.0, delay, 0.0)]
    np.testing.assert_allclose(
        slopes.sum(axis=1), dfm.cost(np.array([[s], [w]]), told(once))[1][:, 0], rtol=1e-8, atol=1e-10
    )


def population(p: float, hazard: float, cells: int) -> tuple[np.ndarray, list[list[tuple[Event, float, float, float]]]]:
    """Chance and events of clicks that convert with p after an exactly exponential delay: its quantiles, and none in the window."""
    within = -np.expm1(-hazard * LOOKS[-1])
    quantiles = (np.arange(cells) + 0.5) / cells * within
    delays = -np.log1p(-quantiles) / hazard
    lives = [life(delay) for delay in delays]
    return np.array([p * within / cells] * cells + [1 - p * within]), [*lives, life(None)]


@pytest.mark.parametrize(("p", "hazard"), [(0.2, 1.5), (0.05, 6.0), (0.6, 0.8)])
def test_dfm_finds_rate_and_hazard_of_exponential_delays(p, hazard):
    chances, lives = population(p, hazard, cells=120)
    rows = told([row for each in lives for row in each])
    weighed = Told(
        rows.events, np.repeat(chances, [len(each) for each in lives]), rows.age_ms, rows.delay_ms, rows.before_ms
    )
    dfm = Dfm(attribution_window_ms=W_A)

    def slopes(s: float, w: float) -> np.ndarray:
        return dfm.cost(np.repeat([[s], [w]], len(rows.events), axis=1), weighed)[1].sum(axis=1)

    def best_s(w: float) -> float:
        return rest(lambda s: slopes(s, w)[0])

    low, high = (float(np.log(np.expm1(times * hazard))) for times in (0.7, 3))
    w = rest(lambda w: slopes(best_s(w), w)[1], low, high)
    at = np.array([best_s(w), w])
    assert np.abs(slopes(*at)).max() < 1e-9
    assert sigmoid(at[0]) == pytest.approx(p, rel=5e-3)
    assert softplus(at[1]) == pytest.approx(hazard, rel=5e-3)
    assert dfm.pcvr(at[:, None]) == pytest.approx(p * -np.expm1(-hazard * 3), rel=1e-3)
