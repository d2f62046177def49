"""The figures of a run as Prometheus families, each name written once; must not know how a figure came about."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from threading import Thread
from types import TracebackType
from typing import Protocol, get_args
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from models.schema import RefusalReason
from streaming.examples import Kind
from streaming.metrics import SIDE_OUTPUTS, CohortMetrics, RunMetrics, TargetFigures, TaskMetrics

# Shown from the first scrape on, at 0: `rate()` and `increase()` miss the first event of a series that appears with it.
_EVENT_KINDS = ("impression", "click", "conversion", "malformed")
_RECORD_KINDS = ("impression", "click", "conversion")
_EXAMPLE_KINDS = tuple(kind.name for kind in Kind)


class RunCollector(Collector):
    """Shows one `RunMetrics` to Prometheus, as it stands when scraped.

    The pipeline replaces its metrics value and never changes one in place; a scrape reads the reference once, so
    that all its figures are of the same moment, and needs no lock. A figure without a value is absent, not 0.

    Label sets are small and closed: kinds, doors, tasks, and names out of the settings. Never an id.

    Args:
        read: the newest metrics.
        clock: processing time, UTC epoch milliseconds; None where event time has nothing to do with it (a replay).

    Example:
        >>> metrics = RunMetrics(watermark_ms=90_000, max_event_time_ms=100_000, steps=7)
        >>> registry = CollectorRegistry()
        >>> registry.register(RunCollector(lambda: metrics))
        >>> registry.get_sample_value("afterclick_steps_total")
        7
        >>> registry.get_sample_value("afterclick_watermark_lag_seconds")
        10.0

    Source:
        Prometheus, "Metric and label naming"; calibration as counters that add up over replicas, so that
        `afterclick_predicted_positives_total / afterclick_observed_positives_total` holds over any range.
    """

    def __init__(self, read: Callable[[], RunMetrics], *, clock: Callable[[], int] | None = None) -> None:
        self._read = read
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Every family, from one reading of the metrics."""
        metrics = self._read()
        yield from _time(metrics, None if self._clock is None else self._clock())
        yield from _partitions(metrics)
        yield from _records(metrics)
        yield from _state(metrics)
        yield from _learning(metrics)
        yield from _publishing(metrics)
        yield from _scores(metrics)
        yield from _early(metrics)
        yield from _delays(metrics)


class JoinCollector(RunCollector):
    """Shows the figures of a worker of the join; those of learning stay at 0.

    Args:
        read: the newest metrics. clock: processing time, UTC epoch milliseconds.
        commit_age: seconds since everything was committed.
    """

    def __init__(
        self, read: Callable[[], RunMetrics], *, clock: Callable[[], int], commit_age: Callable[[], float]
    ) -> None:
        super().__init__(read, clock=clock)
        self._commit_age = commit_age

    def collect(self) -> Iterator[Metric]:
        """Every family of a run, and the age of the last commit."""
        yield from super().collect()
        yield from _gauge("join_commit_age_seconds", "Time since all that was read was committed.", self._commit_age())


def _gauge(name: str, meaning: str, value: float | None) -> Iterator[Metric]:
    if value is not None and math.isfinite(value):
        yield GaugeMetricFamily(f"afterclick_{name}", meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Iterator[Metric]:
    yield CounterMetricFamily(f"afterclick_{name}", meaning, value=value)


def _counter_by(
    name: str, meaning: str, label: str, counts: Mapping[str, int], known: Iterable[str] = ()
) -> Iterator[Metric]:
    family = CounterMetricFamily(f"afterclick_{name}", meaning, labels=[label])
    for value, count in {**dict.fromkeys(known, 0), **counts}.items():
        family.add_metric([value], count)
    yield family


def _time(metrics: RunMetrics, processing_time_ms: int | None) -> Iterator[Metric]:
    watermark_ms, newest_ms = metrics.watermark_ms, metrics.max_event_time_ms
    yield from _gauge(
        "watermark_timestamp_seconds",
        "Event time before which nothing more is expected.",
        None if watermark_ms is None else watermark_ms / 1000,
    )
    yield from _gauge(
        "event_timestamp_seconds", "Largest event time seen.", None if newest_ms is None else newest_ms / 1000
    )
    yield from _gauge(
        "watermark_lag_seconds",
        "Event time by which the watermark trails the newest event; 0 where it is ahead.",
        # Files are read ahead: after a gap in the log, or at its end, the watermark may have passed the newest event handed on.
        None if watermark_ms is None or newest_ms is None else max(newest_ms - watermark_ms, 0) / 1000,
    )
    yield from _gauge(
        "watermark_age_seconds",
        "Processing time less watermark.",
        None if watermark_ms is None or processing_time_ms is None else (processing_time_ms - watermark_ms) / 1000,
    )


def _partitions(metrics: RunMetrics) -> Iterator[Metric]:
    watermark = GaugeMetricFamily(
        "afterclick_partition_watermark_timestamp_seconds", "Watermark of a join partition.", labels=["p"]
    )
    idle = GaugeMetricFamily(
        "afterclick_partition_idle", "1 where all streams of a join partition are idle.", labels=["p"]
    )
    held = GaugeMetricFamily(
        "afterclick_partition_stall_held_seconds",
        "Event time that is held back because a stream of a join partition has stalled: above 0 is an alarm.",
        labels=["p"],
    )
    for p, own in metrics.partitions.items():
        if own.watermark_ms is not None:
            watermark.add_metric([str(p)], own.watermark_ms / 1000)
        idle.add_metric([str(p)], own.is_idle)
        held.add_metric([str(p)], own.held_ms / 1000)
    yield from (watermark, idle, held)
    yield from _gauge(
        "broker_is_away", "1 while the brokers that events are read from do not answer.", metrics.is_broker_away
    )


def _records(metrics: RunMetrics) -> Iterator[Metric]:
    yield from _counter_by("events", "Records read.", "kind", metrics.events, _EVENT_KINDS)
    family = CounterMetricFamily(
        "afterclick_side_outputs", "Records that teach nothing, by the door they left by.", labels=["door", "kind"]
    )
    for door in dict.fromkeys([*SIDE_OUTPUTS, *metrics.side_outputs]):
        for kind, count in {**dict.fromkeys(_RECORD_KINDS, 0), **metrics.side_outputs.get(door, {})}.items():
            family.add_metric([door, kind], count)
    yield family
    yield from _counter_by(
        "feature_faults", "Feature values of a wrong type, taken as missing.", "feature", metrics.feature_faults
    )
    yield from _counter_by("examples", "Examples that left the join.", "kind", metrics.examples, _EXAMPLE_KINDS)
    yield from _counter(
        "duplicate_examples",
        "Examples that a joiner had sent before, or in vain; not learned.",
        metrics.duplicate_examples,
    )


def _state(metrics: RunMetrics) -> Iterator[Metric]:
    yield from _gauge("open_impressions", "Impressions that still wait.", metrics.open_impressions)
    yield from _gauge("open_clicks", "Open impressions that were clicked.", metrics.open_clicks)
    yield from _gauge("remembered_impressions", "Closed impressions still remembered.", metrics.remembered_impressions)
    yield from _gauge("pending_records", "Records the watermark has not passed.", metrics.pending_records)
    yield from _gauge("held_facts", "Clicks and conversions that wait for their impression.", metrics.held_facts)
    yield from _gauge("open_predictions", "Predictions that wait for their label.", metrics.open_predictions)


def _learning(metrics: RunMetrics) -> Iterator[Metric]:
    yield from _counter("steps", "Gradient steps.", metrics.steps)
    yield from _counter("taught_rows", "Rows that taught.", metrics.taught)
    reasons = get_args(RefusalReason)
    yield from _counter_by("refused_batches", "Batches not learned.", "reason", metrics.refused_batches, reasons)
    yield from _gauge("loss_nats", "Loss of the last step for each configured row.", metrics.last_loss)
    yield from _gauge("kappa_ratio", "Mass taught for each click seen.", metrics.kappa)
    yield from _counter("conversion_rows", "Rows that taught conversions, with a weight.", metrics.conversion_rows)
    yield from _counter("conversion_weight", "Sum of their weights.", metrics.conversion_weight)
    yield from _counter(
        "conversion_weight_square", "Sum of the squares of their weights.", metrics.conversion_weight_square
    )
    yield from _gauge(
        "effective_sample_size", "Rows of equal weight that they are worth.", metrics.effective_sample_size
    )
    yield from _gauge("embedding_rows", "Rows in the embedding tables.", metrics.embedding_rows)
    yield from _gauge("weights_epoch", "Epoch of the newest published weights, 0 before.", metrics.weights_epoch)
    yield from _gauge("weights_version", "Version of the newest published weights, 0 before.", metrics.weights_version)
    yield from _counter("cuts", "Consistent cuts taken.", metrics.cuts)


def _publishing(metrics: RunMetrics) -> Iterator[Metric]:
    refused = ("not_finite", "norm", "calibration", "log_loss", "coverage", "held")
    yield from _counter_by("refused_versions", "Versions not published.", "reason", metrics.refused_versions, refused)
    for name, says, figure in _TARGETS:
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        gathered = family(f"afterclick_{name.removesuffix('_total')}", says, labels=["target"])
        for target, figures in sorted(metrics.targets.items()):
            gathered.add_metric([target], figure(figures))
        yield gathered


_TARGETS: tuple[tuple[str, str, Callable[[TargetFigures], float]], ...] = (
    ("target_versions_total", "Versions that a target took.", lambda figures: figures.published),
    ("target_retries_total", "Tries to publish that failed.", lambda figures: figures.retries),
    ("target_dropped_versions_total", "Versions given up for a snapshot to come.", lambda figures: figures.dropped),
    ("target_waiting_versions", "Versions that wait for a target.", lambda figures: figures.waiting),
    ("target_is_away", "1 while a target does not answer.", lambda figures: figures.is_away),
)


_SUMS: tuple[tuple[str, str, Callable[[TaskMetrics], float]], ...] = (
    ("scored_rows", "Predictions scored.", lambda scores: scores.n),
    ("predicted_positives", "Sum of the predictions scored.", lambda scores: scores.sum_p),
    ("observed_positives", "Positive labels among the predictions scored.", lambda scores: scores.sum_y),
    ("log_loss_nats", "Sum of the log loss of the predictions scored.", lambda scores: scores.sum_log_loss),
)

_FIGURES: tuple[tuple[str, str, Callable[[TaskMetrics], float | None]], ...] = (
    ("calibration_ratio", "Predicted over observed positives.", lambda scores: scores.calibration),
    (
        "normalized_entropy",
        "Log loss over that of always saying the mean.",
        lambda scores: scores.normalized_entropy,
    ),
    ("log_loss_mean_nats", "Log loss of a prediction.", lambda scores: scores.log_loss),
    ("expected_calibration_error", "Mean distance from the label rate, equal-mass bins.", lambda scores: scores.ece),
    ("auc", "Area under the ROC curve, from logit buckets.", lambda scores: scores.auc),
    ("auc_error", "The most that bucketing can have moved the AUC.", lambda scores: scores.auc_error),
)


def _scores(metrics: RunMetrics) -> Iterator[Metric]:
    scored = [([task, whose], scores) for task, by_whose in metrics.tasks.items() for whose, scores in by_whose.items()]
    labels = ["task", "whose"]
    for name, meaning, sum_of in _SUMS:
        counter = CounterMetricFamily(f"afterclick_{name}", meaning, labels=labels)
        for values, scores in scored:
            counter.add_metric(values, sum_of(scores))
        yield counter
    for name, meaning, figure_of in _FIGURES:
        gauge = GaugeMetricFamily(f"afterclick_{name}", meaning, labels=labels)
        for values, scores in scored:
            figure = figure_of(scores)
            if figure is not None and math.isfinite(figure):
                gauge.add_metric(values, figure)
        yield gauge


_EARLY: tuple[tuple[str, str, Callable[[CohortMetrics], float | None]], ...] = (
    (
        "open_clicks_scored",
        "Clicks whose conversion labels are open, old enough to be counted.",
        lambda early: early.clicks,
    ),
    ("expected_conversions", "Conversions expected of them by now.", lambda early: early.expected),
    ("early_conversions", "Conversions observed of them by the same ages.", lambda early: early.observed),
    ("early_conversions_ratio", "Observed over expected; 1 is right.", lambda early: early.ratio),
    ("early_conversions_ratio_low", "Lower end of its 95 % interval.", lambda early: early.low),
    ("early_conversions_ratio_high", "Upper end of its 95 % interval.", lambda early: early.high),
    ("early_conversions_on_prior", "1 while it rests on a prior of delays.", lambda early: float(early.rests_on_prior)),
)


def _early(metrics: RunMetrics) -> Iterator[Metric]:
    for name, meaning, figure_of in _EARLY:
        gauge = GaugeMetricFamily(f"afterclick_{name}", meaning, labels=["whose"])
        for whose, early in metrics.early.items():
            figure = figure_of(early.total)
            if figure is not None and math.isfinite(figure):
                gauge.add_metric([whose], figure)
        yield gauge


def _delays(metrics: RunMetrics) -> Iterator[Metric]:
    # The edges are where bins start; a bucket ends where the next one does. Without a sum: it is not counted.
    if not metrics.delay_counts:
        return
    ends = [*(str(edge / 1000) for edge in metrics.delay_edges_ms[1:]), "+Inf"]
    buckets = list(zip(ends, accumulate(metrics.delay_counts), strict=True))
    meaning = "Time from click to conversion, of clicks whose attribution window has passed."
    yield HistogramMetricFamily("afterclick_conversion_delay_seconds", meaning, buckets=buckets)


class Closable(Protocol):
    """Something that runs until it is closed."""

    def close(self) -> None:
        """Stops it; a second time does nothing."""


class MetricsPortError(OSError):
    """The metrics cannot be served on the port asked for; the message names it and what to do."""


class MetricsServer:
    """An HTTP server that answers scrapes until closed. `port` is the one it listens on."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self.port: int = server.server_port
        self._server = server
        self._thread = thread

    def close(self) -> None:
        """Stops listening and waits for the thread; a second time does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(collector: Collector, port: int, *, host: str = "127.0.0.1") -> MetricsServer:
    """Answers `GET /metrics` from a thread of its own, with a registry of its own.

    Args:
        collector: what a scrape asks.
        port: where to listen. 0 lets the system choose, which suits tests: a scrape configuration cannot know it.
        host: the address to listen on. By default this machine alone is answered, since whoever asks is; "0.0.0.0" answers every one.

    Raises:
        MetricsPortError: the port is taken, not allowed, or out of range, or the host is not ours.
    """
    if not 0 <= port <= 65_535:
        raise MetricsPortError(f"metrics port must lie between 0 and 65535 (got {port}): choose another, 9464 say")
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is in use: stop the process that holds it, or choose another"
        elif error.errno == errno.EACCES:
            why = "is not allowed to this user: choose one above 1023"
        else:
            why = f"cannot be listened on ({error}): check the host and the port"
        raise MetricsPortError(f"metrics port {port} on {host} {why}") from error
    return MetricsServer(server, thread)
