"""What a comparison came to, and its form in compare.json; must not know how it was run, or how it is shown."""

from __future__ import annotations

import msgspec

from streaming.lab.compare.bootstrap import Estimate
from streaming.lab.compare.figures import Figures, Series

FORMAT = 1

ORACLE, WINDOW, PRETRAINED = "oracle", "window", "pretrained"
"""The runs that every comparison needs: what could be reached at best, what waiting gets, what not learning gets."""

ANCHORS = (PRETRAINED, WINDOW, ORACLE)


class Slices(msgspec.Struct, frozen=True):
    """Hours or days, UTC, that hold a compared click: when each starts, its clicks and conversions."""

    start_ms: list[int]
    clicks: list[int]
    positives: list[int]


class Overall(msgspec.Struct, frozen=True):
    """The figures over all compared clicks, in two forms that are different numbers.

    Args:
        pooled: over all clicks at once.
        mean_over_hours: the mean of the hours' own figures, weighted by clicks, over hours that have a value: the papers' form.
    """

    pooled: Figures
    mean_over_hours: Figures


class Shares(msgspec.Struct, frozen=True):
    """How much of the way from a start to `oracle` a method has come, by figure: 0 is no nearer, 1 is there."""

    log_loss: Estimate
    auc: Estimate
    pr_auc: Estimate


class AgainstOracle(msgspec.Struct, frozen=True):
    """A method less `oracle`, on the same clicks; for calibration, a method's over `oracle`'s.

    Args:
        log_loss: nats a click; above 0 is worse.
        auc, pr_auc: mean over hours; below 0 is worse.
        calibration_ratio: 1 is as calibrated as `oracle`, which lags too.
        is_within: whether the interval of `log_loss` contains 0: the days cannot tell the two apart. None without an interval.
    """

    log_loss: Estimate
    auc: Estimate
    pr_auc: Estimate
    calibration_ratio: Estimate
    is_within: bool | None


class Cost(msgspec.Struct, frozen=True):
    """What a run cost, or the mean of several.

    Args:
        events_per_click: rows that taught conversions, for each click seen; None where no click was.
        seconds_over_window: seconds over those of `window` under the same seed.
        effective_share: effective sample size over `conversion_events`: 1 where all weigh the same, None where nothing was taught.
    """

    seconds: float
    seconds_over_window: float | None
    rows: float
    clicks: float
    conversion_events: float
    events_per_click: float | None
    effective_share: float | None
    kappa: float


class SeedResult(msgspec.Struct, frozen=True):
    """One run of a method: its figures, and the shares of its log loss (no intervals; None where there is no gap).

    `clicks_scored` counts what this run scored, of which only the clicks that all runs scored are compared.
    """

    seed: int
    clicks_scored: int
    overall: Overall
    share_from_window: float | None
    share_from_pretrained: float | None
    cost: Cost


class MethodResult(msgspec.Struct, frozen=True):
    """What one method came to: means over its seeds, unless something else is said.

    Args:
        spread: standard deviation over seeds of the figures; all None with one seed.
        by_hour, by_day: parallel to `Results.hours` and `Results.days`; a day's figures are over all its clicks at once.
    """

    method: str
    overall: Overall
    spread: Overall
    against_oracle: AgainstOracle
    share_from_window: Shares
    share_from_pretrained: Shares
    cost: Cost
    by_seed: list[SeedResult]
    by_hour: Series
    by_day: Series


class LeftOut(msgspec.Struct, frozen=True):
    """A run whose predictions entered no figure, and why."""

    run: str
    reason: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison: `compare.json` is this, as JSON.

    Args:
        clicks_in_log: all clicks of the file, also those before the stream began.
        clicks, positives: compared: every compared run has scored them.
        median_delay_ms: from click to conversion, among compared clicks that converted.
        hours_without_auc: hours whose clicks are all alike: nothing to rank, and no part in a mean over hours.
        resamples: draws of days behind each interval; 0 where there are too few days.
        methods: lowest log loss first.
    """

    format: int = FORMAT
    clicks_in_log: int
    clicks: int
    positives: int
    median_delay_ms: int | None
    hours: Slices
    days: Slices
    hours_without_auc: int
    seeds: list[int]
    resamples: int
    methods: list[MethodResult]
    left_out: list[LeftOut]

    def method(self, name: str) -> MethodResult:
        """A method's result.

        Raises:
            KeyError: it was not compared.
        """
        for found in self.methods:
            if found.method == name:
                return found
        raise KeyError(name)
