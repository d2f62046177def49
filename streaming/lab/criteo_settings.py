"""The settings to learn from the Criteo delayed-feedback log, two ways of looking at its integers; must not know how it is written."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from streaming.lab.criteo_rows import CATEGORIES, INTEGERS, ClickRow
from streaming.lab.delays import DAY_MS, MINUTE_MS, Floats
from streaming.lab.durations import clean_near, in_words
from streaming.lab.toml_text import WIDTH, comment
from streaming.settings import parse

PAPERS_BUCKETS = (64, 16, 128, 64, 128, 64, 512, 512)  # of es_dfm, DEFER, DEFUSE, DDFM, GDFM and TRACE alike
QUANTILE_BUCKETS = 64  # each with 1.6 % of the clicks; a value more frequent than that has one of its own
SAMPLE_ROWS = 1 << 17  # kept for the quantiles, at most; half of them at least: standard error of a rank .2 %

_CLICK_WINDOW_MS = 1_000  # clicks come with their impressions; the clock of the file has seconds
_OBSERVATION_WINDOW_MS = 15 * MINUTE_MS  # ES-DFM's and DDFM's
_ATTRIBUTION_WINDOW_MS = 30 * DAY_MS  # that of the data set
_BATCH_SIZE = 1024  # the papers'
_CUT_INTERVAL_MS = 7 * DAY_MS
_LEAST_PRIOR, _MOST_PRIOR = 1e-4, 0.98  # where the model may start; 0 and 1 have no logit


class Clicks:
    """How many clicks and conversions there were, and when the first and the last click was, None before there is one."""

    def __init__(self) -> None:
        self.count = self.conversions = 0
        self.first_s: int | None = None
        self.last_s: int | None = None

    def add(self, row: ClickRow) -> None:
        """One more."""
        self.count += 1
        self.conversions += row.conversion_s is not None
        if self.first_s is None or self.last_s is None:
            self.first_s = self.last_s = row.click_s
        elif row.click_s > self.last_s:
            self.last_s = row.click_s
        elif row.click_s < self.first_s:
            self.first_s = row.click_s


class IntegerColumns:
    """The integer columns as far as buckets need them: their range, and every k-th row.

    k doubles whenever the sample is full, so that any log fits and the same rows always give the same sample.

    Args:
        sample_rows: kept at most.

    Example:
        >>> columns = IntegerColumns(sample_rows=4)
        >>> columns.add([(b"%d" % value, *[b""] * 7) for value in range(9)])
        >>> columns.range_of(0), columns.sample_of(0).tolist()
        ((0, 8), [0.0, 4.0, 8.0])
    """

    def __init__(self, *, sample_rows: int = SAMPLE_ROWS) -> None:
        self._most, self._every, self._seen = sample_rows, 1, 0
        self._sample: Floats = np.empty((0, len(INTEGERS)))
        self._ranges: list[tuple[int, int] | None] = [None] * len(INTEGERS)
        self._missing = [False] * len(INTEGERS)

    def add(self, rows: Sequence[tuple[bytes, ...]]) -> None:
        """The cells of more rows, empty where missing."""
        for column, cells in enumerate(map(set, zip(*rows, strict=True))):
            if b"" in cells:
                self._missing[column] = True
                cells.remove(b"")
            if cells:
                values = [int(cell) for cell in cells]
                known = self._ranges[column] or (values[0], values[0])
                self._ranges[column] = (min(known[0], *values), max(known[1], *values))
        chosen = rows[-self._seen % self._every :: self._every]
        self._seen += len(rows)
        kept = np.array([[float(cell or "nan") for cell in row] for row in chosen]).reshape(-1, len(INTEGERS))
        self._sample = np.concatenate([self._sample, kept])
        while len(self._sample) > self._most:
            self._sample, self._every = self._sample[::2], self._every * 2

    def range_of(self, column: int) -> tuple[int, int] | None:
        """Least and largest value; None without any."""
        return self._ranges[column]

    def has_missing(self, column: int) -> bool:
        """Whether a row lacked it."""
        return self._missing[column]

    def sample_of(self, column: int) -> Floats:
        """The values of the rows kept, without the missing ones."""
        values = self._sample[:, column]
        return np.asarray(values[~np.isnan(values)])


def quantile_edges(values: Floats, buckets: int) -> list[float]:
    """Edges between at most so many buckets of about equal mass, none of them empty unless all values are one.

    Example:
        >>> quantile_edges(np.array([0.0, 0, 0, 0, 1, 2, 7, 90]), 4)
        [1.0, 7.0]
    """
    if not len(values):
        return []
    above = values[values > values.min()]  # an edge at the least value would have nothing below it
    if not len(above):
        return [float(values[0])]
    edges = np.unique(np.quantile(values, np.arange(1, buckets) / buckets, method="higher"))
    return [float(edge) for edge in edges if edge > values.min()] or [float(above.min())]


def papers_edges(least: int, largest: int, buckets: int) -> list[float]:
    """The papers' edges, in the column's own unit: j / (buckets - 1) of the way from the least to the largest value.

    Their lowest bucket, below the least value, stays empty.

    Example:
        >>> papers_edges(-1, 9, 6)
        [-1.0, 1.0, 3.0, 5.0, 7.0]
    """
    if least == largest:
        return [float(least)]
    return [least + (largest - least) * j / (buckets - 1) for j in range(buckets - 1)]


def quantile_settings(clicks: Clicks, integers: IntegerColumns) -> str:
    """TOML with buckets of about equal mass."""
    edges = [quantile_edges(integers.sample_of(column), QUANTILE_BUCKETS) for column in range(len(INTEGERS))]
    opening = comment(
        "Settings for the Criteo delayed-feedback log: integers in up to 64 buckets of equal mass, from a sample of the log. "
        "settings-papers.toml, beside it, has the papers' own."
    )
    return _settings(opening, clicks, "", edges)


def papers_settings(clicks: Clicks, integers: IntegerColumns) -> str:
    """TOML with the buckets, the widths and the batch size of the papers."""
    edges = []
    for column, buckets in enumerate(PAPERS_BUCKETS):
        known = integers.range_of(column)
        # They put -1 for what is missing, which moves the least value.
        least = None if known is None else min(known[0], -1) if integers.has_missing(column) else known[0]
        edges.append([] if known is None or least is None else papers_edges(least, known[1], buckets))
    opening = comment(
        "Settings for the Criteo delayed-feedback log as ES-DFM, DEFER, DEFUSE and DDFM see it: integers in buckets of equal width between "
        "the least and the largest value of all 60 days (a small look ahead, theirs too).",
        "What stays ours: a category has an id of its own where they hash into 16 to 512 buckets, a missing integer has one where they put -1, "
        "buckets have embeddings, and there is no batch normalisation.",
    )
    return _settings(opening, clicks, "towers = [256, 256, 128]\nembedding_width = 8\n", edges)


def _settings(opening: str, clicks: Clicks, network: str, edges: Sequence[list[float]]) -> str:
    assert clicks.first_s is not None
    assert clicks.last_s is not None
    filled_ms = 1000 * (clicks.last_s - clicks.first_s) / max(clicks.count - 1, 1) * _BATCH_SIZE
    interval_ms = min(clean_near(filled_ms), DAY_MS)
    rate = clicks.conversions / clicks.count
    features = [
        *(_integer(name, at) for name, at in zip(INTEGERS, edges, strict=True)),
        *(f'[[features]]\nname = "{name}"\nkind = "categorical"' for name in CATEGORIES),
    ]
    text = f"""\
{opening}

[windows]
click_window_ms = {_CLICK_WINDOW_MS:_}  # clicks come with their impressions
observation_window_ms = {_OBSERVATION_WINDOW_MS:_}  # 15 min, as in ES-DFM and DDFM
attribution_window_ms = {_ATTRIBUTION_WINDOW_MS:_}  # 30 d, the data set's own

[labels]
method = "mature"  # of a replay; `afterclick compare` takes those of --methods

[batching]
batch_size = {_BATCH_SIZE}  # the papers'
batch_interval_ms = {interval_ms:_}  # {in_words(interval_ms)}: about the time in which as many clicks come

[cuts]
cut_interval_ms = {_CUT_INTERVAL_MS:_}  # 7 d: about 14 in the whole log, and a cut holds 30 days of clicks

[network]
objective = "composed"  # every impression is clicked: there is P(conversion | click) to learn and nothing else
prior_ctr = {_MOST_PRIOR}  # it is 1, which has no logit
prior_cvr = {min(max(rate, _LEAST_PRIOR), _MOST_PRIOR):.3g}  # seen: {clicks.conversions:,} conversions of {clicks.count:,} clicks
{network}
""" + "\n\n".join(features)
    parse(text, source="the settings for a Criteo log")
    return text + "\n"


def _integer(name: str, edges: list[float]) -> str:
    if not edges:
        return comment(f"{name} is left out: it never has a value.")
    text = ", ".join(f"{edge:.0f}" if edge.is_integer() else str(edge) for edge in edges)
    boundaries = "\n".join(f"    {line}" for line in textwrap.wrap(text, WIDTH))
    return f'[[features]]\nname = "{name}"\nkind = "numeric"\ntransform = "buckets"\nboundaries = [\n{boundaries}\n]'
