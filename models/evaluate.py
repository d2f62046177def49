"""Sums in, metrics out; and AUC exactly, from whole columns. Must not know which model made the predictions, when, or for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.sums import Sums, probabilities_and_labels

RELIABILITY_BINS = 20
"""With as many rows each: fine enough to see where a curve bends, and 50,000 rows still leave 2,500 to each."""


def calibration(sums: Sums) -> float | None:
    """Sum of p over sum of y, 1 when predictions are right on average; None without positives.

    Source:
        McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013; also called PCOC.
    """
    return sums.sum_p / sums.sum_y if sums.sum_y > 0 else None


def log_loss(sums: Sums) -> float | None:
    """Nats a row; None without rows."""
    return sums.sum_log_loss / sums.n if sums.n > 0 else None


def normalized_entropy(sums: Sums) -> float | None:
    """Log loss over that of always predicting the mean label of the same rows; None if they are of one class.

    Example:
        >>> print(normalized_entropy(Sums.of([0.25] * 4, [1, 0, 0, 0])))
        1.0

    Source:
        He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014.
    """
    if not 0 < sums.sum_y < sums.n:
        return None
    mean = sums.sum_y / sums.n
    entropy = -mean * math.log(mean) - (1.0 - mean) * math.log1p(-mean)
    return sums.sum_log_loss / sums.n / entropy


class ReliabilityBin(NamedTuple):
    """Rows with neighbouring scores; `n` is the sum of their weights."""

    mean_p: float
    mean_y: float
    n: float


def reliability(sums: Sums, bins: int = RELIABILITY_BINS) -> list[ReliabilityBin]:
    """The rows in bins of equal mass by score, as equal as score buckets allow, lowest scores first; empty bins are left out."""
    if bins < 1:
        raise ValueError(f"bins must be 1 or more (got {bins})")
    positives, negatives, sum_p = sums.buckets
    mass = positives + negatives
    used = np.flatnonzero(mass > 0)
    if used.size == 0:
        return []
    middle = (np.cumsum(mass) - mass / 2)[used] / mass.sum()  # a bucket goes, whole, where its middle falls
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)
    columns = [np.bincount(bin_of, column[used], minlength=bins) for column in (sum_p, positives, mass)]
    return [
        ReliabilityBin(p / n, y / n, n)
        for p, y, n in zip(*(column.tolist() for column in columns), strict=True)
        if n > 0
    ]


def ece(sums: Sums, bins: int = RELIABILITY_BINS) -> float | None:
    """Expected calibration error over equal-mass bins: the mean of |mean p - mean y|, weighted by rows; None without rows.

    Source:
        Nixon et al., "Measuring Calibration in Deep Learning", CVPR workshops 2019 (adaptive binning).
    """
    curve = reliability(sums, bins)
    return sum(n * abs(mean_p - mean_y) for mean_p, mean_y, n in curve) / sum(n for _, _, n in curve) if curve else None


class BucketedAuc(NamedTuple):
    """An AUC read off score buckets, and the most it can be away from the exact one."""

    auc: float
    error: float


def bucketed_auc(sums: Sums) -> BucketedAuc | None:
    """AUC with pairs of one bucket counted half; None unless both classes are there.

    Whichever way such a pair really stands, half is at most half of it away: so the error is half the share of these pairs.

    Example:
        >>> bucketed_auc(Sums.of([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]))
        BucketedAuc(auc=0.875, error=0.125)
    """
    positives, negatives, _ = sums.buckets
    pairs = float(positives.sum() * negatives.sum())
    if pairs == 0.0:
        return None
    below = np.cumsum(negatives) - negatives
    tied = float(positives @ negatives)
    return BucketedAuc((float(positives @ below) + tied / 2) / pairs, tied / 2 / pairs)


def auc(p: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """The share of (positive, negative) pairs that p ranks right, ties half; exact; None unless both classes are there.

    Example:
        >>> auc([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1])
        0.875
    """
    return gauc(p, y, np.zeros(len(np.asarray(p)), np.int64))


def gauc(p: npt.ArrayLike, y: npt.ArrayLike, groups: Sequence[str] | npt.ArrayLike) -> float | None:
    """The mean of each group's exact AUC, weighted by its rows; groups of one class are left out; None if all are.

    Args:
        p: (B,) scores.
        y: (B,) labels, 0 or 1.
        groups: (B,) which group each row is of, mostly the user: anything that sorts.

    Example:
        >>> gauc([0.9, 0.1, 0.2, 0.3, 0.5], [1, 0, 1, 0, 1], ["ann", "ann", "bob", "bob", "eve"])
        0.5

    Source:
        Zhu et al., "Optimized Cost per Click in Taobao Display Advertising", KDD 2017.
    """
    p, y = probabilities_and_labels(p, y)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.shape != p.shape:
        raise ValueError(f"groups must name a group for each of the {len(p)} rows (got shape {group.shape})")
    if p.size == 0:
        return None
    order = np.lexsort((p, group))
    p, y, group = p[order], y[order], group[order]
    ends_tie = np.append((np.diff(p) != 0) | (np.diff(group) != 0), True)
    last = np.flatnonzero(ends_tie)  # the last row of each run of equal scores
    first = np.append(0, last[:-1] + 1)
    rank = np.repeat((first + last) / 2 + 1, last - first + 1)  # (B,) from 1, over all rows; ties share their mean
    rows = np.bincount(group)
    positives = np.bincount(group, y)
    rank_in_group = rank - np.repeat(np.cumsum(rows) - rows, rows)
    pairs = positives * (rows - positives)
    wins = np.bincount(group, rank_in_group * y) - positives * (positives + 1) / 2
    told = pairs > 0
    return float(np.average(wins[told] / pairs[told], weights=rows[told])) if told.any() else None
