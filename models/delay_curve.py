"""What share of conversions has come by an age, from counts alone; must not know features or the network.

The law of delays is kept as a reverse hazard over bins: r_k = P(h in bin k | h <= e_k), of those who convert within w_a. What is
true of the conversions a click has shown by age e_k cannot change any more, so r_k is counted without truncation as soon as clicks
are e_k old, short bins first. The completion curve is what remains when all later bins are taken away:

    F(e_j) = (1 - r_{j+1}) (1 - r_{j+2}) ... (1 - r_{K-1}),    F(w_a) = 1

So F at any age rests on every bin beyond it: until clicks are w_a old, on a prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Bool, Float64, Int64
from models.delay_edges import MINUTE_MS, log_age

_HOUR_MS = 60 * MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_LEAST_HAZARD = 1e-4  # of the prior: it must not rule anything out


@dataclass(frozen=True, slots=True)
class DelayPrior:
    """What is believed of delays before a stream has shown them: completed shares at some ages.

    Between the ages shares are linear in `log_age`. If they go beyond the attribution window they are cut there and divided by
    what is left; if they stop short of it, all that is missing comes evenly until then. As it stands, it is what is published of
    the Criteo log.

    Args:
        ages_ms: ascending, above 0.
        shares: of the conversions that ever come, those that have come by each age; ascending, above 0 up to 1.

    Raises:
        ValueError: they are not.

    Example:
        >>> DelayPrior().completed((3_600_000, 86_400_000, 2_592_000_000)).tolist()
        [0.35, 0.5, 1.0]
        >>> DelayPrior(ages_ms=(1000, 2000), shares=(0.5, 0.4))
        Traceback (most recent call last):
        ...
        ValueError: delay_prior: shares must ascend with age (got 0.4 after 0.5): who has converted stays converted

    Source:
        Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014, for 1 hour, 1 day and 14 days;
        7 days from the public file.
    """

    ages_ms: tuple[int, ...] = (_HOUR_MS, _DAY_MS, 7 * _DAY_MS, 14 * _DAY_MS, 30 * _DAY_MS)
    shares: tuple[float, ...] = (0.35, 0.5, 0.81, 0.87, 1.0)

    def __post_init__(self) -> None:
        if not self.ages_ms or len(self.ages_ms) != len(self.shares):
            raise ValueError(
                f"delay_prior: ages_ms and shares must be equally many, at least one (got {len(self.ages_ms)} and "
                f"{len(self.shares)}): each share is the one at its age"
            )
        for before, age in pairwise((0, *self.ages_ms)):
            if not before < age:
                raise ValueError(f"delay_prior: ages_ms must ascend from above 0 (got {age} after {before})")
        for least, share in pairwise((0.0, *self.shares)):
            if not 0 < share <= 1:
                raise ValueError(
                    f"delay_prior: a share must lie above 0 and up to 1 (got {share}): it is of the conversions that ever come"
                )
            if share < least:
                raise ValueError(
                    f"delay_prior: shares must ascend with age (got {share} after {least}): who has converted stays converted"
                )

    def completed(self, edges: tuple[int, ...]) -> Float64:
        """The share of the conversions within the last edge that has come by each edge: (edges,)."""
        window = edges[-1]
        ages, shares = [0, *self.ages_ms], [0.0, *self.shares]
        if ages[-1] < window:
            ages, shares = [*ages, window], [*shares, 1.0]
        found = np.interp([log_age(edge) for edge in edges], [log_age(age) for age in ages], shares)
        return np.asarray(found / found[-1])

    def hazards(self, edges: tuple[int, ...]) -> Float64:
        """r_k of each bin, (edges,): above 0 and below 1, except that bin 0 has 1."""
        completed = self.completed(edges)
        with np.errstate(invalid="ignore"):  # 0 of 0 where nothing has come by the first edge, which may be 0
            hazards = np.nan_to_num(1 - np.append(0.0, completed[:-1]) / completed, nan=1.0)
        return np.append(1.0, np.clip(hazards[1:], _LEAST_HAZARD, 1 - _LEAST_HAZARD))


def completed_at_edges(shorter: Float64) -> Float64:
    """F at every edge, from 1 - r_k of bins 1 and up: (..., edges - 1) -> (..., edges).

    Example:
        >>> completed_at_edges(np.array([[0.5, 0.8]])).round(3).tolist()
        [[0.4, 0.8, 1.0]]
    """
    completed = np.ones((*shorter.shape[:-1], shorter.shape[-1] + 1))
    np.multiply.accumulate(shorter[..., ::-1], axis=-1, out=completed[..., -2::-1])
    return completed


class Ages:
    """Reads a completion curve, known at its edges, at any age: linear in `log_age` between them, 0 before the click, 1 from w_a on.

    Args:
        edges: e_0 < e_1 < ... < w_a, in milliseconds; below e_0 it starts from 0 at age 0 (unless e_0 is 0).

    Raises:
        ValueError: edges do not ascend from 0 or above, or end at 0.

    Example:
        >>> ages = Ages((60_000, 180_000))
        >>> ages.read(np.array([[0.25, 1.0]]), np.array([[-1, 0, 60_000, 120_000, 500_000]])).round(3).tolist()
        [[0.0, 0.0, 0.25, 0.689, 1.0]]
    """

    def __init__(self, edges: tuple[int, ...]) -> None:
        if not edges or edges[0] < 0 or edges[-1] <= 0 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError(
                f"edges must ascend from 0 or above and end above 0 (got {edges}): a bin lies between two of them"
            )
        self.edges = edges
        self._edges_ms = np.array(edges, np.int64)
        self._at = np.array([log_age(edge) for edge in edges])

    def bin_of(self, ages_ms: npt.ArrayLike) -> Int64:
        """The bin that holds each age; as many as there are edges beyond the last."""
        return np.searchsorted(self._edges_ms, np.asarray(ages_ms, np.int64), side="left")

    def read(self, completed: Float64, ages_ms: Int64) -> Float64:
        """F of each row at its own ages: (B, edges) and (B, M), or (1, edges) for all rows, -> (B, M)."""
        after = np.minimum(self.bin_of(ages_ms), len(self.edges) - 1)  # (B, M), the edge at or after the age
        rows = np.arange(len(completed))[:, None]
        high, low = completed[rows, after], np.where(after > 0, completed[rows, after - 1], 0.0)
        end, start = self._at[after], np.where(after > 0, self._at[after - 1], 0.0)
        age = np.log1p(np.clip(ages_ms, 0, self.edges[-1]) / MINUTE_MS)
        share = np.divide(age - start, end - start, out=np.ones_like(age), where=end > start)
        return np.where(ages_ms < 0, 0.0, low + (high - low) * np.clip(share, 0.0, 1.0))


class GlobalCurve:
    """The completion curve of all conversions together: decayed counts a bin, shrunk towards a prior.

    r_k = (in bin + m r0_k) / (seen + m): the prior r0 weighs as much as m examples. A bin is *learned* once what it has seen
    weighs as much; before that, each F that rests on it rests on the prior.

    Args:
        edges: of the bins, `delay_edges.edges_ms`.
        prior: gives r0.
        half_life_ms: event time in which what was counted loses half its weight.
        prior_examples: m.

    Raises:
        ValueError: edges do not ascend, or a number is not above 0.

    Example:
        >>> curve = GlobalCurve((60_000, 180_000), prior=DelayPrior(), half_life_ms=86_400_000, prior_examples=1)
        >>> bool(curve.rests_on_prior(60_000)), bool(curve.rests_on_prior(180_000))
        (True, False)
        >>> curve.learn(np.array([1] * 999), np.array([True] * 333 + [False] * 666), at_ms=0)
        >>> curve.completed(np.array([60_000, 180_000])).round(2).tolist(), bool(curve.rests_on_prior(60_000))
        ([0.67, 1.0], False)
    """

    def __init__(
        self, edges: tuple[int, ...], *, prior: DelayPrior, half_life_ms: int, prior_examples: float = 20.0
    ) -> None:
        if half_life_ms <= 0:
            raise ValueError(
                f"half_life_ms must be above 0 (got {half_life_ms}): it is the time in which old examples lose half their weight"
            )
        if not 0 < prior_examples < np.inf:
            raise ValueError(
                f"prior_examples must be above 0 and finite (got {prior_examples}): a bin nobody has seen needs a rate"
            )
        self.ages = Ages(edges)
        self._prior = prior.hazards(edges)
        self._half_life_ms = half_life_ms
        self.prior_examples = prior_examples
        self._seen = np.zeros(len(edges))
        self._in_bin = np.zeros(len(edges))
        self._at_ms: int | None = None

    @property
    def hazards(self) -> Float64:
        """r_k of each bin, (edges,); bin 0 has 1."""
        rates = (self._in_bin + self.prior_examples * self._prior) / (self._seen + self.prior_examples)
        rates[0] = 1.0
        return np.asarray(rates)

    @property
    def seen(self) -> Float64:
        """(edges,) what each bin has seen, decayed."""
        return self._seen.copy()

    @property
    def learned(self) -> Bool:
        """(edges,) whether what a bin has seen weighs as much as its prior. Bin 0 has nothing to learn."""
        learned = self._seen >= self.prior_examples
        learned[0] = True
        return np.asarray(learned)

    def rests_on_prior(self, ages_ms: npt.ArrayLike) -> Bool:
        """Whether F at an age rests on a bin that is not learned: shape of `ages_ms`."""
        unlearned = np.flatnonzero(~self.learned)
        # F(age) multiplies over the bins that end after the age; before the click it is 0, whatever the prior says.
        until = self.ages.edges[unlearned[-1]] if len(unlearned) else 0
        ages = np.asarray(ages_ms, np.int64)
        return np.asarray((ages >= 0) & (ages < until))

    def learn(self, ages: Int64, in_bin: Bool, *, at_ms: int) -> None:
        """Counts converters at the moments their clicks reach an edge.

        Args:
            ages: (n,) which edge, k.
            in_bin: (n,) whether the delay falls in bin k; else it is shorter.
            at_ms: event time of the batch; one before the latest is taken at the latest.

        Raises:
            ValueError: there is no such edge.
        """
        ages = np.asarray(ages, np.int64)
        if len(ages) and not 0 <= ages.min() <= ages.max() < len(self._seen):
            raise ValueError(
                f"ages must lie between 0 and {len(self._seen) - 1} (got {ages.min()} to {ages.max()}): they are numbers of edges"
            )
        latest = at_ms if self._at_ms is None else max(at_ms, self._at_ms)
        kept = 1.0 if self._at_ms is None else 0.5 ** ((latest - self._at_ms) / self._half_life_ms)
        self._at_ms = latest
        self._seen = self._seen * kept + np.bincount(ages, minlength=len(self._seen))
        self._in_bin = self._in_bin * kept + np.bincount(ages, np.asarray(in_bin, np.float64), len(self._in_bin))

    def completed_at_edges(self) -> Float64:
        """F at every edge: (edges,)."""
        return completed_at_edges(1 - self.hazards[1:])

    def completed(self, ages_ms: npt.ArrayLike) -> Float64:
        """F at any ages: shape of `ages_ms`."""
        ages = np.asarray(ages_ms, np.int64)
        return self.ages.read(self.completed_at_edges()[None], ages.reshape(1, -1)).reshape(ages.shape)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Its counts and their time."""
        return {
            "seen": torch.from_numpy(self._seen.copy()),
            "in_bin": torch.from_numpy(self._in_bin.copy()),
            "at_ms": torch.tensor([] if self._at_ms is None else [self._at_ms], dtype=torch.int64),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        self._seen, self._in_bin = tensors["seen"].numpy().copy(), tensors["in_bin"].numpy().copy()
        self._at_ms = int(tensors["at_ms"][0]) if len(tensors["at_ms"]) else None
