"""One `afterclick join` worker beside a Faust agent that does nothing but count: events a second, each with the whole backlog before it.

    PYTHONPATH=tests faust_join.py [--impressions N]             wants a broker: AFTERCLICK_TEST_KAFKA, or KAFKA_HOME and java
    PYTHONPATH=tests faust_join.py --workers 3 [--impressions N]

Both read the same records, in blocks, from one broker on this machine. The rate of the join is from its first record to its last, snapshots and
commits in between; that of the counting agent likewise. With --workers: how much one, two and so many workers of one group do together, from where
each of them has begun to where the first has no more, and what a record costs them of processor time. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
from join_faults import JoinRun
from services import Server, free_ports, kafka_server

from streaming.connection import Kafka
from streaming.events import RecordKind
from streaming.lab.world import World, generate
from streaming.settings import Settings, load

NOOP = Path(__file__).parent / "baselines" / "faust_noop.py"
PARTITIONS = 3
DAY_MS = 86_400_000
PATIENCE_S = 240.0


def main() -> None:
    """Makes a log, feeds it into topics, lets each read it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=150_000)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="join_bench_") as named:
        folder = Path(named)
        generate(folder / "log", World(impressions=arguments.impressions, days=7.0))
        kafka = kafka_server(folder / "kafka", os.environ)
        try:
            settings = settings_of(folder / "log", kafka)
            if arguments.workers > 1:
                print(json.dumps(grown(folder, settings, arguments.workers)))
                return
            run = JoinRun(folder / "run", settings, folder / "log")
            try:
                run.feed()
                events = sum(end for _, end in run.offsets.bounds(run.streams()).values())
                shown = [f"{settings.kafka.topic('impressions')}[{p}]" for p in range(PARTITIONS)]
                noop = rate_of_noop(kafka, settings, sum(end for _, end in run.offsets.bounds(shown).values()))
                join = rate_of_join(run, events)
            finally:
                run.close()
        finally:
            kafka.close()
    print(
        json.dumps(
            {
                "bench": "faust_join",
                "events": events,
                "noop_events_per_second": round(noop),
                "join_events_per_second": round(join),
                "ratio": round(join / noop, 3),
            }
        )
    )


def settings_of(log: Path, kafka: Server) -> Settings:
    told = load(log / "settings.toml", {})
    # A thin log of days is read in minutes: nobody is to wait for streams that are a quarter of an hour apart in it.
    time_bounds = msgspec.structs.replace(told.event_time, alignment_ms=30 * DAY_MS)
    own = Kafka(bootstrap_servers=(kafka.bootstrap,), model="bench", partitions=PARTITIONS)
    return msgspec.structs.replace(told, event_time=time_bounds, kafka=own)


def grown(folder: Path, settings: Settings, most: int) -> dict[str, object]:
    """What one, two, ... workers do together."""
    found: dict[str, object] = {"bench": "faust_join workers"}
    for workers in range(1, most + 1):
        own = msgspec.structs.replace(settings.kafka, model=f"bench{workers}", partitions=2 * most)
        run = JoinRun(folder / str(workers), msgspec.structs.replace(settings, kafka=own), folder / "log")
        try:
            run.feed()
            found[str(workers)] = rate_of_workers(run, workers)
        finally:
            run.close()
    return found


def rate_of_workers(run: JoinRun, workers: int) -> dict[str, float]:
    ports = free_ports(workers)
    for port in ports:
        run.start(options=("--worker-port", str(port)))
    begun = time.monotonic()
    first: tuple[float, list[int], float] | None = None
    last: list[int] = []
    while time.monotonic() - begun < PATIENCE_S:
        time.sleep(0.5)
        now, counts = time.monotonic(), [events_at(port) for port in ports]
        pids = [worker.pid for worker in run.workers]
        if first is None:
            if all(counts):
                first = now, counts, cpu_seconds(pids)
        elif any(one == before for one, before in zip(counts, last, strict=True)):
            done = sum(counts) - sum(first[1])
            return {
                "events_per_second": round(done / (now - first[0])),
                "us_of_processor_an_event": round((cpu_seconds(pids) - first[2]) / done * 1e6),
                "seconds": round(now - first[0], 1),
            }
        last = counts
    raise SystemExit(f"it took too long: {run.said(0)}")


def cpu_seconds(pids: list[int]) -> float:
    """Processor time of some processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rate_of_noop(kafka: Server, settings: Settings, records: int) -> float:
    """From the first take that the counting agent tells of to the last; Faust prints what it says as a warning."""
    environ = os.environ | {"BROKER": kafka.bootstrap, "TOPIC": settings.kafka.topic(RecordKind.IMPRESSION.stem)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "faust", "-A", "faust_noop", "--datadir", folder, "worker", "-l", "warn"]
        agent = subprocess.Popen(
            command, cwd=NOOP.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        dead = threading.Timer(PATIENCE_S, agent.kill)
        dead.start()
        first: tuple[float, int] | None = None
        try:
            assert agent.stdout is not None
            for line in agent.stdout:
                if (found := re.search(r'{"records": (\d+)', line)) is None:
                    continue
                now, count = time.monotonic(), int(found[1])
                if first is None:
                    first = now, count
                elif count >= records:
                    return (count - first[1]) / (now - first[0])
        finally:
            dead.cancel()
            agent.send_signal(signal.SIGKILL)
            agent.wait()
    raise SystemExit("the counting agent ended, or took too long")


def rate_of_join(run: JoinRun, events: int) -> float:
    """Records taken by the worker's own count, over the time from the first to the last."""
    port = free_ports(1)[0]
    run.start(options=("--worker-port", str(port)))
    first: tuple[float, int] | None = None
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_S:
        time.sleep(0.1)
        now, count = time.monotonic(), events_at(port)
        if count and first is None:
            first = now, count
        if first is not None and count >= events:
            return (count - first[1]) / (now - first[0])
        if run.workers[0].poll() is not None:
            break
    raise SystemExit(f"the worker ended, or took too long: {run.said(0)}")


def events_at(port: int) -> int:
    """What the metrics of a worker say; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("afterclick_events_total{"))


if __name__ == "__main__":
    main()
