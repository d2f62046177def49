"""The sections about what becomes of weights: published, judged, kept in Redis, served. Must not know a log: all of it is the default."""

from __future__ import annotations

import json

from streaming.connection import API_KEY, REDIS_PASSWORD, SECRETS
from streaming.lab.toml_text import comment, duration, pair
from streaming.settings import Settings

_STANDARD = Settings()


def weights_sections() -> list[str]:
    """[publishing], [gate], [redis], [kafka] and [serving], every key with its default; one that is off by default stands behind a #."""
    return [_publishing(), _gate(), _redis(), _kafka(), _serving()]


def off(key: str, value: str, remark: str) -> str:
    """A key that is off as long as it is not written, with a value that it might have.

    Example:
        >>> print(off("row_norm_most", "100.0", "L2"))
        # row_norm_most = 100.0  # off; L2
    """
    return f"# {key} = {value}  # off; {remark}"


def _publishing() -> str:
    own = _STANDARD.publishing
    return "\n".join(
        [
            comment("Where weights go, and how often; docs/weights.md. No part of the result: it can be changed at any time."),
            "[publishing]",
            comment('RUN/weights, and besides "redis" (see [redis]) and "kafka" (see [kafka]).'),
            f"targets = {json.dumps(own.targets)}",
            pair("snapshot_every", own.snapshot_every, "so many versions from one snapshot to the next, deltas between; 1: snapshots alone"),
            off("delta_interval_ms", "60_000", "a delta at multiples of this, in event time, besides those of the cuts"),
            duration(
                "least_interval_ms",
                own.least_interval_ms,
                "Processing time between two such deltas.",
                "Catching up must not flood readers.",
            ),
            pair("epsilon", own.epsilon, "rows that moved no farther (L2) wait; above 0 it costs a copy of all vectors"),
            pair("row_format", own.row_format, '"fp16" halves the rows, "int8" quarters them'),
            duration("retry_ms", own.retry_ms, "Before a target that did not answer is tried again.", "Each time twice as long, up to retry_most_ms."),
            duration("retry_most_ms", own.retry_most_ms, "The longest such pause.", "Training goes on meanwhile."),
            pair("waiting_most", own.waiting_most, "versions kept for a target that is away; then a snapshot makes good for them"),
            duration(
                "close_timeout_ms",
                own.close_timeout_ms,
                "At the end of a run, how long targets have to take what still waits.",
                "The next run begins with a snapshot in any case.",
            ),
        ]
    )  # fmt: skip


def _gate() -> str:
    own = _STANDARD.gate
    return "\n".join(
        [
            comment(
                "Which versions are not published; docs/weights.md. NaN and infinity never are; every other rule is off until it is set. "
                "The first three judge by labels that no version has learned."
            ),
            "[gate]",
            off("calibration_least", "0.8", "pCVR over conversions, sum by sum"),
            off("calibration_most", "1.25", "the same"),
            off("log_loss_ratio_most", "1.05", "log loss of pCVR over that of the version served"),
            pair("held_out_share", own.held_out_share, "of impressions, that teach nothing where one of these three is set; 0: all teach"),
            pair("outcomes_kept", own.outcomes_kept, "the newest of their clicks with final labels, which judge"),
            pair("outcomes_least", own.outcomes_least, "with fewer they say nothing"),
            off("row_norm_most", "100.0", "L2 of a row, root mean square of a dense tensor"),
            off("join_coverage_least", "0.9", "clicks and conversions that found their impression in time, of all that left"),
            pair("on_refusal", own.on_refusal, '"stop" ends the run, "fall_back" trains on from the last version that passed'),
        ]
    )  # fmt: skip


def _redis() -> str:
    own = _STANDARD.redis
    return "\n".join(
        [
            comment(f'Which Redis, where publishing.targets names it. Its password comes from {REDIS_PASSWORD} alone.'),
            "[redis]",
            pair("url", own.url, "redis://, rediss:// (TLS) or unix://, without a password"),
            pair("model", own.model, "in each key, so that models share a Redis"),
            duration("timeout_ms", own.timeout_ms, "For one answer.", "Then it counts as away."),
            pair("chunk_bytes", own.chunk_bytes, "no value is longer, so that no command blocks the server for long"),
        ]
    )  # fmt: skip


def _kafka() -> str:
    own = _STANDARD.kafka
    user, password = SECRETS["username"], SECRETS["password"]
    return "\n".join(
        [
            comment(
                f"Which brokers and topics, for events (`run`, `join`, `train`) and weights; docs/kafka.md. User and password come from {user} and "
                f"{password} alone."
            ),
            "[kafka]",
            f'bootstrap_servers = {json.dumps(own.bootstrap_servers)}  # host:port; one that answers is enough',
            pair("model", own.model, "before each topic's name, so that models share brokers"),
            pair("partitions", own.partitions, "of the topics that `topics create` makes; the most processes that can share the join"),
            pair("replication", own.replication, "copies of each; 3 is usual where there are three brokers"),
            off("retention_ms", "604_800_000", "else attribution window + click window + 3 d"),
            pair("partitioner", own.partitioner, '"murmur2": Java, Faust, kafka-python; "crc32": librdkafka; "any": not checked'),
            pair("security_protocol", own.security_protocol, "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
            off("sasl_mechanism", '"SCRAM-SHA-512"', "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
            off("ssl_cafile", '"ca.pem"', "else the authorities that this machine trusts"),
            off("ssl_certfile", '"client.pem"', "this client's own"),
            off("ssl_keyfile", '"client.key"', "its key"),
            pair("ssl_check_hostname", own.ssl_check_hostname),
            duration("connect_timeout_ms", own.connect_timeout_ms, 'Until "cannot be reached" is said at start.', "Later it is tried for ever."),
            duration("poll_timeout_ms", own.poll_timeout_ms, "For the first record of one look.", "Then other work goes on."),
            pair("max_poll_records", own.max_poll_records, "of one look; more cost memory and gain nothing"),
            pair("fetch_max_bytes", own.fetch_max_bytes, "of one answer of a broker"),
            pair("max_partition_fetch_bytes", own.max_partition_fetch_bytes, "of one partition in it; at least the largest record"),
            duration("session_timeout_ms", own.session_timeout_ms, "`join`: a worker that says nothing for so long is taken for dead.", "Brokers allow 6 s to 30 min."),
            duration("snapshot_interval_ms", own.snapshot_interval_ms, "`join`: between two snapshots of a partition.", "So much a worker that takes over may have to read again."),
            pair("snapshots_kept", own.snapshots_kept, "`join`: of each partition"),
            pair("weights_chunk_bytes", own.weights_chunk_bytes, "of weights in one record; below message.max.bytes of the topic"),
            "",
            "[kafka.topics]",
            *(off(key, f'"{key}"', f"else {own.topic(key.replace('_', '-'))}") for key in own.topics.__struct_fields__),
        ]
    )  # fmt: skip


def _serving() -> str:
    own = _STANDARD.serving
    return "\n".join(
        [
            comment(f"`afterclick serve`; docs/serving.md. An API key, if there is one, comes from {API_KEY} alone."),
            "[serving]",
            comment("The ranking score is pctr^pctr_exponent * pcvr^pcvr_exponent * each factor of the request to its exponent."),
            pair("pctr_exponent", own.pctr_exponent),
            pair("pcvr_exponent", own.pcvr_exponent),
            off("factors", "{ bid = 1.0 }", "every item must then bring a number of that name"),
            pair("max_body_bytes", own.max_body_bytes, "of a request"),
            pair("max_items", own.max_items, "of a request"),
            duration("request_timeout_ms", own.request_timeout_ms, "For the whole body to arrive.", "Then 408."),
            pair("max_concurrent_requests", own.max_concurrent_requests, "more are told 503 at once"),
            off("max_watermark_age_ms", "3_600_000", "not ready when event time has run on for longer since the newest event learned"),
            off("max_version_age_ms", "3_600_000", "not ready when no newer version has come for longer"),
            pair("threads", own.threads, "torch's within an operation"),
            pair("unseen_alarm_share", own.unseen_alarm_share, "of a feature's newest ids without a row; above it an alarm rises"),
            pair("unseen_window", own.unseen_window, "ids of a feature over which that share is taken"),
        ]
    )  # fmt: skip
