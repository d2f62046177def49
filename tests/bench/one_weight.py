"""A stream of clicks that all convert alike, taught to one weight by exact masses or by draws: methods without a network. Must not know what is asked of it.

    clicks made at step t     |IP + ON .. REVISIT .. DP .......................... RN|
    age                       w_o      e_1                                        w_a

The learner is one logit. Two numbers say how it moves: in `tau_h` hours `oracle` has come 1 - 1/e of the way from any error, and its steps are a mean over
the last `momentum_h` hours of gradients (Adam's first moment: ten steps at .9, so ten hours where a step is an hour).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from soft_labels import SOFT

from models.batch import Bool, Event, Float64, Int64
from models.delay import METHODS, weigh
from models.delay_curve import DelayPrior
from models.delay_edges import horizons_ms
from models.traffic import Growth, Kappa
from models.weighing import Seen
from streaming.lab.delays import conversion_delay_cdf

HOUR_MS = 3_600_000
STEP_H = 0.5
DAY = round(24 / STEP_H)  # steps
SHORT_SHARE = 0.35
_POSITIVE = (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE)
_LOOKS = (Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE, Event.REVISIT)


class Lives:
    """All that can happen to a click, a row each.

    Args:
        p: P(conversion | click). first_look_h, window_h: w_o and w_a. horizons: steps between them.
    """

    def __init__(self, *, p: float = 0.2, first_look_h: float = 1.0, window_h: float = 72.0, horizons: int = 6) -> None:
        self.p, self.steps = p, round(window_h / STEP_H)
        ages_ms = np.arange(1, self.steps + 1) * STEP_H * HOUR_MS
        self.completed: Float64 = conversion_delay_cdf(ages_ms, SHORT_SHARE, window_h * HOUR_MS)  # F at each age
        looks_ms = horizons_ms(round(first_look_h * HOUR_MS), round(window_h * HOUR_MS), horizons)
        self.looks = [round(age / HOUR_MS / STEP_H) for age in looks_ms]
        came = np.append(0.0, self.completed)  # by age in steps, from 0
        first = self.looks[0]
        # event, age, label, probability, looks before it
        rows: list[tuple[Event, int, float, float, int]] = [
            (Event.IMMEDIATE_POSITIVE, first, 1.0, p * came[first], 0),
            (Event.OBSERVED_NEGATIVE, first, 0.0, 1 - p * came[first], 0),
            *((Event.REVISIT, age, 0.0, 1 - p * came[age], k) for k, age in enumerate(self.looks[1:-1], start=1)),
            *(
                (Event.DELAYED_POSITIVE, age, 1.0, p * (came[age] - came[age - 1]), sum(k < age for k in self.looks))
                for age in range(first + 1, self.steps + 1)
            ),
            (Event.REAL_NEGATIVE, self.steps, 0.0, 1 - p, len(self.looks) - 1),
            (Event.ORACLE, 0, 1.0, p, 0),
            (Event.ORACLE, 0, 0.0, 1 - p, 0),
        ]
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        self.events, self.age, self.label, self.share, self.looks_before = columns
        self.events = self.events.astype(np.int8)
        self.is_look: Bool = np.isin(self.events, [Event.OBSERVED_NEGATIVE, Event.REVISIT])
        self.is_positive: Bool = np.isin(self.events, _POSITIVE)

    @property
    def late(self) -> float:
        """S."""
        return float(1 - self.completed[self.looks[0] - 1])

    def expected(self, clicks: Float64) -> Float64:
        """Clicks made at each step -> what comes of them, (T, rows)."""
        return np.outer(clicks, self.share)

    def drawn(self, clicks: Float64, rng: np.random.Generator) -> tuple[Float64, Float64]:
        """The same by chance: how many clicks there are, (T,), and what comes of them, (T, rows)."""
        count = rng.poisson(clicks)
        law = np.append(np.diff(np.append(0.0, self.completed)) * self.p, 1 - self.p)
        bins = rng.multinomial(count, law)  # (T, steps + 1)
        came = np.cumsum(bins[:, :-1], axis=1)
        columns: list[Int64] = []
        for event, age, label in zip(self.events, self.age, self.label, strict=True):
            if event == Event.ORACLE:
                columns.append(came[:, -1] if label else count - came[:, -1])
            elif event == Event.DELAYED_POSITIVE:
                columns.append(bins[:, age - 1])
            elif event == Event.REAL_NEGATIVE:
                columns.append(bins[:, -1])
            else:
                columns.append(came[:, age - 1] if label else count - came[:, age - 1])
        return count.astype(np.float64), np.stack(columns, axis=1).astype(np.float64)


def believed_from_prior(lives: Lives, steps: int) -> list[Float64]:
    """F as a delay model has it that starts with a stream: bins that clicks have reached are known, the others are the prior's."""
    prior = DelayPrior().completed(tuple((np.arange(1, lives.steps + 1) * STEP_H * HOUR_MS).astype(np.int64).tolist()))
    known = [min(max(step - 1, 0), lives.steps - 1) for step in range(steps)]
    return [
        np.where(np.arange(lives.steps) <= last, lives.completed / lives.completed[last] * prior[last], prior)
        if last
        else prior
        for last in known
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """How one weight is taught.

    Args:
        method: a name of `METHODS`, or "soft": that of `soft_labels.py`. tau_h, momentum_h: see above.
        starts_at: pCVR at first, over p.
        own_from_h: from when on its own weights hold, hours of stream; None is w_a, as in `Teaching` where nothing is adjusted.
        straddling: what clicks are taught after that whose first event came before it: "corrections", as in `Teaching`; "es_dfm", what they began with;
            "nothing"; "looked at again": corrections of what today's f and F say of their last look.
        growth: whether late mass is scaled by the traffic of its hours (rho).
        pctr_over_ctr: None is "composed"; else "esmm", the product made with such a pCTR. ctr: P(click).
    """

    method: str
    tau_h: float
    momentum_h: float = 0.0
    starts_at: float = 1.0
    own_from_h: float | None = None
    straddling: str = "corrections"
    pctr_over_ctr: float | None = None
    ctr: float = 0.04
    growth: bool = True


def calibration(
    learner: Learner,
    lives: Lives,
    clicks: Float64,
    happens: Float64,
    believed: Callable[[int], Float64] | None = None,
) -> Float64:
    """pCVR over p at the start of each step of a stream without history: (T,).

    Args:
        clicks: (T,) made at each step. happens: (T, rows) what comes of them.
        believed: step -> F at each age; None is the truth.
    """
    method, p, mean = (METHODS | {"soft": SOFT})[learner.method], lives.p, float(clicks.mean())
    first, rows, looks = lives.looks[0], np.arange(len(lives.events)), np.array(lives.looks)
    switch = lives.steps if learner.own_from_h is None else round(learner.own_from_h / STEP_H)
    sees, look_rows = np.isin(lives.events, method.sees), np.flatnonzero(lives.is_look)
    before_age = looks[np.maximum(lives.looks_before - 1, 0)]  # how old a click was when it was last looked at
    of_click = np.isin(lives.events, _LOOKS)
    start = learner.starts_at * p
    weight, velocity, kept = np.log(start / (1 - start)), 0.0, 0.0
    if learner.momentum_h:
        kept = float(np.exp(-STEP_H / learner.momentum_h))
    found, flat = np.zeros(len(clicks)), np.ones(len(lives.events))
    first_f, taught = np.full(len(clicks), start), np.zeros((2, len(clicks), len(looks) + 1))  # a+ and a-
    kappa, growth = Kappa(half_life_ms=12 * HOUR_MS), Growth(reach_ms=round(lives.steps * STEP_H * HOUR_MS))
    for step in range(len(clicks)):
        f = 1 / (1 + np.exp(-np.clip(weight, -30, 30)))
        found[step] = f / p
        curve = lives.completed if believed is None else believed(step)
        made = step - lives.age
        if step >= first:
            first_f[step - first] = f
        completed = np.where(of_click, curve[np.maximum(lives.age, 1) - 1], 1.0)
        seen = Seen(flat * f, flat * (1 - curve[first - 1]), lives.label, completed, first_f[made.clip(0)])
        early = weigh(method.before_history or {}, lives.events, seen)
        plus, minus = weigh(method.pairs, lives.events, seen)
        if method.adjusts:
            known = look_rows[made[look_rows] >= 0]
            taught[:, made[known], lives.looks_before[known] + 1] = plus[known], minus[known]
            before = np.where(lives.looks_before > 0, taught[:, made.clip(0), lives.looks_before], 0.0)
            straddles = (lives.looks_before > 0) & (made + first < switch)
            if learner.straddling == "looked at again":
                today = seen._replace(completed=curve[np.maximum(before_age, 1) - 1], first_f=flat * f)
                again = np.array(method.pairs[Event.REVISIT](today))
                before = np.where((lives.looks_before > 0) & (made + before_age < switch), again, before)
            plus, minus = plus - before[0], minus - before[1]
            if learner.straddling in ("es_dfm", "nothing"):
                other = early if learner.straddling == "es_dfm" else (0 * plus, 0 * minus)
                plus, minus = (
                    np.where(straddles, theirs, own) for theirs, own in zip(other, (plus, minus), strict=True)
                )
        if method.before_history is not None and step < switch:
            plus, minus = early
        at_ms = round(step * STEP_H * HOUR_MS)
        if learner.growth:
            rho = growth.ratio((made * STEP_H * HOUR_MS).astype(np.int64), at_ms=at_ms)
            plus, minus = plus * rho, minus * rho
        present = np.where((made >= 0) & sees, happens[made.clip(0), rows], 0.0)
        positive, negative = float(present @ plus), float(present @ minus)
        if learner.pctr_over_ctr is None:
            slope = positive * (1 - f) - negative * f
        else:
            product = learner.pctr_over_ctr * learner.ctr * f
            unclicked = clicks[step] * (1 - learner.ctr) / learner.ctr * kappa.value
            slope = (1 - f) * (positive - (negative + unclicked) * product / (1 - product))
        velocity = kept * velocity + (1 - kept) * slope / (mean * p * (1 - p) * learner.tau_h)
        weight += STEP_H * velocity
        kappa.update(mass=positive + negative, clicks=clicks[step], at_ms=at_ms)
        growth.update(clicks=round(clicks[step]), at_ms=at_ms)
    return found


def by_day(found: Float64, clicks: Float64) -> Float64:
    """Mean over the clicks of each day, (days,)."""
    days = len(found) // DAY
    weights = clicks[: days * DAY].reshape(days, DAY)
    return np.asarray((found[: days * DAY].reshape(days, DAY) * weights).sum(axis=1) / weights.sum(axis=1))


def traffic(days: int, *, rhythm: float, clicks_a_day: float) -> Float64:
    """Clicks at each step, highest at 20:00 as in `World`."""
    hours = np.arange(days * DAY) * STEP_H
    return np.asarray(clicks_a_day / DAY * (1 + rhythm * np.cos(2 * np.pi * (hours - 20) / 24)))


def told(values: Sequence[float] | Float64) -> str:
    """Figures of days in a line."""
    return " ".join(f"{value:.2f}" for value in values)
