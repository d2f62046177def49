"""The completion curve F(age | x): what share of the conversions of clicks like x has come by an age; must not know a network.

See `delay_curve` for the law. Here each bin's reverse hazard depends on x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.batch import Bool, Float64, Inputs, Int64, rows_of
from models.delay_curve import DelayPrior, GlobalCurve, completed_at_edges
from models.schema import Feature
from models.score_logit import ScoreLogit

_MOST_LOGIT = 700.0  # of a hazard: exp of it is still a number


class CompletionModel:
    """F(age | x) by features, taught from converters as their clicks reach the edges of bins (AGED_k).

    logit r_k(x) = intercept_k + profile_k * score(x), learned as `ScoreLogit` says, so it starts from the prior's hazards, is a
    curve for all alike while converters are few, and never costs more than one pass. F rises with age, is 0 before the click and 1
    from w_a on, whatever was learned.

    Args:
        features: of the model, in settings order; those for CTR alone are left out.
        edges: of the bins, `delay_edges.edges_ms`.
        prior: the hazards of bins before a stream has reached them.
        half_life_ms: event time in which what was learned loses half its weight.
        prior_examples: examples that the prior weighs in each bin; a bin that has seen fewer is not learned.
        max_rows: most weights kept; None is no limit.

    Raises:
        ValueError: edges do not ascend, or a number is not above 0.

    Example:
        >>> minute = 60_000
        >>> model = CompletionModel([Feature(name="user", kind="categorical")], edges=(minute, 3 * minute),
        ...                         prior=DelayPrior(), half_life_ms=86_400_000)
        >>> def user(*ids):
        ...     none = np.zeros(0, np.int64)
        ...     return Inputs(np.array(ids)[:, None], none, np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32))
        >>> for _ in range(200):  # conversions of user 5 come in the third minute, those of user 6 in the first
        ...     model.learn(user(5, 6), np.array([1, 1]), np.array([True, False]), at_ms=0)
        >>> model.survival_at(user(5, 6, 7), minute).round(2).tolist()
        [0.99, 0.01, 0.5]
        >>> bool(model.rests_on_prior(minute))
        False
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        edges: tuple[int, ...],
        prior: DelayPrior,
        half_life_ms: int,
        prior_examples: float = 20.0,
        max_rows: int | None = None,
    ) -> None:
        self.curve = GlobalCurve(edges, prior=prior, half_life_ms=half_life_ms, prior_examples=prior_examples)
        self._bins = ScoreLogit(
            features,
            rates=prior.hazards(edges)[1:],
            prior_examples=prior_examples,
            half_life_ms=half_life_ms,
            max_rows=max_rows,
        )

    @property
    def edges(self) -> tuple[int, ...]:
        """Where bins end."""
        return self.curve.ages.edges

    @property
    def learned(self) -> Bool:
        """(edges,) whether a bin is learned rather than taken from the prior."""
        return self.curve.learned

    @property
    def weights(self) -> int:
        """How many ids (and numbers) have a weight."""
        return self._bins.weights

    def rests_on_prior(self, ages_ms: npt.ArrayLike) -> Bool:
        """Whether F at an age rests on a bin that is not learned: shape of `ages_ms`. Every figure made of it must say so."""
        return self.curve.rests_on_prior(ages_ms)

    def learn(self, inputs: Inputs, ages: Int64, in_bin: Bool, *, at_ms: int) -> None:
        """Learns from converters at the moments their clicks reach an edge.

        Args:
            inputs: their features, B rows.
            ages: (B,) which edge, k. Nothing is to learn at edge 0: all who convert by then do so in bin 0.
            in_bin: (B,) whether the delay falls in bin k; else it is shorter.
            at_ms: event time of the batch; one before the latest is taken at the latest.

        Raises:
            ValueError: there is no such edge, or rows differ in number.
        """
        ages, in_bin = np.asarray(ages, np.int64), np.asarray(in_bin, np.bool_)
        if not len(inputs) == len(ages) == len(in_bin):
            raise ValueError(
                f"inputs, ages and in_bin must have as many rows (got {len(inputs)}, {len(ages)}, {len(in_bin)})"
            )
        self.curve.learn(ages, in_bin, at_ms=at_ms)
        tells = np.flatnonzero(ages > 0)
        some = inputs if len(tells) == len(ages) else rows_of(inputs, tells)
        self._bins.learn(some, ages[tells] - 1, in_bin[tells], at_ms=at_ms)

    def completed_at_edges(self, inputs: Inputs) -> Float64:
        """F at every edge: (B, edges)."""
        return self._completed_since(inputs, 0)

    def completed(self, inputs: Inputs, ages_ms: Int64) -> Float64:
        """F of each row at its own age or ages: (B,) or (B, M), the shape of `ages_ms`."""
        ages = np.asarray(ages_ms, np.int64)
        each = ages if ages.ndim == 2 else ages[:, None]
        return self.curve.ages.read(self.completed_at_edges(inputs), each).reshape(ages.shape)

    def survival_at(self, inputs: Inputs, age_ms: int) -> Float64:
        """S = 1 - F, the share that comes later than one age: (B,).

        Example:
            A model that has seen nothing answers with its prior.

            >>> none = np.zeros(0, np.int64)
            >>> one = Inputs(none.reshape(1, 0), none, np.zeros(1, np.int64), np.zeros((1, 0), np.float32))
            >>> model = CompletionModel([], edges=(3_600_000, 86_400_000), prior=DelayPrior(), half_life_ms=1)
            >>> model.survival_at(one, 3_600_000)
            array([0.3])
        """
        since = max(0, min(int(self.curve.ages.bin_of(age_ms)), len(self.edges) - 1) - 1)  # the edge before the age
        completed = np.zeros((len(inputs), len(self.edges)))
        completed[:, since:] = self._completed_since(inputs, since)
        ages = np.full((len(inputs), 1), age_ms, np.int64)
        return np.asarray(1 - self.curve.ages.read(completed, ages)[:, 0])

    def _completed_since(self, inputs: Inputs, edge: int) -> Float64:
        """F at the edges from one on: (B, edges - edge)."""
        logits = np.minimum(self._bins.logits(inputs, since=edge), _MOST_LOGIT)
        return completed_at_edges(1 / (1 + np.exp(logits)))

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All state, as copies: what `restore` continues from bit for bit."""
        return {
            **{f"curve.{name}": tensor for name, tensor in self.curve.snapshot().items()},
            **{f"bins.{name}": tensor for name, tensor in self._bins.snapshot().items()},
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave, in place of all that is here."""
        for name, part in (("curve.", self.curve), ("bins.", self._bins)):
            part.restore({key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)})
