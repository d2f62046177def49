"""`run` on a real broker: how fast it works off a backlog beside training from memory, and how long an example waits until it is learned.

    live.py throughput [--impressions N] [--partitions P]
    live.py latency [--rate 1000] [--seconds 40] [--partitions P]

The broker is found as the tests find one (tests/services.py). Latency: from the look at which p's watermark passed the due time, by the tape of
the run, to the end of the step that learned the example; the batch's linger is in it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from end_to_end import batches_of, from_memory
from services import kafka_server

from streaming.adapters.kafka_feed import KafkaFeed
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.adapters.pace import Paced
from streaming.adapters.tape import TapePolls
from streaming.connection import Credentials, Kafka
from streaming.lab.world import World, generate
from streaming.live import LiveSource
from streaming.live_run import LiveRun
from streaming.log_source import LogSource
from streaming.metrics import RunMetrics
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
        now = live.pipeline._counts.taught
        if now > taught:
            taught, ended = now, time.perf_counter()
        if read >= records and time.perf_counter() - ended > 3.0:  # nothing moves any more
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
    log, tape = folder / "log", folder / "tape"
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
    create_topics(settings, Credentials())
    live = LiveRun(folder / "run", settings, begin="earliest", record=tape, environ={})
    producer = threading.Thread(target=produce, args=(log, settings), kwargs={"speed": speed})
    learned_ms: dict[int, float] = {}
    seen = 0
    for number, _ in enumerate(live.run()):
        if number == 0:
            producer.start()
        now_ms, steps = time.time() * 1000, live.pipeline._learner.step
        for step in range(seen + 1, steps + 1):
            learned_ms[step] = now_ms
        seen = steps
        if number % 20 == 0 and not producer.is_alive() and is_over(live.pipeline.metrics()):
            live.stop()
    live.close()
    return told(waits_of(folder / "run", tape, settings, learned_ms)) | {"events_a_second": args.rate}


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("throughput", "latency"))
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=1_000, help="impressions a second")
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--partitions", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        server = kafka_server(Path(name) / "kafka", os.environ)
        try:
            found = (throughput if args.what == "throughput" else latency)(Path(name), server.bootstrap, args)
        finally:
            server.close()
    print(json.dumps({"bench": f"live {args.what}"} | found))


if __name__ == "__main__":
    main()
