"""What a scrape of a run shows, and what it must leave out."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from models.safeguards import Refusals
from models.schema import Safeguards
from streaming.adapters.prometheus import MetricsPortError, RunCollector, serve
from streaming.metrics import (
    SIDE_OUTPUTS,
    CohortMetrics,
    EarlyMetrics,
    PartitionFigures,
    RunMetrics,
    TargetFigures,
    TaskMetrics,
)

SCORES = TaskMetrics(
    n=1_000,
    sum_p=52.5,
    sum_y=50.0,
    sum_log_loss=190.0,
    calibration=1.05,
    log_loss=0.19,
    normalized_entropy=0.957,
    ece=0.004,
    auc=0.71,
    auc_error=0.002,
    reliability=[(0.05, 0.05, 1_000)],
)
NO_POSITIVES = TaskMetrics(
    n=40,
    sum_p=0.4,
    sum_y=0.0,
    sum_log_loss=0.5,
    calibration=None,
    log_loss=0.0125,
    normalized_entropy=None,
    ece=0.01,
    auc=None,
    auc_error=None,
    reliability=[],
)
RUN = RunMetrics(
    duplicate_examples=4,
    is_broker_away=True,
    partitions={
        0: PartitionFigures(watermark_ms=1_700_000_000_000, held_ms=7_000),
        1: PartitionFigures(watermark_ms=None, is_idle=True),
    },
    watermark_ms=1_700_000_000_000,
    max_event_time_ms=1_700_000_010_500,
    events={"impression": 900, "click": 40, "conversion": 5, "malformed": 2},
    side_outputs={"late": {"click": 3}, "dead_letters": {"impression": 2}},
    feature_faults={"price": 4},
    examples={"UNCLICKED": 860, "CLICKED": 40, "OUTCOME": 30},
    open_impressions=11,
    open_clicks=10,
    remembered_impressions=7,
    pending_records=6,
    held_facts=5,
    open_predictions=4,
    steps=9,
    taught=930,
    refused_batches={"not_finite": 1},
    delay_edges_ms=[0, 1_000, 2_000],
    delay_counts=[3, 5, 2],
    kappa=0.93,
    last_loss=0.21,
    embedding_rows=321,
    tasks={"ctr": {"model": SCORES, "served": SCORES}, "cvr": {"model": NO_POSITIVES}},
    early={
        "model": EarlyMetrics(
            total=CohortMetrics(
                start_ms=None,
                age_ms=None,
                clicks=800,
                expected=20.0,
                observed=25,
                ratio=1.25,
                low=0.8,
                high=1.9,
                rests_on_prior=True,
            ),
            cohorts=[],
        )
    },
    conversion_rows=50,
    conversion_weight=40.0,
    conversion_weight_square=35.0,
    effective_sample_size=45.7,
    weights_epoch=2,
    weights_version=17,
    refused_versions={"calibration": 2},
    targets={
        "directory": TargetFigures(version="000002-0000000017", published=17),
        "redis": TargetFigures(published=9, waiting=3, retries=4, dropped=5, is_away=True),
    },
    cuts=3,
)


def registry_of(metrics: RunMetrics, *, clock: Callable[[], int] | None = None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: metrics, clock=clock))
    return registry


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("afterclick_events_total", {"kind": "impression"}, 900),
        ("afterclick_events_total", {"kind": "malformed"}, 2),
        ("afterclick_side_outputs_total", {"door": "late", "kind": "click"}, 3),
        ("afterclick_side_outputs_total", {"door": "dead_letters", "kind": "impression"}, 2),
        ("afterclick_feature_faults_total", {"feature": "price"}, 4),
        ("afterclick_examples_total", {"kind": "OUTCOME"}, 30),
        ("afterclick_open_impressions", {}, 11),
        ("afterclick_open_clicks", {}, 10),
        ("afterclick_remembered_impressions", {}, 7),
        ("afterclick_pending_records", {}, 6),
        ("afterclick_held_facts", {}, 5),
        ("afterclick_open_predictions", {}, 4),
        ("afterclick_steps_total", {}, 9),
        ("afterclick_taught_rows_total", {}, 930),
        ("afterclick_refused_batches_total", {"reason": "not_finite"}, 1),
        ("afterclick_conversion_delay_seconds_bucket", {"le": "1.0"}, 3),
        ("afterclick_conversion_delay_seconds_bucket", {"le": "2.0"}, 8),
        ("afterclick_conversion_delay_seconds_bucket", {"le": "+Inf"}, 10),
        ("afterclick_kappa_ratio", {}, 0.93),
        ("afterclick_conversion_rows_total", {}, 50),
        ("afterclick_conversion_weight_total", {}, 40),
        ("afterclick_conversion_weight_square_total", {}, 35),
        ("afterclick_effective_sample_size", {}, 45.7),
        ("afterclick_open_clicks_scored", {"whose": "model"}, 800),
        ("afterclick_expected_conversions", {"whose": "model"}, 20),
        ("afterclick_early_conversions", {"whose": "model"}, 25),
        ("afterclick_early_conversions_ratio", {"whose": "model"}, 1.25),
        ("afterclick_early_conversions_ratio_low", {"whose": "model"}, 0.8),
        ("afterclick_early_conversions_ratio_high", {"whose": "model"}, 1.9),
        ("afterclick_early_conversions_on_prior", {"whose": "model"}, 1),
        ("afterclick_loss_nats", {}, 0.21),
        ("afterclick_embedding_rows", {}, 321),
        ("afterclick_weights_epoch", {}, 2),
        ("afterclick_weights_version", {}, 17),
        ("afterclick_refused_versions_total", {"reason": "calibration"}, 2),
        ("afterclick_refused_versions_total", {"reason": "held"}, 0),
        ("afterclick_target_versions_total", {"target": "directory"}, 17),
        ("afterclick_target_versions_total", {"target": "redis"}, 9),
        ("afterclick_target_waiting_versions", {"target": "redis"}, 3),
        ("afterclick_target_retries_total", {"target": "redis"}, 4),
        ("afterclick_target_dropped_versions_total", {"target": "redis"}, 5),
        ("afterclick_target_is_away", {"target": "redis"}, 1),
        ("afterclick_cuts_total", {}, 3),
        ("afterclick_watermark_timestamp_seconds", {}, 1_700_000_000),
        ("afterclick_event_timestamp_seconds", {}, 1_700_000_010.5),
        ("afterclick_watermark_lag_seconds", {}, 10.5),
        ("afterclick_calibration_ratio", {"task": "ctr", "whose": "served"}, 1.05),
        ("afterclick_broker_is_away", {}, 1),
        ("afterclick_normalized_entropy", {"task": "ctr", "whose": "model"}, 0.957),
        ("afterclick_log_loss_mean_nats", {"task": "cvr", "whose": "model"}, 0.0125),
        ("afterclick_expected_calibration_error", {"task": "ctr", "whose": "model"}, 0.004),
        ("afterclick_auc", {"task": "ctr", "whose": "model"}, 0.71),
        ("afterclick_auc_error", {"task": "ctr", "whose": "model"}, 0.002),
        ("afterclick_scored_rows_total", {"task": "ctr", "whose": "model"}, 1_000),
        ("afterclick_predicted_positives_total", {"task": "ctr", "whose": "model"}, 52.5),
        ("afterclick_observed_positives_total", {"task": "cvr", "whose": "model"}, 0),
        ("afterclick_log_loss_nats_total", {"task": "ctr", "whose": "model"}, 190),
    ],
)
def test_every_figure_of_a_run_is_shown(name: str, labels: dict[str, str], value: float) -> None:
    assert registry_of(RUN).get_sample_value(name, labels) == pytest.approx(value)


def test_every_field_of_the_metrics_moves_something_that_is_shown() -> None:
    # Sums by hour are the report's: they carry a time each, and would never end as labels. Edges come with their counts.
    unshown = {"format", "hours", "delay_edges_ms"}
    blank = generate_latest(registry_of(RunMetrics(watermark_ms=0, max_event_time_ms=0)))
    for field in msgspec.structs.fields(RunMetrics):
        moved = RunMetrics(watermark_ms=0, max_event_time_ms=0)
        setattr(moved, field.name, getattr(RUN, field.name))
        if field.name == "delay_counts":
            moved.delay_edges_ms = RUN.delay_edges_ms
        assert (generate_latest(registry_of(moved)) == blank) == (field.name in unshown), field.name


@pytest.mark.parametrize("figure", ["calibration_ratio", "normalized_entropy", "auc", "auc_error"])
def test_a_figure_without_a_value_is_absent(figure: str) -> None:
    registry = registry_of(RUN)
    assert registry.get_sample_value(f"afterclick_{figure}", {"task": "cvr", "whose": "model"}) is None
    assert registry.get_sample_value(f"afterclick_{figure}", {"task": "ctr", "whose": "model"}) is not None


def test_before_the_first_record_there_is_no_watermark_and_no_loss() -> None:
    registry = registry_of(RunMetrics(), clock=lambda: 5_000)
    for name in ("watermark_lag_seconds", "watermark_age_seconds", "watermark_timestamp_seconds", "loss_nats"):
        assert registry.get_sample_value(f"afterclick_{name}") is None


def test_a_watermark_ahead_of_the_newest_event_lags_by_nothing() -> None:
    registry = registry_of(RunMetrics(watermark_ms=144_000, max_event_time_ms=100_000))
    assert registry.get_sample_value("afterclick_watermark_lag_seconds") == 0


def test_a_loss_that_is_not_finite_is_absent() -> None:
    assert registry_of(RunMetrics(last_loss=float("nan"))).get_sample_value("afterclick_loss_nats") is None


def test_processing_time_is_shown_only_where_a_clock_is_given() -> None:
    name = "afterclick_watermark_age_seconds"
    assert registry_of(RUN).get_sample_value(name) is None
    assert registry_of(RUN, clock=lambda: 1_700_000_090_000).get_sample_value(name) == 90


def test_doors_and_kinds_stand_at_zero_before_anything_happened() -> None:
    registry = registry_of(RunMetrics())
    for door in SIDE_OUTPUTS:
        for kind in ("impression", "click", "conversion"):
            labels = {"door": door, "kind": kind}
            assert registry.get_sample_value("afterclick_side_outputs_total", labels) == 0
    assert registry.get_sample_value("afterclick_events_total", {"kind": "click"}) == 0
    assert registry.get_sample_value("afterclick_examples_total", {"kind": "DELAYED_POSITIVE"}) == 0


def test_a_scrape_shows_the_value_the_pipeline_put_there_last_and_changes_nothing() -> None:
    current = [RUN]
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: current[0]))
    before = msgspec.json.encode(RUN)
    generate_latest(registry)
    assert msgspec.json.encode(RUN) == before
    current[0] = RunMetrics(steps=10)
    assert registry.get_sample_value("afterclick_steps_total") == 10


def test_the_metrics_are_read_once_a_scrape() -> None:
    reads: list[int] = []

    def read() -> RunMetrics:
        reads.append(1)
        return RUN

    list(RunCollector(read).collect())
    assert len(reads) == 1


def test_the_text_parses_and_names_and_labels_keep_the_conventions() -> None:
    families = list(text_string_to_metric_families(generate_latest(registry_of(RUN, clock=lambda: 0)).decode()))
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"kind", "door", "feature", "reason", "task", "whose", "target", "le", "p"}
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("afterclick_")
        assert family.documentation
        assert not family.name.endswith(("_ms", "_milliseconds", "_percent"))
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert (family.type == "histogram") == sample.name.endswith("_bucket")


def test_every_refusal_of_the_safeguards_is_shown() -> None:
    refusals = Refusals(Safeguards(breaker_armed_after=1, breaker_min_rows=1))
    refusals.observe_outcomes(100, 1)
    found = [
        refusals.of_predictions(np.array([0.9]), clicked=np.array([True])),
        refusals.of_loss(1e6, rows=1),
        refusals.of_loss(float("nan"), rows=1),
    ]
    reasons = [refusal.reason for refusal in found if refusal is not None]
    assert len(reasons) == 3
    registry = registry_of(RunMetrics(refused_batches={reasons[0]: 2}))
    shown = [registry.get_sample_value("afterclick_refused_batches_total", {"reason": reason}) for reason in reasons]
    assert shown == [2, 0, 0]


def test_hostile_label_values_survive_the_text_format() -> None:
    name = 'a"b\\c\nd<script>'
    text = generate_latest(registry_of(RunMetrics(feature_faults={name: 1}))).decode()
    [family] = [f for f in text_string_to_metric_families(text) if f.name == "afterclick_feature_faults"]
    assert [sample.labels["feature"] for sample in family.samples] == [name]


def test_serves_over_http_until_closed() -> None:
    with serve(RunCollector(lambda: RUN), 0) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
            text = answer.read().decode()
        assert "afterclick_steps_total 9.0" in text
        assert "python_info" not in text, "the registry must be its own"
        port = server.port
    server.close()
    with serve(RunCollector(lambda: RUN), port, host="127.0.0.1") as again:
        assert again.port == port


def test_only_this_machine_is_answered_unless_asked_otherwise() -> None:
    with serve(RunCollector(lambda: RUN), 0) as server, pytest.raises(OSError, match=r"refused|requested address"):
        # What listens on every address answers here too.
        socket.create_connection(("127.0.0.2", server.port), timeout=1)


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with (
        serve(RunCollector(lambda: RUN), 0, host="127.0.0.1") as server,
        pytest.raises(
            MetricsPortError, match=rf"metrics port {server.port} on 127\.0\.0\.1 is in use: stop .* or choose"
        ),
    ):
        serve(RunCollector(lambda: RUN), server.port, host="127.0.0.1")


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(MetricsPortError, match=rf"between 0 and 65535 \(got {port}\)"):
        serve(RunCollector(lambda: RUN), port)


def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(MetricsPortError, match=r"on 203\.0\.113\.7 cannot be listened on"):
        serve(RunCollector(lambda: RUN), 0, host="203.0.113.7")
