"""`run` on a real broker: how fast it works off a backlog beside training from memory, how long an example waits until it is learned and until
it is served, and what publishing often costs.

    live.py throughput [--impressions N] [--partitions P]
    live.py latency [--rate 1000] [--seconds 40] [--partitions P]
    live.py freshness [--rate 1000] [--seconds 40] [--every-seconds 3]
    live.py steady [--rate 300] [--seconds 3600] [--partitions P]
    live.py rhythm [--impressions N] [--every-seconds 3] [--rounds 3]

Throughput: from the first record to the last of the backlog; what then still waits for streams to be idle is not counted.
The broker and Redis are found as the tests find them (tests/services.py). Latency: from the look at which p's watermark passed the due time, by the
tape of the run, to the end of the step that learned the example; the batch's linger is in it. Freshness: from the same look to weights in service, by
a scorer in a process of its own that follows Redis, of the first version whose steps learned the example. Rhythm: a replay with deltas every few
seconds into a directory and Redis, beside one that publishes with its cuts alone, in turns. Steady: memory of both processes by tenths of the time,
while four days of event time go by and windows close. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from end_to_end import batches_of, from_memory
from services import kafka_server, redis_server

from streaming.adapters.kafka_feed import KafkaFeed
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.adapters.pace import Paced
from streaming.adapters.redis_weights import RedisSource
from streaming.adapters.tape import TapePolls
from streaming.connection import Credentials, Kafka, Redis
from streaming.lab.world import World, generate
from streaming.live import LiveSource
from streaming.live_run import LiveRun
from streaming.log_source import LogSource
from streaming.metrics import RunMetrics
from streaming.reader import WeightsReader
from streaming.replay import Replay
from streaming.settings import Settings, load

replace = msgspec.structs.replace


def settings_of(log: Path, bootstrap: str, partitions: int, **sections: dict[str, object]) -> Settings:
    """Those of the log, with the shapes that section 13 of the design speaks of, on this broker."""
    settings = load(log / "settings.toml", {})
    wide = {"network": {"embedding_width": 16, "towers": (256, 128, 64)}} | sections
    own = {name: replace(getattr(settings, name), **keys) for name, keys in wide.items()}
    kafka = Kafka(bootstrap_servers=(bootstrap,), partitions=partitions, model=f"bench{os.getpid()}-{time.time_ns()}")
    return replace(settings, **own, kafka=kafka)


def produce(log: Path, settings: Settings, *, speed: float | None) -> int:
    create_topics(settings, Credentials())
    sink = KafkaSink(settings.kafka, Credentials())
    feed = KafkaFeed(sink, settings.kafka)
    source = LogSource(log, settings, block_bytes=1 << 20 if speed is None else 4096)
    for arrivals in source if speed is None else Paced(source, speed):
        feed.produce(arrivals)
    sink.flush()
    sink.close()
    return sum(feed.produced.values())


def is_over(metrics: RunMetrics) -> bool:
    return bool(metrics.partitions) and all(own.is_idle for own in metrics.partitions.values())


def throughput(folder: Path, bootstrap: str, args: argparse.Namespace) -> dict[str, object]:
    log = folder / "log"
    generate(log, World(impressions=args.impressions, days=4.0, attribution_window_ms=86_400_000, future_share=0.0))
    times = {"idle_timeout_ms": 2_000, "stall_hold_ms": 1}
    settings = settings_of(log, bootstrap, args.partitions, event_time=times)
    records = produce(log, settings, speed=None)
    batches = batches_of(log, settings)
    memory = max(from_memory(batches, settings) for _ in range(2))
    live = LiveRun(folder / "run", settings, begin="earliest", record=None, environ={})
    began, taught, ended, read = None, 0, 0.0, 0
    memory_mib: list[list[int]] = []
    for count in live.run():
        began = time.perf_counter() if began is None and count else began
        read += count
        if read >= records * (len(memory_mib) + 1) / 10:
            memory_mib.append([resident_mib(pid) for pid in (os.getpid(), ingest_process())])
        if read < records:  # what comes of the rest waits for the streams to be idle
            taught, ended = live.pipeline._counts.taught, time.perf_counter()
        else:
            live.stop()
    live.close()
    assert began is not None
    rate = taught / (ended - began)
    return {
        "training_from_memory": round(memory),
        "run": round(rate),
        "ratio": round(rate / memory, 3),
        "to_reach": 0.65,
        "records": records,
        "learner_and_ingest_mib_by_tenths": memory_mib,
    }


def steady(folder: Path, bootstrap: str, args: argparse.Namespace) -> dict[str, object]:
    log, days = folder / "log", 4.0
    world = World(impressions=args.rate * args.seconds, days=days, attribution_window_ms=86_400_000, future_share=0.0)
    generate(log, world)
    settings = settings_of(log, bootstrap, args.partitions, event_time={"idle_timeout_ms": 3_000, "stall_hold_ms": 1})
    memory_mib: list[list[int]] = []
    begun, figures = time.monotonic(), RunMetrics()

    def on_step(live: LiveRun) -> None:
        nonlocal figures
        if len(memory_mib) < 10 and time.monotonic() - begun >= args.seconds * (len(memory_mib) + 1) / 10:
            memory_mib.append([resident_mib(pid) for pid in (os.getpid(), ingest_process())])
            figures = live.pipeline.metrics()

    went_live(folder, settings, None, days * 86_400 / args.seconds, on_step)
    return {
        "impressions_a_second": args.rate,
        "seconds": args.seconds,
        "events": sum(figures.events.values()),
        "learner_and_ingest_mib_by_tenths": memory_mib,
    }


def resident_mib(pid: int) -> int:
    """Memory of a process that is in RAM; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def ingest_process() -> int:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    named = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next((pid for pid, name in named.items() if b"ingest_worker" in name), 0)


def latency(folder: Path, bootstrap: str, args: argparse.Namespace) -> dict[str, object]:
    settings, tape, speed = live_of(folder, bootstrap, args)
    learned_ms: dict[int, float] = {}

    def on_step(live: LiveRun) -> None:
        now_ms, steps = time.time() * 1000, live.pipeline._learner.step
        for step in range(len(learned_ms) + 1, steps + 1):
            learned_ms[step] = now_ms

    went_live(folder, settings, tape, speed, on_step)
    return told(waits_of(folder / "run", tape, settings, learned_ms)) | {"events_a_second": args.rate}


def freshness(folder: Path, bootstrap: str, args: argparse.Namespace) -> dict[str, object]:
    server = redis_server(folder / "redis", os.environ)
    settings, tape, speed = live_of(folder, bootstrap, args)
    at = Redis(url=f"redis://{server.bootstrap}/0", model=settings.kafka.model)
    publishing = {
        "targets": ("directory", "redis"), "delta_interval_ms": round(1_000 * args.every_seconds * speed), "snapshot_every": 240
    }  # fmt: skip
    cuts = replace(settings.cuts, cut_interval_ms=round(10_000 * speed))  # deltas begin with the first
    settings = replace(settings, redis=at, cuts=cuts, publishing=replace(settings.publishing, **publishing))
    command = [sys.executable, __file__, "follow", "--redis", at.url, "--model", at.model]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    assert follower.stdout.readline() == "ready\n"
    steps_at: dict[int, int] = {}  # of a version, how many steps have been made

    def on_step(live: LiveRun) -> None:
        steps_at.setdefault(live.pipeline._counts.weights_version, live.pipeline._learner.step)

    try:
        went_live(folder, settings, tape, speed, on_step)
        time.sleep(1.0)
    finally:
        follower.terminate()
        swaps = [line.split() for line in follower.stdout.read().splitlines()]
        server.close()
    served_ms: dict[int, float] = {}
    for version, at_ms in swaps[:-1]:  # the last one is the snapshot that the end of the run publishes
        for step in range(len(served_ms) + 1, steps_at.get(int(version), 0) + 1):
            served_ms[step] = float(at_ms)
    found = told(waits_of(folder / "run", tape, settings, served_ms))
    return found | {"events_a_second": args.rate, "every_seconds": args.every_seconds, "swaps": len(swaps)}


def follow(args: argparse.Namespace) -> None:
    """Follows Redis as a scorer does, and tells when each version came into service."""
    reader = WeightsReader(RedisSource(Redis(url=args.redis, model=args.model), None), clock=lambda: 0)
    reader.poll()
    print("ready", flush=True)
    while True:
        if reader.poll() and reader.served is not None:
            print(reader.served.version[1], time.time() * 1000, flush=True)
        time.sleep(0.1)


def rhythm(folder: Path, _bootstrap: str, args: argparse.Namespace) -> dict[str, object]:
    log = folder / "log"
    generate(log, World(impressions=args.impressions, days=4.0, attribution_window_ms=86_400_000, future_share=0.0))
    server = redis_server(folder / "redis", os.environ)
    ways = {
        "cuts alone": {},
        "often": {"delta_interval_ms": 60_000, "least_interval_ms": round(1_000 * args.every_seconds), "snapshot_every": 240},
    }  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": [], "versions": []} for name in ways}
    taught = 0
    try:
        for number in range(args.rounds):
            for name, keys in ways.items():
                settings = settings_of(log, "none", 1, publishing={"targets": ("directory", "redis")} | keys)
                at = Redis(url=f"redis://{server.bootstrap}/0", model=f"{number}{name[0]}")
                replay = Replay(log, folder / f"{name}{number}", replace(settings, redis=at), tell=print)
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in replay.run():
                    pass
                found[name]["wall"].append(time.perf_counter() - wall)
                found[name]["cpu"].append(time.process_time() - cpu)
                found[name]["versions"].append(replay.pipeline.live_metrics().targets["directory"].published)
                taught = replay.pipeline.metrics().taught
    finally:
        server.close()
    medians = {name: {key: statistics.median(values) for key, values in own.items()} for name, own in found.items()}
    return {
        "rows": taught,
        "rows_a_second": {name: round(taught / own["wall"]) for name, own in medians.items()},
        "versions": {name: round(own["versions"]) for name, own in medians.items()},
        "wall_ratio": round(medians["often"]["wall"] / medians["cuts alone"]["wall"], 3),
        "cpu_ratio": round(medians["often"]["cpu"] / medians["cuts alone"]["cpu"], 3),
        "every_seconds": args.every_seconds,
    }


def live_of(folder: Path, bootstrap: str, args: argparse.Namespace) -> tuple[Settings, Path, float]:
    """A log that lasts as long as it is told to, its settings, where its tape goes, and how much faster its time is than ours."""
    log = folder / "log"
    # A world lasts a quarter of an hour at least, so its time goes faster than ours, and what is told in event time is longer by as much.
    days = 0.01
    speed = days * 86_400 / args.seconds
    world = World(
        impressions=args.rate * args.seconds, days=days, ctr=0.1, cvr=0.2, click_window_ms=round(1_000 * speed),
        attribution_window_ms=max(round(4_000 * speed), 60_000), future_share=0.0, late_share=0.0,
    )  # fmt: skip
    generate(log, world)
    settings = settings_of(
        log,
        bootstrap,
        args.partitions,
        event_time={"idle_timeout_ms": 3_000, "stall_hold_ms": 1},
        windows={"observation_window_ms": round(2_000 * speed)},
        batching={"batch_interval_ms": round(60_000 * speed)},
        cuts={"cut_interval_ms": round(600_000 * speed)},
    )
    return settings, folder / "tape", speed


def went_live(
    folder: Path, settings: Settings, tape: Path | None, speed: float, on_step: Callable[[LiveRun], None]
) -> None:
    """Runs while the log is produced, until all is over."""
    create_topics(settings, Credentials())
    live = LiveRun(folder / "run", settings, begin="earliest", record=tape, environ={}, tell=print)
    producer = threading.Thread(target=produce, args=(folder / "log", settings), kwargs={"speed": speed})
    for number, _ in enumerate(live.run()):
        if number == 0:
            producer.start()
        on_step(live)
        if number % 20 == 0 and not producer.is_alive() and is_over(live.pipeline.metrics()):
            live.stop()
    live.close()


def waits_of(run: Path, tape: Path, settings: Settings, learned_ms: dict[int, float]) -> list[float]:
    """Milliseconds from p's watermark passing the due time to the example learned, of each one that was taught by a step."""
    polls = TapePolls(tape)
    source = LiveSource(polls, settings, partitions=polls.tape.partitions, places=polls.tape.places())
    passed: dict[int, tuple[list[int], list[int]]] = {}
    for arrivals in source:
        if arrivals.watermark_ms is not None and arrivals.now_ms is not None:
            marks, nows = passed.setdefault(arrivals.p, ([], []))
            marks.append(arrivals.watermark_ms)
            nows.append(arrivals.now_ms)
    with (run / "examples.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read().splitlines()
    waits = []
    for row in map(msgspec.json.decode, lines):
        if row["step"] in learned_ms:
            marks, nows = passed[row["p"]]
            first = int(np.searchsorted(marks, row["due_ms"], "right"))
            if first < len(nows):
                waits.append(learned_ms[row["step"]] - nows[first])
    return waits


def told(waits: list[float]) -> dict[str, object]:
    p50, p99 = np.percentile(waits, [50, 99])
    return {
        "examples": len(waits),
        "p50_ms": round(float(p50)),
        "p99_ms": round(float(p99)),
        "max_ms": round(max(waits)),
    }


BENCHES = {"throughput": throughput, "latency": latency, "freshness": freshness, "steady": steady, "rhythm": rhythm}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=(*BENCHES, "follow"))
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=1_000, help="impressions a second")
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--every-seconds", type=float, default=3.0, help="between two deltas, of our time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", help="follow: its address")
    parser.add_argument("--model", help="follow: in its keys")
    args = parser.parse_args()
    if args.what == "follow":
        follow(args)
        return
    with tempfile.TemporaryDirectory() as name:
        server = kafka_server(Path(name) / "kafka", os.environ)
        try:
            found = BENCHES[args.what](Path(name), server.bootstrap, args)
        finally:
            server.close()
    print(json.dumps({"bench": f"live {args.what}"} | found))


if __name__ == "__main__":
    main()
