"""Maps from what was predicted to what was observed, fitted to sums by score: Platt's, isotonic, and by value; must not know a stream.

Cells are tables of `exposure`: (3, BUCKETS) exposure n, expected e = sum of p F, observed y. All fits solve sums of y - n q(p) = 0,
which are right on average whenever F is, for clicks of any age. As a loss it is that of logistic regression, n log(1 + e^z) - y z
at logit z, with n trials of which y came off: convex in z even where y > n, as it may be while clicks are young.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.batch import Float64
from models.exposure import EXPECTED, EXPOSURE, OBSERVED
from models.logit_map import LogitMap, logit, probability

Fit = Callable[[Float64], LogitMap]
"""(3, BUCKETS) cells, some exposure among them -> the map."""

LEAST_SLOPE, MOST_SLOPE = 0.2, 5.0
"""Of a map. What is flatter, or steeper, is chance among few conversions before it is a model that knows nothing, or hides what it knows."""
MOST_SHIFT = 5.0
"""On the logit, either way: a factor of 150."""
BIN_CONVERSIONS = 50.0
"""Expected or observed in a bin of the isotonic map: its rate is then known to 14 %."""

_LINE_SD = np.array([2.0, 0.5])  # shift and slope of Platt's map, before data
_PRIOR_CONVERSIONS = 2.0  # as expected, in each bin of the isotonic map: a bin without any must not have a rate of 0
_VALUE_SD = np.array([0.2, 0.05])  # shift and slope of values, before data
_LEAST_SD, _MOST_SD = 0.01, 1.0  # of values, after data
_SD_WEIGHS = 2.0  # values well known that must differ before they count as much as `_VALUE_SD`
_LINE_STEPS = 40
_VALUE_ROUNDS, _VALUE_STEPS = 6, 2  # each round starts from the lines of the last
_LARGEST_STEP, _SMALL_STEP = 1.0, 1e-9  # of Newton's method, on the logit: where it starts, all may be nearly flat
_HALVINGS = 8  # of such a step, until it leads downhill
_ROUNDING = 1e-12  # of a loss
_BISECTIONS = 40  # of 2 MOST_SHIFT: to 1e-11


class ByValue(NamedTuple):
    """What a field's values add to a map's logit z: value number v has intercept[v] + slope[v] z. (V,) each, slopes above 0."""

    slope: Float64
    intercept: Float64


def platt(cells: Float64) -> LogitMap:
    """A line on the logit, s -> a s + b, shrunk towards a = 1, b = 0.

    Example:
        >>> from models.exposure import BUCKETS
        >>> cells = np.zeros((3, BUCKETS))
        >>> cells[:, 50] = 10_000, 1000, 2000  # of 10 % expected, 20 % came
        >>> platt(cells).apply([0.1]).round(3).tolist()
        [0.2]

    Source:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    n, e, y = cells[:, cells[EXPOSURE] > 0][:, None]  # (1, U) each
    s = logit(e / n)
    shift, turn = _lines(n, y, s, e, start=np.zeros((2, 1)), sd=_LINE_SD, steps=_LINE_STEPS)[0]
    middle, shift = _middle(s, e), np.clip(shift, -MOST_SHIFT, MOST_SHIFT)
    return LogitMap(at=middle, to=middle + shift, slope=float(np.clip(1 + turn, LEAST_SLOPE, MOST_SLOPE)[0]))


def isotonic(cells: Float64) -> LogitMap:
    """The rising steps that fit best, joined by lines on the logit from middle to middle; beyond the outer ones a shift.

    Neighbouring buckets are first put together into bins of `BIN_CONVERSIONS`; steps that stand too close for `MOST_SLOPE` are joined.
    The whole is then shifted to give as many conversions as there were.

    Source:
        Barlow et al., "Statistical Inference under Order Restrictions", 1972, for the steps (pool adjacent violators); smoothed
        isotonic regression as in Deng et al., "Calibrating User Response Predictions in Online Advertising", ECML 2020.
    """
    used = cells[:, cells[EXPOSURE] > 0]
    # A step is n, e and its positives, shrunk as said at _PRIOR_CONVERSIONS: three sums, so that steps can be joined.
    steps: list[Float64] = []
    for sums in _bins(used):
        steps.append(_shrunk(sums))
        while len(steps) > 1 and not _rises(steps[-2], steps[-1]):
            steps[-2:] = [steps[-2] + steps[-1]]
    at, to = _ends(np.stack(steps, axis=1))
    mapped = LogitMap(at=at, to=to)
    _, _, wanted = _shrunk(used.sum(axis=1))
    s = mapped.read(logit(used[EXPECTED] / used[EXPOSURE]))
    low, high = -MOST_SHIFT, MOST_SHIFT
    for _ in range(_BISECTIONS):
        shift = (low + high) / 2
        is_short = used[EXPOSURE] @ probability(s + shift) < wanted
        low, high = (shift, high) if is_short else (low, shift)
    return LogitMap(at=at, to=to + low)


FITS: dict[str, Fit] = {"platt": platt, "isotonic": isotonic}


def by_value(mapped: LogitMap, cells: Float64) -> ByValue:
    """A shift and a slope for each value of a field on top of a map of all: (V, 3, BUCKETS) cells of the values.

    Shrunk towards no change, by how much values are seen to differ: a field that says nothing changes nothing.

    Source:
        MacKay, "Bayesian Interpolation", Neural Computation 1992, for the spread of the values.
    """
    if not len(cells):
        return ByValue(np.zeros(0), np.zeros(0))
    used = (cells[:, EXPOSURE] > 0).any(axis=0)
    n, e, y = np.moveaxis(cells[:, :, used], 1, 0)  # (V, U) each
    p = np.divide(e, n, out=np.full_like(e, 0.5), where=n > 0)
    z = mapped.read(logit(p))
    lines, sd = np.zeros((2, len(cells))), _VALUE_SD
    for _ in range(_VALUE_ROUNDS):
        lines, variances = _lines(n, y, z, e, start=lines, sd=sd, steps=_VALUE_STEPS)
        determined = np.maximum(1 - variances / sd[:, None] ** 2, 0.0).sum(axis=1)
        square = ((lines**2).sum(axis=1) + _SD_WEIGHS * _VALUE_SD**2) / (determined + _SD_WEIGHS)
        sd = np.clip(np.sqrt(square), _LEAST_SD, _MOST_SD)
    shift, slope = np.clip(lines[0], -MOST_SHIFT, MOST_SHIFT), np.clip(1 + lines[1], LEAST_SLOPE, MOST_SLOPE)
    middle = _middle(z, e)
    return ByValue(slope, middle + shift - slope * middle)


def _lines(
    n: Float64, y: Float64, z: Float64, e: Float64, *, start: Float64, sd: Float64, steps: int
) -> tuple[Float64, Float64]:
    """The best line z + shift + turn (z - middle) for each of V rows of cells, (V, U) each, by Newton's method.

    Args:
        start: (2, V) shift and turn of each to start from; a slope is 1 + its turn.
        sd: (2,) of shift and of turn, before data.

    Returns:
        (2, V) shift and turn, and the variances they are known to.
    """
    away = z - _middle(z, e)[:, None]
    precision = 1 / sd**2

    def logits(line: Float64) -> Float64:
        return np.asarray(z + line[0][:, None] + line[1][:, None] * away)

    def loss(line: Float64) -> Float64:
        x = logits(line)
        return np.asarray((n * np.logaddexp(0.0, x) - y * x).sum(axis=1) + 0.5 * precision @ line**2)

    line, here = start, loss(start)
    for _ in range(steps):
        q = probability(logits(line))
        missing, bend = y - n * q, n * q * (1 - q)
        pull = np.stack([missing.sum(axis=1), (missing * away).sum(axis=1)]) - precision[:, None] * line
        own = np.stack([bend.sum(axis=1), (bend * away**2).sum(axis=1)]) + precision[:, None]  # (2, V)
        shared = (bend * away).sum(axis=1)
        determinant = own[0] * own[1] - shared**2
        step = (own[::-1] * pull - shared * pull[::-1]) / determinant
        # Newton's step goes downhill for sure; how far, is seen by the loss.
        step /= np.maximum(np.abs(step).max(axis=0) / _LARGEST_STEP, 1.0)
        for _ in range(_HALVINGS):
            there = loss(line + step)
            worse = there > here + _ROUNDING * np.abs(here)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        step = np.where(worse, 0.0, step)
        line, here = line + step, np.where(worse, here, there)
        if np.abs(step).max() < _SMALL_STEP:
            break
    return line, own[::-1] / determinant


def _middle(z: Float64, e: Float64) -> Float64:
    """Where on the logit the expected conversions of each row of cells lie: (V, U) -> (V,); 0 for a row that has faded to nothing."""
    return np.asarray((e * z).sum(axis=1) / np.maximum(e.sum(axis=1), np.finfo(np.float64).tiny))


def _bins(cells: Float64) -> list[Float64]:
    """Neighbouring buckets together, until as much is known of them as `BIN_CONVERSIONS` says; what is left over joins the last."""
    bins: list[Float64] = []
    open_bin = np.zeros(3)
    for cell in cells.T:
        open_bin = open_bin + cell
        if max(open_bin[EXPECTED], open_bin[OBSERVED]) >= BIN_CONVERSIONS:
            bins.append(open_bin)
            open_bin = np.zeros(3)
    if not bins:
        return [open_bin]
    bins[-1] = bins[-1] + open_bin
    return bins


def _shrunk(sums: Float64) -> Float64:
    """(3,) with observed drawn towards expected; never 0, nor beyond what a rate can be."""
    n, e, y = sums
    drawn = e * (y + _PRIOR_CONVERSIONS) / (e + _PRIOR_CONVERSIONS)
    return np.array([n, e, min(drawn, 0.999 * n)])


def _ends(steps: Float64) -> tuple[Float64, Float64]:
    """Where steps stand on the logit and where they lead, from their (3, K) sums."""
    n, e, y = steps
    at = logit(e / n)
    return at, np.clip(logit(y / n), at - MOST_SHIFT, at + MOST_SHIFT)


def _rises(left: Float64, right: Float64) -> bool:
    """Whether one step lies above the other, and no more than `MOST_SLOPE` allows."""
    at, to = _ends(np.stack([left, right], axis=1))
    return bool(left[OBSERVED] / left[EXPOSURE] < right[OBSERVED] / right[EXPOSURE]) and bool(
        at[1] > at[0] and to[1] - to[0] <= MOST_SLOPE * (at[1] - at[0])
    )
