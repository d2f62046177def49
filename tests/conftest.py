"""Puts this folder on the path of every test below it, so that `from fabricate import ...` finds what tests share; the real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
from services import Server, had_or_skipped, kafka_server, redis_server

# How long an example takes says something of the machine, and of what else it does.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Kafka broker, for a worker's whole session: tests keep apart by the names of their models."""
    server = had_or_skipped(lambda: kafka_server(tmp_path_factory.mktemp("kafka"), os.environ))
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis, for a worker's whole session: tests keep apart by the names of their models."""
    server = had_or_skipped(lambda: redis_server(tmp_path_factory.mktemp("redis"), os.environ))
    yield server
    server.close()
