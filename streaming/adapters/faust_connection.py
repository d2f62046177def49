"""How a Faust app is told where to connect and what not to do. Decides nothing about records."""

from __future__ import annotations

import ssl
from typing import Any

import faust
from aiokafka.helpers import create_ssl_context
from yarl import URL

from streaming.adapters.kafka_connection import BrokerError
from streaming.connection import SECRETS, Credentials, Kafka


def faust_options(settings: Kafka, secret: Credentials) -> dict[str, Any]:
    """What the app of a worker is made with.

    Raises:
        BrokerError: SASL is asked for, and something that it needs is not there.
    """
    session_s = settings.session_timeout_ms / 1_000
    return {
        "broker": [URL(f"kafka://{address}") for address in settings.bootstrap_servers],
        "broker_credentials": _credentials(settings, secret),
        "broker_client_id": f"afterclick-{settings.model}-join",
        "store": "memory://",
        "web_enabled": False,
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "stream_wait_empty": False,
        "processing_guarantee": "at_least_once",
        "consumer_auto_offset_reset": "earliest",
        "broker_max_poll_records": settings.max_poll_records,
        "consumer_max_fetch_size": settings.max_partition_fetch_bytes,
        "broker_session_timeout": session_s,
        "broker_heartbeat_interval": session_s / 10,
        "broker_request_timeout": max(session_s * 2, 30.0),
        "broker_commit_every": 2**60,  # nothing is acked: there is nothing that Faust should commit
        "table_standby_replicas": 1,  # there are no tables; with 0, partitions of one number would be dealt to different workers
        "worker_redirect_stdouts": False,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }


def _credentials(settings: Kafka, secret: Credentials) -> Any:
    context = None
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        context = create_ssl_context(
            cafile=settings.ssl_cafile, certfile=settings.ssl_certfile, keyfile=settings.ssl_keyfile
        )
        context.check_hostname = settings.ssl_check_hostname
        context.verify_mode = ssl.CERT_REQUIRED
    if settings.security_protocol == "SSL":
        return faust.SSLCredentials(context)
    if settings.security_protocol == "PLAINTEXT":
        return None
    if settings.sasl_mechanism is None or secret.username is None or secret.password is None:
        raise BrokerError(
            f"kafka.sasl_mechanism, {' and '.join(SECRETS.values())} must be set for kafka.security_protocol = {settings.security_protocol!r}"
        )
    return faust.SASLCredentials(
        username=secret.username, password=secret.password, ssl_context=context, mechanism=settings.sasl_mechanism
    )
