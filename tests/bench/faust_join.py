"""One `afterclick join` worker beside a Faust agent that does nothing but count: events a second, each with the whole backlog before it.

    PYTHONPATH=tests faust_join.py [--impressions N]        wants a broker: AFTERCLICK_TEST_KAFKA, or KAFKA_HOME and java

Both read the same records, in blocks, from one broker on this machine. The rate of the join is from its first record to its last, snapshots and
commits in between; that of the counting agent likewise. Prints one JSON line.
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="join_bench_") as named:
        folder = Path(named)
        generate(folder / "log", World(impressions=arguments.impressions, days=7.0))
        kafka = kafka_server(folder / "kafka", os.environ)
        try:
            told = load(folder / "log" / "settings.toml", {})
            settings = msgspec.structs.replace(
                told,
                # A thin log of days is read in minutes: nobody is to wait for streams that are a quarter of an hour apart in it.
                event_time=msgspec.structs.replace(told.event_time, alignment_ms=30 * DAY_MS),
                kafka=Kafka(bootstrap_servers=(kafka.bootstrap,), model="bench", partitions=PARTITIONS),
            )
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
