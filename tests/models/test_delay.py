"""What the methods teach, and the mass a click."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Event
from models.delay import METHODS, Kappa, pairs_of, taught

probabilities = st.floats(1e-6, 1 - 1e-6)


@pytest.mark.parametrize(
    ("method", "event", "converted", "pair"),
    [
        ("mature", Event.MATURED, 1.0, (1, 0)),
        ("mature", Event.MATURED, 0.0, (0, 1)),
        ("window", Event.IMMEDIATE_POSITIVE, 1.0, (1, 0)),
        ("window", Event.OBSERVED_NEGATIVE, 0.0, (0, 1)),
        ("window", Event.DELAYED_POSITIVE, 1.0, (0, 0)),
        ("oracle", Event.ORACLE, 1.0, (1, 0)),
        ("oracle", Event.ORACLE, 0.0, (0, 1)),
    ],
)
def test_pair_of_an_event(method, event, converted, pair):
    one = np.ones(1)
    found = taught(pairs_of(method), np.array([event], np.int8), f=one * 0.3, s=one * np.nan, v=one * converted)
    assert (found[0].item(), found[1].item()) == pair


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_other_events_teach_nothing(method):
    others = [event for event in Event if event not in METHODS[method]]
    v = np.ones(len(others))
    positive, negative = taught(pairs_of(method), np.array(others, np.int8), f=v * 0.3, s=v * 0.5, v=v)
    assert not positive.any()
    assert not negative.any()


def events_of_a_click(p: float, s: float) -> list[tuple[Event, float, float]]:
    """(event, label, probability) of all that can happen to a click that converts with p, late with s if it does."""
    return [
        (Event.IMMEDIATE_POSITIVE, 1.0, p * (1 - s)),
        (Event.OBSERVED_NEGATIVE, 0.0, 1 - p + p * s),
        (Event.DELAYED_POSITIVE, 1.0, p * s),
        (Event.REAL_NEGATIVE, 0.0, 1 - p),
        (Event.MATURED, 1.0, p),
        (Event.MATURED, 0.0, 1 - p),
        (Event.ORACLE, 1.0, p),
        (Event.ORACLE, 0.0, 1 - p),
    ]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(METHODS)), probabilities, probabilities)
def test_a_method_has_unit_mass_and_window_misses_the_late_conversions(method, p, s):
    events, labels, chances = (np.array(each) for each in zip(*events_of_a_click(p, s), strict=True))
    shape = np.ones(len(events))
    positive, negative = taught(pairs_of(method), events.astype(np.int8), f=shape * p, s=shape * s, v=labels)
    missed = p * s if method == "window" else 0.0
    assert (positive * chances).sum() == pytest.approx(p - missed)
    assert (negative * chances).sum() == pytest.approx(1 - p + missed)


def test_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"method must be one of mature, window, oracle \(got 'magic'\)"):
        pairs_of("magic")


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
    cut.restore(whole.snapshot())
    for kappa in (whole, cut):
        kappa.update(mass=0.3, clicks=2, at_ms=2500)
    assert cut.value == whole.value
    fresh = Kappa(half_life_ms=700)
    cut.restore(fresh.snapshot())
    assert cut.snapshot() == fresh.snapshot()


def test_half_life_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"half_life_ms must be above 0 \(got 0\)"):
        Kappa(half_life_ms=0)
