"""What is believed of the weight of each id: a Gaussian around 0, as wide as its field matters; must not know what weights predict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from models.batch import Float64, Int64
from models.feature_weights import Terms
from models.id_index import IdIndex

_SPREAD = 0.15  # prior sd of a weight on the logit before its field is known; 20 fields of it make .67
_SPREAD_WEIGHS = 2.0  # weights well known that a field must show before they count as much as `_SPREAD`
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-4, 4.0
_RECONSIDERED_AFTER, _RECONSIDERED_AT = (
    200,
    1.15,
)  # examples, and their growth from one estimate of the spreads to the next
_LEAST_CAPACITY = 1024  # rows
_EVICTED_SHARE = 4  # one row in so many leaves when the table is full


class Beliefs:
    """A weight for every (field, id), normal around 0 with the variance of its field, and what examples have said of it.

    Kept in natural form: the evidence (information that examples gave, the prior left out) and evidence-weighted mean. So a field
    whose variance is reconsidered shrinks or frees all its weights at once, and forgetting is a factor on both:

        precision = 1 / variance[field] + evidence        mean = natural / precision

    The variance of a field is its marginal-likelihood estimate: squared means over the number of weights that are determined by
    data rather than by the prior. A field that says nothing is thereby switched off, which is what lets a model of 20 fields beat
    a constant on few examples.

    Args:
        fields: how many there are.
        half_life_ms: event time in which evidence loses half its weight.
        max_rows: most weights kept; where they are reached the quarter whose last example is longest ago is forgotten. None
            is no limit.

    Source:
        MacKay, "Bayesian Interpolation", Neural Computation 1992, for the variances.
    """

    def __init__(self, fields: int, *, half_life_ms: int, max_rows: int | None) -> None:
        self._half_life_ms = half_life_ms
        self._max_rows = max_rows
        self.prior_variance = np.full(fields, _SPREAD**2)
        with np.errstate(over="ignore"):
            salts = np.arange(1, fields + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._salts = salts.view(np.int64)  # an id that two fields share means something else in each
        self._examples, self._reconsidered_at = 0, _RECONSIDERED_AFTER
        self._clear()

    def _clear(self) -> None:
        self._index = IdIndex()
        self._count = 0
        self._keys: Int64 = np.zeros(0, np.int64)
        self._field: Int64 = np.zeros(0, np.int64)
        self._touched_ms: Int64 = np.zeros(0, np.int64)
        self._evidence: Float64 = np.zeros(0)
        self._natural: Float64 = np.zeros(0)
        self._place: Int64 = np.zeros(0, np.int64)  # for `distinct`, which writes before it reads: no state

    def __len__(self) -> int:
        return self._count

    def find(self, terms: Terms) -> Int64:
        """The weight of each term, -1 where there is none yet: (n,)."""
        return self._index.find(terms.id ^ self._salts[terms.field])

    def means(self, terms: Terms) -> Float64:
        """The mean of each term's weight, 0 where there is none yet: (n,)."""
        rows = self.find(terms)
        if not self._count:
            return np.zeros(len(rows))
        precision = (1 / self.prior_variance)[terms.field] + self._evidence[rows]
        return np.where(rows < 0, 0.0, self._natural[rows] / precision)

    def admit(self, terms: Terms, *, at_ms: int) -> Int64:
        """The weight of each term, after making those that are missing and forgetting what is old: (n,)."""
        keys = terms.id ^ self._salts[terms.field]
        rows = self._index.find(keys)
        absent, made = self._absent(keys, rows)
        if self._max_rows is not None and self._count + len(made) > self._max_rows:
            self._evict()
            rows = self._index.find(keys)
            absent, made = self._absent(keys, rows)  # those too that were there, but among the oldest
        if len(absent):
            number = {key: self._count + number for number, key in enumerate(keys[made].tolist())}
            rows[absent] = [number[key] for key in keys[absent].tolist()]
            self._append(keys[made], terms.field[made], at_ms)
        touched, _ = self.distinct(rows)
        kept = np.exp2(np.minimum(self._touched_ms[touched] - at_ms, 0) / self._half_life_ms)
        self._evidence[touched] *= kept
        self._natural[touched] *= kept
        self._touched_ms[touched] = np.maximum(at_ms, self._touched_ms[touched])
        return rows

    def _absent(self, keys: Int64, rows: Int64) -> tuple[Int64, list[int]]:
        """Which terms have no weight, and which of them are the first of their key, in order."""
        absent = np.flatnonzero(rows < 0)
        first: dict[int, int] = {}
        for term, key in zip(absent.tolist(), keys[absent].tolist(), strict=True):  # few, but when a stream is young
            first.setdefault(key, term)
        return absent, list(first.values())

    def distinct(self, rows: Int64) -> tuple[Int64, Int64]:
        """The different ones of some weights, (U,), and which of those each is, (n,).

        Without sorting: who comes last to a weight's place is the one that stands for it. 16 us for 1,700 terms, `numpy.unique` takes 95.
        """
        every = np.arange(len(rows))
        self._place[rows] = every
        different = rows[self._place[rows] == every]
        self._place[different] = every[: len(different)]
        return different, self._place[rows]

    def read(self, rows: Int64) -> tuple[Float64, Float64]:
        """Mean and variance of some weights."""
        variance = 1 / ((1 / self.prior_variance)[self._field[rows]] + self._evidence[rows])
        return self._natural[rows] * variance, variance

    def update(self, rows: Int64, *, means: Float64, evidence: Float64) -> None:
        """Sets the means of different weights and adds to what is known of them."""
        known = self._evidence[rows] + evidence
        self._evidence[rows] = known
        self._natural[rows] = means * ((1 / self.prior_variance)[self._field[rows]] + known)

    def count(self, examples: int) -> None:
        """Counts examples, and reconsiders how much each field matters whenever there are a sixth more than last time."""
        self._examples += examples
        if self._examples < self._reconsidered_at:
            return
        self._reconsidered_at = int(self._examples * _RECONSIDERED_AT)
        field, fields = self._field[: self._count], len(self.prior_variance)
        means, variance = self.read(np.arange(self._count))
        determined = np.bincount(field, variance * self._evidence[: self._count], fields)
        squares = np.bincount(field, means**2, fields)
        estimate = (squares + _SPREAD_WEIGHS * _SPREAD**2) / (determined + _SPREAD_WEIGHS)
        self.prior_variance = np.clip(estimate, _LEAST_VARIANCE, _MOST_VARIANCE)

    def _append(self, keys: Int64, field: Int64, at_ms: int) -> None:
        count = self._count + len(keys)
        if count > len(self._keys):
            capacity = max(_LEAST_CAPACITY, 2 * len(self._keys), count)
            for name in ("_keys", "_field", "_touched_ms", "_evidence", "_natural", "_place"):
                grown = np.zeros(capacity, getattr(self, name).dtype)
                grown[: self._count] = getattr(self, name)[: self._count]
                setattr(self, name, grown)
        new = np.arange(self._count, count)
        self._keys[new], self._field[new], self._touched_ms[new] = keys, field, at_ms
        self._index.insert(keys, new)
        self._count = count

    def _evict(self) -> None:
        leaving = np.argsort(self._touched_ms[: self._count], kind="stable")[: -(-self._count // _EVICTED_SHARE)]
        stays = np.ones(self._count, np.bool_)
        stays[leaving] = False
        self._replace({name: tensor.numpy()[stays] for name, tensor in self._rows().items()})

    def _rows(self) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(getattr(self, f"_{name}")[: self._count].copy())
            for name in ("keys", "field", "touched_ms", "evidence", "natural")
        }

    def _replace(self, rows: Mapping[str, Float64 | Int64]) -> None:
        self._clear()
        self._append(rows["keys"].astype(np.int64), rows["field"].astype(np.int64), 0)
        for name in ("touched_ms", "evidence", "natural"):
            getattr(self, f"_{name}")[: self._count] = rows[name]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """All of its state, as copies."""
        return self._rows() | {
            "prior_variance": torch.from_numpy(self.prior_variance.copy()),
            "examples": torch.tensor([self._examples, self._reconsidered_at]),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        self._replace({name: tensors[name].numpy() for name in ("keys", "field", "touched_ms", "evidence", "natural")})
        self.prior_variance = tensors["prior_variance"].numpy().copy()
        self._examples, self._reconsidered_at = tensors["examples"].tolist()
