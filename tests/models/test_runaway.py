"""A logistic regression with one weight, taught with exact expected masses hour by hour: what f0, rho and kappa are for.

    clicks made at hour t     |IP + ON .. REVISIT .. DP .......................... RN|
    age in hours              w_o      e_1                                        w_a

Nothing is drawn: each event of the clicks of an hour has its probability for a weight, so what is off is off by the method and not by chance.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.batch import Event, Float64
from models.delay import METHODS, Method, weigh
from models.delay_edges import horizons_ms
from models.traffic import Growth, Kappa
from models.weighing import Pair, Pairs, Seen

HOUR_MS = 3_600_000
RATE, LATE, CTR = 0.2, 0.57, 0.1  # P(conversion | click), S, P(click)
CLICKS_AN_HOUR = 10_000


def soft_label(seen: Seen, f: Float64) -> Pairs:
    """The form that `survival` must not have: an open click is lent the positive that may still come."""
    late = f * (1 - seen.completed)
    z = late / (1 - f + late)
    return z, 1 - z


def with_soft_labels(look: Pair) -> Method:
    return replace(SURVIVAL, pairs={**SURVIVAL.pairs, Event.OBSERVED_NEGATIVE: look, Event.REVISIT: look})


SURVIVAL = METHODS["survival"]
SOFT = with_soft_labels(lambda seen: soft_label(seen, seen.first_f))
NAIVE = with_soft_labels(lambda seen: soft_label(seen, seen.f))  # by the f of this look, not of the click's first event


class Clicks:
    """All that can happen to the clicks of an hour, a row each.

    Args:
        window_h: w_a. horizons: steps from w_o = 1 hour to it, as `survival` looks at clicks.
        late: share of the conversions that come after w_o, evenly in log age until w_a.
    """

    def __init__(self, *, window_h: int, horizons: int, late: float) -> None:
        ages = np.arange(1, window_h + 1)
        come = 1 - late + late * np.log(ages) / np.log(window_h)  # F at each age
        looks = list(dict.fromkeys(round(ms / HOUR_MS) for ms in horizons_ms(HOUR_MS, window_h * HOUR_MS, horizons)))
        # event, age, label, F at its age, probability, looks before it
        rows = [
            (Event.IMMEDIATE_POSITIVE, 1, 1.0, come[0], RATE * come[0], 0),
            (Event.OBSERVED_NEGATIVE, 1, 0.0, come[0], 1 - RATE * come[0], 0),
            *(
                (Event.REVISIT, age, 0.0, come[age - 1], 1 - RATE * come[age - 1], k)
                for k, age in enumerate(looks[1:-1], start=1)
            ),
            *(
                (
                    Event.DELAYED_POSITIVE,
                    age,
                    1.0,
                    1.0,
                    RATE * (come[age - 1] - come[age - 2]),
                    sum(look < age for look in looks),
                )
                for age in range(2, window_h + 1)
            ),
            (Event.REAL_NEGATIVE, window_h, 0.0, 1.0, 1 - RATE, len(looks) - 1),
            (Event.MATURED, window_h, 1.0, 1.0, RATE, 0),
            (Event.MATURED, window_h, 0.0, 1.0, 1 - RATE, 0),
        ]
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        self.events, self.age, self.label, self.completed, self.share, self.looks_before = columns
        self.events = self.events.astype(np.int8)
        self.is_look = np.isin(self.events, [Event.OBSERVED_NEGATIVE, Event.REVISIT])
        self.looks = len(looks)


def calibration_by_hour(
    method: Method,
    *,
    days: int,
    growth_per_day: float = 0.0,
    window_h: int = 48,
    horizons: int = 6,
    step: float = 0.05,
    starts_at: float = RATE,
    objective: str = "composed",
    kappa: bool = True,
    rho: bool = True,
    momentum_h: float = 0.0,
) -> Float64:
    """pCVR over the true rate, at the start of each hour of a stream that has no history: (hours,).

    Args:
        step: how far the weight moves for a gradient of 1 a click of the first hour.
        starts_at: pCVR at first.
        momentum_h: how many hours of gradients a step is the mean of.
    """
    late = 1.0 if method.observes_at_click else LATE
    clicks, hours = Clicks(window_h=window_h, horizons=horizons, late=late), 24 * days
    traffic = CLICKS_AN_HOUR * (1 + growth_per_day) ** (np.arange(hours) / 24)
    growing, mass = Growth(reach_ms=window_h * HOUR_MS), Kappa(half_life_ms=12 * HOUR_MS)
    weight, flat, found = float(np.log(starts_at / (1 - starts_at))), np.ones(len(clicks.events)), np.zeros(hours)
    first_f, velocity = np.full(hours, np.nan), 0.0
    kept = float(np.exp(-1 / momentum_h)) if momentum_h else 0.0
    # What clicks made at an hour have been taught after so many looks: a+ and a-.
    taught = np.full((2, hours, clicks.looks + 1), np.nan)
    for hour in range(hours):
        f = 1 / (1 + np.exp(-np.clip(weight, -30, 30)))
        found[hour] = f / RATE
        made = hour - clicks.age
        if hour >= 1:
            first_f[hour - 1] = f
        seen = Seen(flat * f, flat * late, clicks.label, clicks.completed, first_f[made.clip(0)])
        is_young = method.before_history is not None and not method.adjusts and hour < window_h
        own = method.pairs if not is_young else method.before_history or {}
        plus, minus = weigh(method.pairs, clicks.events, seen)
        if method.adjusts:
            for row in np.flatnonzero(clicks.is_look & (made >= 0)):
                taught[:, made[row], clicks.looks_before[row] + 1] = plus[row], minus[row]
            # Nothing has been taught where no look came before.
            before = np.where(clicks.looks_before > 0, taught[:, made.clip(0), clicks.looks_before], 0.0)
            plus, minus = plus - np.nan_to_num(before[0]), minus - np.nan_to_num(before[1])
        if is_young:
            plus, minus = weigh(own, clicks.events, seen)
        at_ms = hour * HOUR_MS
        present = np.where((made >= 0) & np.isin(clicks.events, list(own)), clicks.share * traffic[made.clip(0)], 0.0)
        if rho:
            present = present * growing.ratio(made * HOUR_MS, at_ms=at_ms)
        plus, minus = (
            np.where(present > 0, weights, 0.0) for weights in (plus, minus)
        )  # NaN of clicks before the first hour
        positive, negative = float(present @ plus), float(present @ minus)
        if objective == "composed":
            gradient = positive * (1 - f) - negative * f
        else:
            product = CTR * f
            unclicked = traffic[hour] * (1 - CTR) / CTR * (mass.value if kappa else 1.0)
            gradient = (1 - f) * (positive - (negative + unclicked) * product / (1 - product))
        velocity = kept * velocity + (1 - kept) * gradient
        weight += step * velocity / CLICKS_AN_HOUR
        growing.update(clicks=round(traffic[hour]), at_ms=at_ms)
        mass.update(mass=positive + negative, clicks=round(traffic[hour]), at_ms=at_ms)
    return found


# --- why survival lends no positive, and keeps the f of a click's first event -------------------------------------------

LARGE_STEPS: dict[str, Any] = {"horizons": 12, "growth_per_day": 0.23, "starts_at": 1.25 * RATE, "days": 12}


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_survival_stays_put_under_large_steps(step):
    settled = calibration_by_hour(SURVIVAL, step=step, **LARGE_STEPS)[5 * 24 :]
    assert np.abs(settled - 1).max() < 0.02


@pytest.mark.parametrize("momentum_h", [7.0, 10.0])
def test_lent_positives_swing_ever_further_where_steps_have_momentum(momentum_h):
    soft, own = (
        np.abs(calibration_by_hour(method, step=6.0, momentum_h=momentum_h, **LARGE_STEPS) - 1)
        for method in (SOFT, SURVIVAL)
    )
    assert own[5 * 24 :].max() < 0.02
    assert soft[8 * 24 :].max() > 0.3 > 2 * soft[3 * 24 : 5 * 24].min()


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_lent_by_todays_f_they_run_away(step):
    settled = calibration_by_hour(NAIVE, step=step, **LARGE_STEPS)[5 * 24 :]
    assert settled.max() > 3


def test_small_steps_do_not_tell_them_apart():
    own, soft, naive = (calibration_by_hour(method, step=0.005, days=8) for method in (SURVIVAL, SOFT, NAIVE))
    assert np.abs(own - soft).max() < 0.02
    assert np.abs(own - naive).max() < 0.02


# --- what rho and kappa are for -----------------------------------------------------------------------------------------

GROWING: dict[str, Any] = {"growth_per_day": 0.23, "days": 10, "window_h": 72}


def settled(method: str, **how: Any) -> float:
    """Mean calibration of the last two days."""
    return float(calibration_by_hour(METHODS[method], **(GROWING | how))[-48:].mean())


# What growth does without rho. `mature` has labels of one age, so nothing is out of proportion in it.
ALONE = [
    ("fnw", 0.8, 0.97),
    ("es_dfm", 0.85, 0.97),
    ("defuse", 0.85, 0.97),
    ("survival", 0.85, 0.97),
    ("defer", 1.1, 1.3),
    ("ddfm", 1.1, 1.35),
    ("mature", 0.999, 1.001),
]


@pytest.mark.parametrize(("method", "low", "high"), ALONE, ids=[method for method, _, _ in ALONE])
def test_growth_puts_late_labels_out_of_proportion_and_rho_repairs_it(method, low, high):
    assert low < settled(method, rho=False) < high
    assert settled(method) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("method", ["mature", "defer", "ddfm", "survival"])
def test_under_esmm_both_are_needed_and_enough(method):
    assert settled(method, objective="esmm") == pytest.approx(1, abs=0.03)


def test_labels_of_another_time_than_the_impressions_beside_them_need_kappa():
    assert settled("mature", objective="esmm", kappa=False, rho=False) < 0.7
    assert settled("mature", objective="esmm", kappa=True, rho=False) == pytest.approx(1, abs=0.03)


def test_kappa_alone_makes_defer_worse():
    without, alone = (settled("defer", objective="esmm", kappa=kappa, rho=False) for kappa in (False, True))
    assert abs(alone - 1) > 2 * abs(without - 1)
