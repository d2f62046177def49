"""Who clicks in a simulated Criteo log, and the planted truth about them; must not know times of day or files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from streaming.lab.delays import Floats, Ints
from streaming.lab.population import pick
from streaming.lab.truth import intercept_of, product, sigmoid

CARDINALITIES = (55_824, 5_443, 13_073, 13_170, 3_145, 33_843, 14_304, 11, 13_601)
"""Different values of each category in the real file, the missing one among them; the second is the campaign."""

_ZIPF = 1.1  # weight of the r-th value is r^-1.1: in a million clicks the campaigns all appear, of the ids half
_MISSING_CATEGORY = (0.02, 0.0, 0.05, 0.05, 0.08, 0.03, 0.10, 0.02, 0.05)
_MISSING_INTEGER = (0.02, 0.30, 0.15, 0.05, 0.45, 0.10, 0.05, 0.20)
_LOG_MEAN = np.array([1.0, 0.5, 2.0, 1.5, 3.0, 1.0, 4.0, 5.0])  # of a count: heavy tails, unlike from column to column
_LOG_SD = np.array([1.2, 0.8, 1.0, 1.5, 1.0, 0.7, 1.5, 1.2])
_COMMON = 0.4  # correlation of the logs through one trait, how active somebody is: its square is theirs
_LEVELS = 8  # of the first count, that interact with the eighth category

_CATEGORY_WEIGHTS = (0.15, 0.50, 0.25, 0.25, 0.35, 0.15, 0.20, 0.40, 0.25)
_INTEGER_WEIGHTS = (0.45, 0.20, 0.35, 0.25, 0.30, 0.20, 0.35, 0.30)
_WEIGHTS = np.array([*_CATEGORY_WEIGHTS, *_INTEGER_WEIGHTS, 0.35])
"""Of the effects on the logit, before they are brought to its spread. Large where a value is frequent: it has to be learnable.
They stand in pairs, and drift rotates each pair's weights into each other."""

_LOGIT_SD = 1.7  # the AUC of the truth is then about .85; the papers' Oracle has .845
_SAMPLE, _ANGLES = 1 << 16, 5  # clicks that effects and intercepts are set on; angles at which they are


class CriteoWorld(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a simulated Criteo file; two equal worlds write equal bytes.

    Raises:
        ValueError: a dial is out of its range; the message names it, its value and the rule.

    Example:
        >>> CriteoWorld(cvr=1)
        Traceback (most recent call last):
        ...
        ValueError: cvr must lie above 0 and below 1 (got 1)
    """

    seed: int = 0
    clicks: int = 200_000  # the real file has 15,898,883
    days: float = 60.0  # of clicks; conversions follow for 30 more
    cvr: float = 0.227  # mean P(conversion within 30 days | click)
    short_share: float = 0.35  # of converters, that convert within minutes
    delay_contrast: float = 1.0  # sd of the logit of the short share over x; 0 is one delay law for all
    drift_degrees_per_day: float = 0.5  # how far the truth's weights rotate: fresh is better than old, by a little
    rhythm: float = 0.6  # clicks a second between 1 - rhythm and 1 + rhythm times their mean within a day

    def __post_init__(self) -> None:
        for name, is_right, rule in (
            ("seed", self.seed >= 0, "must be 0 or more"),
            ("clicks", self.clicks >= 1, "must be 1 or more"),
            ("days", 0.01 <= self.days <= 3650, "must lie between 0.01 and 3650"),
            ("cvr", 0 < self.cvr < 1, "must lie above 0 and below 1"),
            ("short_share", 0 < self.short_share < 1, "must lie above 0 and below 1"),
            ("delay_contrast", 0 <= self.delay_contrast <= 3, "must lie between 0 and 3"),
            ("drift_degrees_per_day", 0 <= self.drift_degrees_per_day <= 180, "must lie between 0 and 180"),
            ("rhythm", 0 <= self.rhythm <= 1, "must lie between 0 and 1"),
        ):
            if not is_right:
                raise ValueError(f"{name} {rule} (got {getattr(self, name)})")


@dataclass(frozen=True, slots=True)
class Clickers:
    """The features of n clicks.

    Args:
        categories: (n, 9) ranks by popularity, from 0; -1 is missing.
        counts: (n, 8) integers. is_missing: (n, 8) which of them are not in the file.
    """

    categories: Ints
    counts: Ints
    is_missing: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.categories)


def draw_clickers(rng: np.random.Generator, n: int) -> Clickers:
    """The features of n clicks: categories by Zipf's law, counts with heavy tails, some of either missing."""
    categories = np.stack([pick(rng, weights, n) for weights in _POPULARITY], axis=1)
    categories[rng.random(categories.shape) < _MISSING_CATEGORY] = -1
    activity, own = rng.standard_normal((n, 1)), rng.standard_normal((n, len(_LOG_MEAN)))
    z = np.sqrt(_COMMON) * activity + np.sqrt(1 - _COMMON) * own
    # Down to -1, as in the real file.
    counts = np.exp(_LOG_MEAN + _LOG_SD * z).astype(np.int64) - 1
    return Clickers(categories, counts, rng.random(counts.shape) < _MISSING_INTEGER)


_POPULARITY = [np.arange(1, cardinality, dtype=np.float64) ** -_ZIPF for cardinality in CARDINALITIES]


class CriteoTruth:
    """P(conversion | click) and the share of quick converters, as functions of the features and of time.

    Each effect is brought to mean 0 and variance 1 and is 0 where what it needs is missing: a table of effects for a category, curves
    for the counts (a slope that levels off, a U shape, a threshold, a wave), and a table for a category and a count together.
    Those who convert more convert sooner, else methods that know the delays could not be told apart.

    Args:
        world: its dials.
        rng: draws the tables, and a look at the clicks to set means by.
    """

    def __init__(self, world: CriteoWorld, rng: np.random.Generator) -> None:
        self._world = world
        self._tables = [rng.standard_normal(cardinality) for cardinality in CARDINALITIES]
        self._together = rng.standard_normal((CARDINALITIES[7], _LEVELS))
        self._calibrate(draw_clickers(rng, _SAMPLE))

    def of(self, clickers: Clickers, day: Floats) -> tuple[Floats, Floats]:
        """The probability of a conversion, and of a short delay given one, of each of n clicks `day` days into the log."""
        effects, angle = self._effects(clickers), np.radians(self._world.drift_degrees_per_day) * day
        score = _score(effects, angle) * np.interp(angle, self._angles, self._scales)
        pcvr = sigmoid(np.interp(angle, self._angles, self._intercepts) + _LOGIT_SD * score)
        return pcvr, sigmoid(self._short_intercept + self._world.delay_contrast * self._haste(effects, score))

    @staticmethod
    def _haste(effects: Floats, score: Floats) -> Floats:
        """What makes converters quick, sd about 1: mostly what makes them convert, and then who sells and where."""
        return np.asarray(0.6 * score + 0.4 * effects[:, 4] + 0.4 * effects[:, 7])

    def _effects(self, clickers: Clickers) -> Floats:
        return np.asarray(np.nan_to_num((self._raw(clickers) - self._mean) / self._sd))

    def _raw(self, clickers: Clickers) -> Floats:
        """(n, effects) as they come, NaN where what they need is missing."""
        categories = clickers.categories
        z = (np.log(clickers.counts + 1.5) - _LOG_MEAN) / _LOG_SD
        z[clickers.is_missing] = np.nan
        curves: tuple[Any, ...] = (np.tanh, np.square, lambda x: 1.0 * (x > 0.5), np.sin)
        level = np.nan_to_num(2 * z[:, 0] + _LEVELS / 2).clip(0, _LEVELS - 1).astype(np.int64)
        columns = [table[categories[:, column]] for column, table in enumerate(self._tables)]
        columns = [np.where(categories[:, column] < 0, np.nan, values) for column, values in enumerate(columns)]
        columns += [np.where(np.isnan(x), np.nan, curves[column % len(curves)](x)) for column, x in enumerate(z.T)]
        columns.append(
            np.where(np.isnan(z[:, 0]) | (categories[:, 7] < 0), np.nan, self._together[categories[:, 7], level])
        )
        return np.stack(columns, axis=1)

    def _calibrate(self, sample: Clickers) -> None:
        raw, world = self._raw(sample), self._world
        self._mean, self._sd = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)
        effects, weight = self._effects(sample), np.full(len(sample), 1 / len(sample))
        self._angles = np.radians(world.drift_degrees_per_day) * np.linspace(0, world.days, _ANGLES)
        self._scales, self._intercepts = np.ones(_ANGLES), np.zeros(_ANGLES)
        for k, angle in enumerate(self._angles):
            score = _score(effects, np.full(len(sample), angle))
            self._scales[k] = 1 / score.std()
            self._intercepts[k] = intercept_of(_LOGIT_SD * score / score.std(), weight, world.cvr)
        # In the middle of the log, so that its mean is right over all of it.
        score = _score(effects, np.full(len(sample), self._angles[_ANGLES // 2])) * self._scales[_ANGLES // 2]
        converters = sigmoid(self._intercepts[_ANGLES // 2] + _LOGIT_SD * score)
        haste = world.delay_contrast * self._haste(effects, score)
        self._short_intercept = intercept_of(haste, converters / converters.sum(), world.short_share)


def _score(effects: Floats, angle: Floats) -> Floats:
    """(n,) weighted sums of effects, the weights of each pair rotated by the angle."""
    turned = np.stack((-_WEIGHTS[1::2], _WEIGHTS[0::2]), axis=1).ravel()  # each pair rotated by 90 degrees
    return product(effects, _WEIGHTS) * np.cos(angle) + product(effects, turned) * np.sin(angle)
