"""The figures of a run as one value: what metrics.json holds, Prometheus shows and the report draws; computes nothing."""

from __future__ import annotations

import msgspec

SIDE_OUTPUTS = ("dead_letters", "future", "duplicates", "late", "out_of_window", "orphans")
"""The doors a record that teaches nothing may leave by, in the order in which they are tried."""


class TaskMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """How good the predictions of one task were. A figure that has no value (no positives yet, say) is None.

    Args:
        n: rows scored. sum_p, sum_y: sums of predictions and of labels. sum_log_loss: nats.
        calibration: sum_p / sum_y. log_loss: nats a row. normalized_entropy: log loss over that of always saying the mean.
        ece: expected calibration error over equal-mass score bins. auc: from 1,000 logit buckets; auc_error: the
            most that bucketing can have moved it.
        reliability: (mean p, mean y, n) of each equal-mass score bin.
    """

    n: int
    sum_p: float
    sum_y: float
    sum_log_loss: float
    calibration: float | None
    log_loss: float | None
    normalized_entropy: float | None
    ece: float | None
    auc: float | None
    auc_error: float | None
    reliability: list[tuple[float, float, int]]


class HourMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one task over the impressions of one hour of event time; `hour_ms` is where the hour starts."""

    hour_ms: int
    task: str
    whose: str
    n: int
    sum_p: float
    sum_y: float
    sum_log_loss: float
    is_complete: bool


class CohortMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What came of some clicks by now, over what was expected of them by now.

    Args:
        start_ms: where the hour of the clicks starts; None for several hours together. age_ms: what all of them have reached, and are
            counted at; None for several ages together.
        expected: sum of p F(age). observed: conversions by the same ages.
        ratio: observed / expected, the inverse of a calibration; low and high are its 95 % interval, the error of F in it.
        rests_on_prior: whether F does, for some of them.
    """

    start_ms: int | None
    age_ms: int | None
    clicks: int
    expected: float
    observed: int
    ratio: float | None
    low: float | None
    high: float | None
    rests_on_prior: bool


class EarlyMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of pCVR on clicks whose labels are still open: of all together, by age, and by hour of the click."""

    total: CohortMetrics
    cohorts: list[CohortMetrics]
    ages: list[CohortMetrics] = []


class PartitionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How far a join partition has come.

    Args:
        watermark_ms: None before there is one. is_idle: whether nobody waits for it. held_ms: event time that is held back because
            a stream of it has stalled.
    """

    watermark_ms: int | None
    is_idle: bool = False
    held_ms: int = 0


class IngestFigures(msgspec.Struct, kw_only=True):
    """What is counted before anything is learned; each is the figure of that name in `RunMetrics`."""

    watermark_ms: int | None = None
    max_event_time_ms: int | None = None
    events: dict[str, int] = {}
    side_outputs: dict[str, dict[str, int]] = {}
    feature_faults: dict[str, int] = {}
    examples: dict[str, int] = {}
    open_impressions: int = 0
    open_clicks: int = 0
    remembered_impressions: int = 0
    pending_records: int = 0
    held_facts: int = 0
    duplicate_examples: int = 0
    is_broker_away: bool = False
    partitions: dict[int, PartitionFigures] = {}


class TargetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How publishing to one target goes, since this start of the run.

    Args:
        version: the newest that it took; None before the first. waiting: versions that wait for it.
        published, retries, dropped: versions that it took; tries that failed; versions given up for a snapshot to come.
        is_away: whether the last try failed. held: versions refused because publishing is held.
    """

    version: str | None = None
    waiting: int = 0
    published: int = 0
    retries: int = 0
    dropped: int = 0
    held: int = 0
    is_away: bool = False


class RunMetrics(IngestFigures, kw_only=True):
    """Everything counted so far in a run.

    Args:
        format: version of this structure.
        watermark_ms: how far event time has come; None before the first record.
        max_event_time_ms: the largest event time seen; None before the first record.
        events: records read, by kind: impression, click, conversion, malformed.
        side_outputs: door -> kind -> records that left by it. Doors as in `SIDE_OUTPUTS`.
        feature_faults: feature -> values of a wrong type, taken as missing.
        examples: kind -> examples emitted.
        open_impressions, open_clicks: impressions still waiting, and those of them that were clicked.
        remembered_impressions: closed ones remembered so that what follows is called what it is.
        pending_records: read, but not yet in effect (the watermark has not passed them).
        held_facts: clicks and conversions that wait for a late impression.
        duplicate_examples: examples that a joiner had sent before, or sent while another had taken its place, and that were not learned.
        is_broker_away: live: whether the brokers did not answer when they were last asked.
        partitions: join partition -> how far it has come; a log of files is partition 0.
        open_predictions: predictions that wait for their label.
        steps: gradient steps. taught: rows that taught. refused_batches: reason -> batches:
            running_away, exploding or not_finite.
        kappa: mass taught for each click seen (design, "delayed feedback"). last_loss: of the last step, nats a configured row.
        embedding_rows: rows in the tables.
        tasks: "ctr", "cvr", "ctcvr" -> whose ("model" or "served") -> lifetime figures over complete hours.
        hours: the same as sums, by impression hour.
        early: whose ("model" or "served") -> how conversions come in beside what was predicted, before labels are final.
        conversion_rows, conversion_weight, conversion_weight_square: of the rows that taught conversions: how many, the sums of
            |a+| + |a-| and of its squares. effective_sample_size: what they are worth, the one squared over the other; None if none.
        delay_edges_ms, delay_counts: histogram of click-to-conversion delays of the OUTCOMEs; the last bin is open-ended.
        weights_epoch, weights_version: the newest made; 0 before the first. refused_versions: reason -> versions that the gate refused, or
            that came while publishing was held.
        targets: where weights go -> how publishing there goes.
        cuts: consistent cuts taken, by the run and those it resumed from.
    """

    format: int = 1
    open_predictions: int = 0
    steps: int = 0
    taught: int = 0
    refused_batches: dict[str, int] = {}
    kappa: float = 0.0
    last_loss: float | None = None
    embedding_rows: int = 0
    tasks: dict[str, dict[str, TaskMetrics]] = {}
    hours: list[HourMetrics] = []
    early: dict[str, EarlyMetrics] = {}
    conversion_rows: int = 0
    conversion_weight: float = 0.0
    conversion_weight_square: float = 0.0
    effective_sample_size: float | None = None
    delay_edges_ms: list[int] = []
    delay_counts: list[int] = []
    weights_epoch: int = 0
    weights_version: int = 0
    refused_versions: dict[str, int] = {}
    targets: dict[str, TargetFigures] = {}
    cuts: int = 0
