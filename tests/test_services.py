"""Whoever needs a server and has none: skipped with the reason, failed where servers are required; a Redis can be had and killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis as client
import services
from services import NotToBeHadError, Server, had_or_skipped, kafka_server, redis_server


def none_to_be_had() -> Server:
    raise NotToBeHadError("no Docker daemon answers; KAFKA_HOME is not set")


def test_without_a_server_a_test_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFTERCLICK_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server: no Docker daemon answers; KAFKA_HOME"):
        had_or_skipped(none_to_be_had)


def test_where_servers_are_required_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERCLICK_REQUIRE_SERVICES", "1")
    with pytest.raises(
        pytest.fail.Exception, match="AFTERCLICK_REQUIRE_SERVICES is 1, and there is no server: no Docker"
    ):
        had_or_skipped(none_to_be_had)


def test_an_address_is_taken_first_and_is_not_ours_to_kill(tmp_path: Path) -> None:
    server = kafka_server(tmp_path, {"AFTERCLICK_TEST_KAFKA": "elsewhere:9092", "KAFKA_HOME": "/nowhere"})
    assert server.bootstrap == "elsewhere:9092"
    with pytest.raises(pytest.skip.Exception, match="elsewhere:9092 is not ours to kill"):
        server.kill()
    assert redis_server(tmp_path, {"AFTERCLICK_TEST_REDIS": "elsewhere:6379"}).bootstrap == "elsewhere:6379"


def test_all_that_was_tried_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_docker", none_to_be_had)
    with pytest.raises(
        NotToBeHadError, match=r"no Docker daemon answers.*; KAFKA_HOME is not set to an unpacked Kafka"
    ):
        kafka_server(tmp_path, {"KAFKA_HOME": str(tmp_path)})


def test_a_docker_that_does_not_answer_is_none(tmp_path: Path) -> None:
    for host in (f"unix://{tmp_path}/docker.sock", f"tcp://127.0.0.1:{services.free_ports(1)[0]}", "npipe:////./pipe"):
        with pytest.raises(NotToBeHadError, match="no Docker daemon answers at "):
            services._docker({"DOCKER_HOST": host})


@pytest.mark.integration
def test_redis_comes_back_with_its_data(redis: Server) -> None:
    redis.mortal()
    host, _, port = redis.bootstrap.rpartition(":")
    with client.Redis(host=host, port=int(port)) as one:
        one.set("afterclick:test", "kept")
    redis.kill()
    redis.start()
    with client.Redis(host=host, port=int(port)) as one:
        assert one.get("afterclick:test") == b"kept"
