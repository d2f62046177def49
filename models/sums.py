"""Sums over scored rows, from which all metrics come; must not know which model made the predictions, when, or for whom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.batch import Bool, Float64, Int64

LEAST_PROBABILITY = 1e-12
"""What a prediction is held away from 0 and 1 inside logarithms, so that being certain and wrong costs 27.6 nats, not infinity."""

BUCKETS = 1_000
LOWEST_LOGIT, HIGHEST_LOGIT = -16.0, 8.0
"""Scores are kept in `BUCKETS` equal steps of the logit between these; what lies outside joins the end ones.

One step is 0.024, or 2.4 % of a small p. From 1e-7 to 0.9997: lopsided, because a pCTCVR is a product of two small
numbers, and nobody's click is certain.
"""


class Sums:
    """What metrics of one task are made from; `a + b` is the sums of both sets of rows.

    Sums add up, ratios do not: what is added over hours, machines or slices is this, and ratios come last.

    `update` adds strictly row after row. So rows given in several pieces yield the same bits as the same rows given at once.

    Args:
        figures: (4,) n (sum of weights), sum of p, sum of y, sum of the log losses in nats.
        buckets: (3, BUCKETS) by score: positives, negatives, sum of p. The mean of p in a bucket is exact, wherever it lies.

    Example:
        >>> night, day = Sums.of([0.1, 0.4], [0, 1]), Sums.of([0.2], [0])
        >>> both = night + day
        >>> both.n, both.sum_y, round(both.sum_p, 9)
        (3.0, 1.0, 0.7)
    """

    __slots__ = ("buckets", "figures")

    def __init__(self, figures: Float64 | None = None, buckets: Float64 | None = None) -> None:
        self.figures = np.zeros(4) if figures is None else figures
        self.buckets = np.zeros((3, BUCKETS)) if buckets is None else buckets

    @classmethod
    def of(cls, p: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Sums:
        """The sums of some rows; the arguments of `update`."""
        sums = cls()
        sums.update(p, y, weights)
        return sums

    def update(self, p: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> None:
        """Adds rows, in their order.

        Args:
            p: (B,) predicted probabilities, 0 and 1 included.
            y: (B,) labels, 0 or 1.
            weights: (B,) how many rows each one stands for; None is one.

        Raises:
            ValueError: shapes differ, or a value is out of its range; nothing was added.
        """
        self.add(Rows.of(p, y, weights))

    def add(self, rows: Rows) -> None:
        """Adds rows that were looked at before, in their order."""
        self.figures = add_in_order(self.figures, rows.figures)
        np.add.at(self.buckets[0], rows.bucket, rows.figures[2])
        np.add.at(self.buckets[1], rows.bucket, rows.figures[0] - rows.figures[2])
        np.add.at(self.buckets[2], rows.bucket, rows.figures[1])

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.figures + other.figures, self.buckets + other.buckets)

    @property
    def n(self) -> float:
        """Rows, or the sum of their weights."""
        return float(self.figures[0])

    @property
    def sum_p(self) -> float:
        """Sum of the predictions: the positives there would be if they were right."""
        return float(self.figures[1])

    @property
    def sum_y(self) -> float:
        """Positives there were."""
        return float(self.figures[2])

    @property
    def sum_log_loss(self) -> float:
        """In nats."""
        return float(self.figures[3])

    def pack(self) -> bytes:
        """Every bit of the sums, empty buckets left out: 32 bytes and 26 a used bucket, little-endian.

        Example:
            >>> Sums.unpack(Sums.of([0.25], [1]).pack()).sum_p
            0.25
        """
        used = np.flatnonzero(self.buckets.any(axis=0))
        return b"".join(
            (
                self.figures.astype("<f8").tobytes(),
                used.astype("<u2").tobytes(),
                self.buckets[:, used].astype("<f8").tobytes(),
            )
        )

    @classmethod
    def unpack(cls, data: bytes) -> Sums:
        """The sums that `pack` wrote.

        Raises:
            ValueError: the bytes are not what `pack` writes.
        """
        used, rest = divmod(len(data) - 32, 26)
        if used < 0 or rest != 0:
            raise ValueError(
                f"packed sums take 32 bytes and 26 a used bucket (got {len(data)}): these bytes were cut short or are something else"
            )
        sums = cls(np.frombuffer(data, "<f8", 4).astype(np.float64))
        index = np.frombuffer(data, "<u2", used, offset=32).astype(np.int64)
        if used and index.max() >= BUCKETS:
            raise ValueError(
                f"packed sums name bucket {index.max()}, there are {BUCKETS}: these bytes are something else"
            )
        sums.buckets[:, index] = np.frombuffer(data, "<f8", 3 * used, offset=32 + 2 * used).reshape(3, used)
        return sums


class Rows(NamedTuple):
    """What each of B rows adds to sums: looked at once, then added wherever it belongs.

    Args:
        figures: (4, B) what is added to `Sums.figures`.
        bucket: (B,) by score.
    """

    figures: Float64
    bucket: Int64

    @classmethod
    def of(cls, p: npt.ArrayLike, y: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Rows:
        """The rows of some predictions and labels; arguments and errors as in `Sums.update`."""
        p, y = probabilities_and_labels(p, y)
        weight = np.ones_like(p) if weights is None else np.asarray(weights, np.float64)
        if weight.shape != p.shape or not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError(
                f"weights must be finite, 0 or more, one for each of the {len(p)} rows (got shape {weight.shape}, "
                f"from {weight.min(initial=0.0)} to {weight.max(initial=0.0)}): a weight says how many rows one stands for"
            )
        held = np.clip(p, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        log_p, log_not_p = np.log(held), np.log1p(-held)
        log_loss = -np.where(y == 1.0, log_p, log_not_p)
        step = (HIGHEST_LOGIT - LOWEST_LOGIT) / BUCKETS
        bucket = ((log_p - log_not_p - LOWEST_LOGIT) / step).astype(np.int64)
        figures = np.stack((weight, weight * p, weight * y, weight * log_loss))  # (4, B)
        return cls(figures, np.clip(bucket, 0, BUCKETS - 1))

    def where(self, chosen: Bool) -> Rows:
        """The rows marked True in (B,) `chosen`, in their order."""
        return self if chosen.all() else Rows(self.figures[:, chosen], self.bucket[chosen])


def add_in_order(start: Float64, rows: Float64) -> Float64:
    """(4,) `start` and then each column of (4, B) `rows`, strictly one after the other.

    `numpy.sum` adds in pairs of pairs, so its last bits depend on how the rows were cut into batches.
    """
    summed: Float64 = np.cumsum(np.concatenate((start[:, None], rows), axis=1), axis=1)[:, -1]
    return summed


def probabilities_and_labels(p: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Float64, Float64]:
    """The two columns as (B,) float64 each.

    Raises:
        ValueError: they are not two columns of one length, p is no probability somewhere, or y no label.
    """
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"p and y must be two rows of numbers of one length (got shapes {p.shape} and {y.shape})")
    outside = ~((p >= 0.0) & (p <= 1.0))  # NaN compares false, and is outside
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"p[{row}] must be a probability, 0 to 1 (got {p[row]}): one such row would spoil every sum it enters"
        )
    wrong = (y != 0.0) & (y != 1.0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"y[{row}] must be 0 or 1 (got {y[row]}): it is a label")
    return p, y
