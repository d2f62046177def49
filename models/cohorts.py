"""Clicks by the stretch of time they were in: how many, what was expected of them age by age, what came; must not know a network.

A cohort is looked at only at the edges of the bins of delay, and at an edge only when all its clicks have reached it:

    clicks  [--- cohort ---)                                   conversions counted of each click: those with a delay up to e_k
                           |--- e_k ---|                       conversions expected:              the sum of p F(e_k | x)
                                       from here on, until e_{k+1}

So both are plain sums, known without interpolating, of the same delays of the same clicks: right on average at every age if p and F are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Bool, Float64, Int64
from models.delay_curve import Ages


class _Sums(NamedTuple):
    """Of R sets of clicks: how many, (R,); at each edge the sums of p F(x), of (p F(x))^2 and of p times the curve of all, (R, 3, edges);
    and conversions by bin of their delay, (R, edges).
    """

    clicks: Int64
    expected: Float64
    observed: Int64

    @classmethod
    def zeros(cls, rows: int, edges: int) -> _Sums:
        return cls(np.zeros(rows, np.int64), np.zeros((rows, 3, edges)), np.zeros((rows, edges), np.int64))

    def at(self, rows: Int64 | Bool) -> _Sums:
        return _Sums(self.clicks[rows], self.expected[rows], self.observed[rows])

    def add(self, rows: Int64, other: _Sums) -> None:
        """Adds each row of others to one of these, in their order."""
        for mine, theirs in zip(self, other, strict=True):
            np.add.at(mine, rows, theirs)


class Looked(NamedTuple):
    """C cohorts at the oldest edges that all their clicks have reached, oldest first.

    Args:
        starts_ms: (C,) where they start.
        edge: (C,) number of the edge.
        clicks: (C,) how many.
        expected: (C,) sum of p F(e_k | x), as F was believed when the clicks were added.
        square: (C,) sum of (p F)^2.
        by_curve: (C,) sum of p F(e_k), F of all clicks together, as it was believed then.
        sum_p: (C,) sum of p.
        observed: (C,) conversions with a delay up to e_k.
    """

    starts_ms: Int64
    edge: Int64
    clicks: Int64
    expected: Float64
    square: Float64
    by_curve: Float64
    sum_p: Float64
    observed: Int64


class Cohorts:
    """The sums of cohorts of clicks; `a + b` is the sums of both sets of clicks.

    Clicks and conversions come in any order; whoever asks must have given all that happened before the time asked for.

    Args:
        edges: ages, in milliseconds, `delay_edges.edges_ms`; the last is the attribution window.
        cohort_ms: event time whose clicks make a cohort.
        settles_after_ms: event time from a click to where it, and its conversions up to then, have been added at the latest; the click
            window where clicks are added by CLICKED.

    Raises:
        ValueError: edges do not ascend, `cohort_ms` is not above 0, or `settles_after_ms` is below 0.

    Example:
        >>> minute, hour = 60_000, 3_600_000
        >>> cohorts = Cohorts((hour, 3 * hour), cohort_ms=hour)
        >>> curve = np.array([0.5, 1.0])
        >>> cohorts.add_clicks(np.arange(60) * minute, np.full(60, 0.2), np.tile(curve, (60, 1)), curve=curve)
        >>> cohorts.add_conversions(np.arange(10) * minute, np.full(10, 30 * minute))
        >>> cohorts.look(2 * hour - 1).edge  # the last click is not an hour old
        array([], dtype=int64)
        >>> looked = cohorts.look(2 * hour)
        >>> looked.edge, looked.expected.round(9), looked.observed
        (array([0]), array([6.]), array([10]))
    """

    def __init__(self, edges: tuple[int, ...], *, cohort_ms: int = 3_600_000, settles_after_ms: int = 0) -> None:
        if cohort_ms <= 0:
            raise ValueError(f"cohort_ms must be above 0 (got {cohort_ms}): a cohort of no time has no clicks")
        if settles_after_ms < 0:
            raise ValueError(
                f"settles_after_ms must be 0 or more (got {settles_after_ms}): nobody adds clicks ahead of time"
            )
        self._ages = Ages(edges)
        self._cohort_ms = cohort_ms
        self._settles_after_ms = settles_after_ms
        self._folded_until_ms: int | None = None
        # Row 0 holds what was folded, the others the cohorts that start at _starts_ms, ascending.
        self._starts_ms: Int64 = np.zeros(0, np.int64)
        self._sums = _Sums.zeros(1, len(edges))

    @property
    def edges(self) -> tuple[int, ...]:
        """Ages at which cohorts are looked at."""
        return self._ages.edges

    def add_clicks(self, click_ms: npt.ArrayLike, p: npt.ArrayLike, completed: Float64, *, curve: Float64) -> None:
        """Adds clicks with the predictions that were made of them.

        Args:
            click_ms: (n,) when they were.
            p: (n,) pCVR, one for each click: the prediction it is scored with.
            completed: (n, edges) F(e_k | x) of each.
            curve: (edges,) F of all clicks together as it stands now. When it is known better, what is expected can be raised or
                lowered by as much as it has moved.

        Raises:
            ValueError: shapes differ, or a number is no probability.
        """
        click_ms, p = np.asarray(click_ms, np.int64), np.asarray(p, np.float64)
        edges = len(self.edges)
        if not (click_ms.ndim == 1 and p.shape == click_ms.shape and completed.shape == (len(p), edges)):
            raise ValueError(
                f"click_ms, p and completed must have a row a click, and completed {edges} edges (got shapes {click_ms.shape}, "
                f"{p.shape}, {completed.shape})"
            )
        if curve.shape != (edges,) or not (curve >= 0).all() or curve[-1] != 1:
            raise ValueError(
                f"curve must have {edges} edges, none below 0 and 1 at the last (got {curve}): it is F of all clicks"
            )
        for name, values in (("p", p), ("completed", completed)):
            if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
                raise ValueError(
                    f"{name} must lie between 0 and 1 (got {values.min()} to {values.max()}): it is a share"
                )
        rows = self._rows(click_ms)
        each = np.empty((len(p), 3, edges))
        np.multiply(p[:, None], completed, out=each[:, 0])
        np.square(each[:, 0], out=each[:, 1])
        np.multiply(p[:, None], curve, out=each[:, 2])
        np.add.at(self._sums.clicks, rows, 1)
        # One click after the other: the bits do not depend on how they were cut. Of single numbers numpy adds six times as many as of rows.
        at = rows[:, None] * (3 * edges) + np.arange(3 * edges)
        sums = self._sums.expected.reshape(-1)
        assert np.may_share_memory(sums, self._sums.expected)
        np.add.at(sums, at.ravel(), each.ravel())

    def add_conversions(self, click_ms: npt.ArrayLike, delay_ms: npt.ArrayLike) -> None:
        """Adds conversions of clicks that were added, or will be: (n,) times of their clicks, and (n,) delays.

        Raises:
            ValueError: shapes differ, or a delay lies outside 0 and the attribution window.
        """
        click_ms, delay_ms = np.asarray(click_ms, np.int64), np.asarray(delay_ms, np.int64)
        if click_ms.ndim != 1 or click_ms.shape != delay_ms.shape:
            raise ValueError(
                f"click_ms and delay_ms must be two rows of one length (got shapes {click_ms.shape}, {delay_ms.shape})"
            )
        window = self.edges[-1]
        if len(delay_ms) and not 0 <= delay_ms.min() <= delay_ms.max() <= window:
            raise ValueError(
                f"delay_ms must lie between 0 and the attribution window of {window} (got {delay_ms.min()} to {delay_ms.max()}): "
                "a conversion outside of it is not expected"
            )
        rows = self._rows(click_ms)  # may make rows: before the table is looked at
        np.add.at(self._sums.observed, (rows, self._ages.bin_of(delay_ms)), 1)

    def _rows(self, click_ms: Int64) -> Int64:
        """The row of each click's cohort, made if need be."""
        starts = click_ms // self._cohort_ms * self._cohort_ms
        is_folded = np.zeros(len(starts), np.bool_) if self._folded_until_ms is None else starts < self._folded_until_ms
        new = set(starts[~is_folded].tolist()).difference(self._starts_ms.tolist())
        if new:
            every = np.union1d(self._starts_ms, np.array(sorted(new), np.int64))
            sums = _Sums.zeros(1 + len(every), len(self.edges))
            sums.add(np.append(0, 1 + np.searchsorted(every, self._starts_ms)), self._sums)
            self._starts_ms, self._sums = every, sums
        return np.where(is_folded, 0, 1 + np.searchsorted(self._starts_ms, starts))

    def fold(self, now_ms: int) -> None:
        """Lets go of cohorts that have reached the attribution window: they go into `folded`, and what still comes of them does."""
        leaving = self._starts_ms <= now_ms - self._closes_after_ms()
        if leaving.any():
            rows = np.append(False, leaving)
            sums = self._sums.at(~rows)
            # One after the other, oldest first: the bits do not depend on how often folding is asked for.
            sums.add(np.zeros(leaving.sum(), np.int64), self._sums.at(rows))
            self._sums = sums
            self._folded_until_ms = int(self._starts_ms[leaving][-1]) + self._cohort_ms
            self._starts_ms = self._starts_ms[~leaving]

    def _closes_after_ms(self) -> int:
        """From the start of a cohort to where all its clicks have reached the last edge."""
        return self._cohort_ms + max(self.edges[-1], self._settles_after_ms)

    @property
    def folded(self) -> tuple[int, float, float, int]:
        """Of all clicks whose cohorts were folded: how many, sum of p, of p^2, conversions."""
        expected, square, _ = self._sums.expected[0, :, -1].tolist()
        return int(self._sums.clicks[0]), expected, square, int(self._sums.observed[0].sum())

    def look(self, now_ms: int) -> Looked:
        """The cohorts that have clicks and have reached an edge, as they stand at `now_ms`; changes nothing."""
        edges = np.array(self.edges, np.int64)
        reached_by = (
            self._starts_ms[:, None] + self._cohort_ms + np.maximum(edges, self._settles_after_ms)
        )  # (C, edges)
        edge = (reached_by <= now_ms).sum(axis=1) - 1
        told = np.flatnonzero((edge >= 0) & (self._sums.clicks[1:] > 0))
        edge, sums, cohort = edge[told], self._sums.at(1 + told), np.arange(len(told))
        expected, square, by_curve = sums.expected[cohort, :, edge].T
        return Looked(
            starts_ms=self._starts_ms[told],
            edge=edge,
            clicks=sums.clicks,
            expected=expected,
            square=square,
            by_curve=by_curve,
            sum_p=sums.expected[:, 2, -1],
            observed=np.cumsum(sums.observed, axis=1)[cohort, edge],
        )

    def __add__(self, other: Cohorts) -> Cohorts:
        """The sums of both sets of clicks, folded as far as the one that has folded further."""
        mine, theirs = ((each.edges, each._cohort_ms, each._settles_after_ms) for each in (self, other))
        if mine != theirs:
            raise ValueError(
                f"cohorts add up if they have the same edges, cohort_ms and settles_after_ms (got {mine} and {theirs})"
            )
        both = Cohorts(self.edges, cohort_ms=self._cohort_ms, settles_after_ms=self._settles_after_ms)
        both._folded_until_ms = max(
            (each._folded_until_ms for each in (self, other) if each._folded_until_ms is not None), default=None
        )
        for each in (self, other):
            rows = both._rows(each._starts_ms)
            both._sums.add(np.append(0, rows), each._sums)
        return both

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies: what `restore` continues from bit for bit."""
        folded = [] if self._folded_until_ms is None else [self._folded_until_ms]
        return {
            "starts_ms": torch.from_numpy(self._starts_ms.copy()),
            "folded_until_ms": torch.tensor(folded, dtype=torch.int64),
            **{name: torch.from_numpy(table.copy()) for name, table in self._sums._asdict().items()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here.

        Raises:
            ValueError: it was taken with another number of edges.
        """
        edges = tensors["observed"].shape[1]
        if edges != len(self.edges):
            raise ValueError(
                f"the snapshot has {edges} edges, these cohorts {len(self.edges)}: take it up under the settings it was made with"
            )
        self._starts_ms = tensors["starts_ms"].numpy().copy()
        self._sums = _Sums(*(tensors[name].numpy().copy() for name in _Sums._fields))
        folded = tensors["folded_until_ms"].tolist()
        self._folded_until_ms = folded[0] if folded else None
