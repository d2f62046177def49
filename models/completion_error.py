"""How well the completion curve of all clicks is known, age by age, from what it was counted from; must not know a click."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.batch import Bool, Float64
from models.delay_curve import completed_at_edges


@dataclass(frozen=True, slots=True)
class KnownCurve:
    """F of all clicks together at the edges of bins, and its error.

    log F(e_j) is a sum over the bins beyond e_j, so its variance is too, and two ages share the error of the bins beyond the older.

    Args:
        completed: (edges,) F, ascending to 1.
        variance: (edges,) of log F: of the relative error of F. It falls with age, to 0 at the last edge.
        rests_on_prior: (edges,) whether F there rests on a bin that is not learned.

    Raises:
        ValueError: shapes differ, or a variance rises, is below 0 or does not end at 0.

    Source:
        Greenwood's formula for the variance of a survival curve (1926), here in reverse time: Lagakos, Barraj and De Gruttola,
        "Nonparametric Analysis of Truncated Survival Data, with Application to AIDS", Biometrika 1988.
    """

    completed: Float64
    variance: Float64
    rests_on_prior: Bool

    def __post_init__(self) -> None:
        if not self.completed.shape == self.variance.shape == self.rests_on_prior.shape or not self.completed.ndim == 1:
            raise ValueError(
                f"completed, variance and rests_on_prior must have one number an edge (got shapes {self.completed.shape}, "
                f"{self.variance.shape}, {self.rests_on_prior.shape})"
            )
        if not (len(self.completed) and self.completed[-1] == 1 and (np.diff(self.completed) >= 0).all()):
            raise ValueError(
                f"completed must ascend to 1 at the last edge (got {self.completed}): who has converted stays converted"
            )
        if not (self.variance[-1] == 0 and (np.diff(self.variance) <= 0).all()):
            raise ValueError(
                f"variance must fall to 0 at the last edge (got {self.variance}): there every conversion has come, for sure"
            )

    @classmethod
    def of_counts(cls, hazards: Float64, seen: Float64, *, prior_examples: float) -> KnownCurve:
        """The curve that `GlobalCurve` keeps.

        Each hazard has the beta distribution of its counts and its prior. Decayed counts are taken for as many examples as they weigh;
        they tell up to twice that, so where a law of delays does not drift the variance is on the large side.

        Args:
            hazards: (edges,) r_k, prior included.
            seen: (edges,) decayed examples of each bin, prior left out.
            prior_examples: that the prior weighs in each bin.

        Example:
            >>> known = KnownCurve.of_counts(np.array([1.0, 0.5]), np.array([0.0, 79.0]), prior_examples=20)
            >>> known.completed.tolist(), known.variance.round(4).tolist(), known.rests_on_prior.tolist()
            ([0.5, 1.0], [0.01, 0.0], [False, False])
        """
        later, weight = hazards[1:], seen[1:] + prior_examples
        each = later / ((1 - later) * (weight + 1))  # of log(1 - r_k), to first order
        unlearned = seen[1:] < prior_examples
        return cls(
            completed_at_edges(1 - later),
            np.append(np.cumsum(each[::-1])[::-1], 0.0),
            np.append(np.logical_or.accumulate(unlearned[::-1])[::-1], False),
        )

    @classmethod
    def exactly(cls, completed: Float64) -> KnownCurve:
        """A curve that is known without error."""
        nothing = np.zeros(len(completed))
        return cls(completed, nothing, nothing > 0)

    def variance_of_sum(self, amounts: Float64) -> float:
        """The relative variance of a sum of amounts, each in proportion to F at one of the edges: (edges,), 0 or more, not all 0.

        Example:
            All at one edge vary as F does there; what is at the last does not.

            >>> known = KnownCurve(np.array([0.5, 1.0]), np.array([0.04, 0.0]), np.array([False, False]))
            >>> known.variance_of_sum(np.array([10.0, 0.0])), known.variance_of_sum(np.array([10.0, 10.0]))
            (0.04, 0.01)
        """
        each = self.variance[:-1] - self.variance[1:]  # (edges - 1,) of the bin beyond each edge
        moved = np.cumsum(amounts)[:-1]  # in proportion to each of them
        return float(each @ moved**2 / amounts.sum() ** 2)
