"""The figures of a scorer as Prometheus families, each name written once. Decides nothing about readiness or refusal."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streaming.reader import Scores, WeightsReader
from streaming.serving import Serving
from streaming.unseen import UnseenShares

# Seconds. A hundred items take some milliseconds; a body may take seconds to arrive.
_LATENCIES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_STATUSES = (200, 400, 401, 408, 413, 415, 422, 503)


class ServingMetrics:
    """Counts what a scorer does, in a registry of its own.

    Args:
        reader: whose weights are in service.
        serving: window and alarm of unseen ids.
    """

    def __init__(self, reader: WeightsReader, serving: Serving) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "afterclick_serving_request_seconds",
            "From the first byte of a request for scores to its answer.",
            registry=self._registry,
            buckets=_LATENCIES,
        )
        self._requests = Counter(
            "afterclick_serving_requests", "Requests for scores, by status.", ["status"], registry=self._registry
        )
        self._by_status = {status: self._requests.labels(str(status)) for status in _STATUSES}
        self._items = Counter("afterclick_serving_items", "Items scored.", registry=self._registry)
        self._shares = UnseenShares(window=serving.unseen_window, alarm_share=serving.unseen_alarm_share)
        self._registry.register(_WeightsCollector(reader, self._shares))

    def on_answer(self, status: int, seconds: float) -> None:
        """Counts a request for scores."""
        self._latency.observe(seconds)
        self._by_status[status].inc()

    def on_scores(self, scores: Scores) -> None:
        """Counts what was scored."""
        self._items.inc(len(scores.pctr))
        self._shares.add(scores.seen, scores.unseen)

    @property
    def unseen_alarms(self) -> list[str]:
        """The features of whose ids too many have no row."""
        return self._shares.alarms()

    def text(self) -> bytes:
        """What a scrape is answered."""
        return generate_latest(self._registry)


class _WeightsCollector(Collector):
    """What is in service, as it stands when scraped."""

    def __init__(self, reader: WeightsReader, shares: UnseenShares) -> None:
        self._reader, self._shares = reader, shares

    def collect(self) -> Iterator[Metric]:
        reader, served = self._reader, self._reader.served
        version = None if served is None else served.version
        watermark_ms = None if served is None else served.manifest.watermark_ms
        age_ms, watermark_age_ms = reader.version_age_ms(), reader.watermark_age_ms()
        yield from _gauge("weights_epoch", "Epoch of the weights in service.", version and version[0])
        yield from _gauge("weights_version", "Version of the weights in service.", version and version[1])
        yield from _gauge(
            "embedding_rows", "Rows of the weights in service.", None if served is None else served.model.embedding_rows
        )
        yield from _gauge(
            "watermark_timestamp_seconds",
            "Event time up to which the weights in service have learned.",
            None if watermark_ms is None else watermark_ms / 1000,
        )
        yield from _gauge(
            "watermark_age_seconds",
            "Processing time less that.",
            None if watermark_age_ms is None else watermark_age_ms / 1000,
        )
        yield from _gauge(
            "version_age_seconds",
            "Time for which the version has been in service.",
            None if age_ms is None else age_ms / 1000,
        )
        yield CounterMetricFamily(
            "afterclick_serving_weights_swaps", "Versions taken into service.", value=reader.swaps
        )
        refused = CounterMetricFamily(
            "afterclick_serving_refused_versions", "Versions that were not taken into service.", labels=["reason"]
        )
        for reason, count in reader.refused.items():
            refused.add_metric([reason], count)
        yield refused
        yield from self._ids({} if served is None else dict(served.features.faults))

    def _ids(self, faults: dict[str, int]) -> Iterator[Metric]:
        shares, alarms = self._shares, set(self._shares.alarms())
        for name, meaning, counts in (
            ("ids", "Ids looked up.", shares.seen),
            ("unseen_ids", "Ids looked up that have no row.", shares.unseen),
            ("feature_faults", "Feature values of a wrong type, taken as missing.", faults),
        ):
            counter = CounterMetricFamily(f"afterclick_serving_{name}", meaning, labels=["feature"])
            for feature, count in list(counts.items()):
                counter.add_metric([feature], count)
            yield counter
        ratio = GaugeMetricFamily(
            "afterclick_serving_unseen_ids_ratio", "Share of the newest ids without a row.", labels=["feature"]
        )
        alarm = GaugeMetricFamily(
            "afterclick_serving_unseen_ids_alarm", "1 while that share is above the alarm's.", labels=["feature"]
        )
        for feature in list(shares.seen):
            share = shares.share(feature)
            if share is not None:
                ratio.add_metric([feature], share)
                alarm.add_metric([feature], float(feature in alarms))
        yield from (ratio, alarm)


def _gauge(name: str, meaning: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"afterclick_serving_{name}", meaning, value=value)
