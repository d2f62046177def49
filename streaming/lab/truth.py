"""The planted truth: what features really do to clicks, conversions and delays. Must not know how a log is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming.lab.delays import Floats
from streaming.lab.dials import DAY_MS, World
from streaming.lab.population import (
    BRANDS,
    CATEGORIES,
    CITIES,
    CITY_TIERS,
    DEVICES,
    MEMBERSHIPS,
    PLACEMENTS,
    TAGS,
    TASTES,
    Items,
    Users,
)
from streaming.lab.traffic import Shown, Traffic

EFFECTS = {
    # effect: (weight on the CTR logit, weight on the CVR logit), before both are brought to their standard deviations.
    # They stand in pairs: drift rotates each pair's weights into each other.
    "taste": (0.45, 0.50),
    "price": (0.25, 0.55),
    "channel": (0.30, 0.35),
    "quality": (0.25, 0.40),
    "age": (0.25, 0.25),
    "city": (0.15, 0.30),
    "placement": (0.45, 0.15),
    "rhythm": (0.15, 0.10),
    "match": (0.35, 0.30),
    "hidden": (0.25, 0.20),
    "brand": (0.20, 0.12),
    "tags": (0.20, 0.08),
    "loyalty": (0.25, 0.15),
    "recency": (0.15, 0.15),
    "user": (0.20, 0.07),
    "item": (0.25, 0.09),
}
"""Most of what decides a conversion rests on few values (category, membership, device, price, city) and on tastes that
clicks teach as well: a thousand conversions have to be enough to learn from."""

# Standard deviations of the logits. A normal score of sd s has an AUC of about Phi(s / sqrt 2): .74 and .80;
# within clicks, which are alike already, some .01 to .05 less.
_CTR_SD, _CVR_SD = 0.9, 1.2
_SAMPLE = 8_192  # impressions that effects are standardised and intercepts set on
_ANGLES = 5  # at which intercepts are set; in between they are interpolated
_STEPS, _CLOSE = 50, 1e-9  # towards an intercept, at most; on the logit. At the default signal it takes ten


@dataclass(frozen=True, slots=True)
class Probabilities:
    """What an impression's facts are drawn with, (n,) each: P(click), P(conversion | click), P(short delay | conversion)."""

    pctr: Floats
    pcvr: Floats
    short_share: Floats


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return np.asarray(1 / (1 + np.exp(-logit)))


class Truth:
    """The probabilities behind a world, as functions of features, hidden traits and time.

    Each of the `EFFECTS` is non-linear in what is logged: interactions of categories, thresholds, a U shape, products and
    a hidden layer of tastes. They are brought to mean 0 and variance 1, and 0 where what they need is missing; both logits
    are sums of them, with weights that drift. Intercepts keep the means at `ctr` and `cvr`.

    Args:
        world: its dials.
        users, items: its population.
        rng: draws the tables of effects, and a look at the traffic to set means and intercepts by.
    """

    def __init__(self, world: World, users: Users, items: Items, rng: np.random.Generator) -> None:
        self._world, self._users, self._items = world, users, items
        categories, memberships, devices = CATEGORIES, len(MEMBERSHIPS), len(DEVICES)
        normal = rng.standard_normal
        self._taste = normal(categories) + 0.5 * normal((memberships, 1)) + 0.45 * normal((memberships, categories))
        self._channel = normal((devices, 1)) + 0.5 * normal((devices, categories))
        self._budget = 0.6 * normal((CITY_TIERS, 1)) + 0.6 * normal(memberships)
        self._placement = normal((len(PLACEMENTS), 1)) + 0.4 * normal((len(PLACEMENTS), devices))
        self._peak_hour = rng.random(memberships) * 24
        self._brand, self._device_taste = normal(BRANDS), normal((devices, TASTES))
        self._city = normal(CITY_TIERS)[users.tier] + 0.4 * normal(CITIES)[users.city]
        self._inner, self._outer = normal((TASTES, TASTES)) / np.sqrt(TASTES), normal(TASTES)
        self._tags = np.tanh(_mean_where(normal(TAGS)[items.tags], items.tags >= 0))
        self._calibrate(Traffic(world, users, items, rng).sample(_SAMPLE))

    def of(self, shown: Shown) -> Probabilities:
        """The probabilities of these impressions."""
        effects, angle, world = self._effects(shown), self._angle(shown), self._world
        scores, intercepts = (
            [np.interp(angle, self._angles, row) for row in rows] for rows in (self._scales, self._intercepts)
        )
        for task in (0, 1):
            scores[task] *= _score(effects, task, angle)
        return Probabilities(
            pctr=sigmoid(intercepts[0] + world.signal * _CTR_SD * scores[0]),
            pcvr=sigmoid(intercepts[1] + world.signal * _CVR_SD * scores[1]),
            short_share=sigmoid(self._short_intercept + world.delay_contrast * self._haste(effects, scores[1])),
        )

    def _angle(self, shown: Shown) -> Floats:
        """How far the weights have rotated, in radians."""
        days = (shown.event_time_ms - self._world.start_ms) / DAY_MS
        return np.asarray(np.radians(self._world.drift_degrees_per_day) * days)

    @staticmethod
    def _haste(effects: Floats, cvr_score: Floats) -> Floats:
        """What makes converters quick, sd about 1: mostly what makes them convert, and then where they are."""
        names = list(EFFECTS)
        return np.asarray(
            0.6 * cvr_score + 0.4 * effects[:, names.index("channel")] + 0.4 * effects[:, names.index("rhythm")]
        )

    def _effects(self, shown: Shown) -> Floats:
        """(n, effects), mean 0 and variance 1 over the log, 0 where missing."""
        return np.asarray(np.nan_to_num((self._raw(shown) - self._mean) / self._sd))

    def _raw(self, shown: Shown) -> Floats:
        """(n, effects) as they come, NaN where what they need is missing."""
        users, items = self._users, self._items
        user, item, device = shown.user, shown.item, shown.device
        membership, category = users.membership[user], items.category[item]
        taste, offer = users.taste[user], items.taste[item]
        over_budget = items.price_z[item] - self._budget[users.tier[user], membership]
        quality, brand, hours = items.quality[item], items.brand[item], shown.recency_hours
        seen = shown.recent >= 0
        columns = {
            "taste": self._taste[membership, category],
            "price": -np.maximum(np.tanh(over_budget), -0.4),  # cheap enough is as good as cheap
            "channel": self._channel[device, category],
            "quality": np.where(np.isnan(quality), np.nan, 1.0 * (quality >= 0.8) - 1.3 * (quality < 0.5) + quality),
            "age": np.tanh(((users.age[user] - 42) / 14) ** 2 - 1),  # the young and the old, not those between
            "city": np.where(users.city[user] < 0, np.nan, self._city[user]),
            "placement": self._placement[shown.placement, device],
            "rhythm": np.cos((shown.hour - self._peak_hour[membership]) * (2 * np.pi / 24)),
            "match": np.tanh((taste * offer).sum(axis=1) / np.sqrt(TASTES)),
            "hidden": product(np.tanh(product(taste + offer + self._device_taste[device], self._inner)), self._outer),
            "brand": np.where(brand < 0, np.nan, self._brand[brand]),
            "tags": self._tags[item],
            "loyalty": np.tanh(3 * _mean_where(items.category[shown.recent] == category[:, None], seen)),
            "recency": np.tanh(np.log(np.maximum(hours, 1e-3) / 12)),
            "user": users.own[user],
            "item": items.own[item],
        }
        return np.stack([columns[name] for name in EFFECTS], axis=1)

    def _calibrate(self, sample: Shown) -> None:
        """Sets what brings effects to mean 0 and variance 1, logits to their spread and the means to the dials."""
        raw = self._raw(sample)
        present = ~np.isnan(raw)
        counts = np.maximum(present.sum(axis=0), 1)
        self._mean = np.nansum(raw, axis=0) / counts
        spread = np.sqrt(np.nansum((raw - self._mean) ** 2, axis=0) / counts)
        self._sd = np.where(spread > 0, spread, 1.0)

        effects, world = self._effects(sample), self._world
        self._angles = np.radians(world.drift_degrees_per_day) * np.linspace(0, world.days, _ANGLES)
        self._scales, self._intercepts = np.ones((2, _ANGLES)), np.zeros((2, _ANGLES))
        for k, angle in enumerate(self._angles):
            weight = np.full(len(sample), 1 / len(sample))
            for task, (sd, mean) in enumerate(((_CTR_SD, world.ctr), (_CVR_SD, world.cvr))):
                score = _score(effects, task, np.full(len(sample), angle))
                self._scales[task, k] = 1 / score.std()
                logit = world.signal * sd * score / score.std()
                self._intercepts[task, k] = intercept_of(logit, weight, mean)
                weight = weight * sigmoid(logit + self._intercepts[task, k])  # the next is conditional on this one
                weight /= weight.sum()
            if k == 0:  # weight is by now that of converters
                haste = world.delay_contrast * self._haste(effects, score / score.std())
                self._short_intercept = intercept_of(haste, weight, world.short_share)


def _mean_where(values: npt.NDArray[Any], present: npt.NDArray[np.bool_]) -> Floats:
    """(n,) row means of (n, k) values over those present, NaN where none is."""
    counts = present.sum(axis=1)
    return np.where(counts > 0, (values * present).sum(axis=1) / np.maximum(counts, 1), np.nan)


def _score(effects: Floats, task: int, angle: Floats) -> Floats:
    """(n,) weighted sums of effects, the weights of each pair rotated by the angle."""
    weights = np.array([pair[task] for pair in EFFECTS.values()])
    turned = np.stack((-weights[1::2], weights[0::2]), axis=1).ravel()  # each pair rotated by 90 degrees
    return product(effects, weights) * np.cos(angle) + product(effects, turned) * np.sin(angle)


def product(rows: Floats, matrix: Floats) -> Floats:
    """Rows (n, k) times (k,) or (k, m), in one order of summation: BLAS has another for each number of threads."""
    return np.asarray(np.einsum("nk,k...->n...", rows, matrix))


def intercept_of(logit: Floats, weight: Floats, mean: float) -> float:
    """What, added to the logits, makes the weighted mean probability `mean`.

    The logit of a mean of sigmoids climbs with the intercept, but never faster than it: steps of the difference
    come ever closer and cannot overshoot.
    """
    intercept, target = 0.0, float(np.log(mean / (1 - mean)))
    for _ in range(_STEPS):
        reached = float((weight * sigmoid(logit + intercept)).sum())
        missing = target - float(np.log(reached / (1 - reached)))
        intercept += missing
        if abs(missing) < _CLOSE:
            break
    return intercept
