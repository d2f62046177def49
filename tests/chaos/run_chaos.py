"""`run` and `train` killed, paused and restarted again and again while traffic comes, and the broker too; at the end every example must be there once.

    run_chaos.py [--rounds 50] [--seed 0] [--impressions 20000] [--of run|train]

A round starts the command, under a random crash point or not, lets it work for a random while, and does one of: kill -9, SIGSTOP for a
while and SIGCONT, SIGTERM, kill -9 of the broker and a new start of it, kill -9 of the process that ingests. The same seed does the same; what it meets differs. Prints
one JSON line; exit code 1 if an example was lost, doubled or learned twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from joined_elsewhere import blocks_of
from services import Server, kafka_server
from test_live_run import Settled, go, identity, live_settings, rows_of
from worlds import small_log

from streaming.adapters.kafka_feed import KafkaFeed
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.adapters.pace import Paced
from streaming.connection import Credentials
from streaming.live_run import LiveRun
from streaming.log_source import LogSource
from streaming.replay import Replay
from streaming.settings import Settings, dump

COMMAND = [sys.executable, "-c", "from streaming.cli import main; main()"]
ACTIONS = ("kill", "kill", "stop", "term", "broker", "ingest", "crash", "crash")


def send_events(log: Path, settings: Settings, seconds: float) -> None:
    """The log into its topics, evenly over so many seconds."""
    source = LogSource(log, settings, block_bytes=16_384)
    sink = KafkaSink(settings.kafka, Credentials(), delivery_timeout_ms=300_000)
    feed = KafkaFeed(sink, settings.kafka)
    for arrivals in Paced(source, 2 * 86_400 / seconds):
        feed.produce(arrivals)
    sink.flush()
    sink.close()


def send_blocks(log: Path, settings: Settings, seconds: float) -> None:
    """What joiners make of it, some of it twice, evenly over so many seconds."""
    sink, rng = KafkaSink(settings.kafka, Credentials(), delivery_timeout_ms=300_000), random.Random(0)
    sink.partitions("examples")  # asked for while the broker is there
    sent = blocks_of(log, settings, 3)
    longest = max(map(len, sent))
    for number in range(longest):
        for p, blocks in enumerate(sent):
            for block in blocks[max(0, number - (3 if rng.random() < 0.05 else 0)) : number + 1]:
                sink.send("examples", block, partition=p)
        time.sleep(seconds / longest)
    sink.flush()
    sink.close()


def ingest_of(parent: int) -> int | None:
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
    workers = [int(line.split()[0]) for line in found.stdout.splitlines() if "ingest_worker" in line]
    return workers[0] if workers else None


def one_round(command: list[str], server: Server, rng: random.Random) -> str:
    action = rng.choice(ACTIONS)
    environ = dict(os.environ)
    if action == "crash":
        environ["AFTERCLICK_CRASH_AT"] = f"{rng.randint(1, 5)}@{rng.randint(1, 3)}"
    process = subprocess.Popen([*COMMAND, *command], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(rng.uniform(1.0, 6.0))
    if action == "stop":
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 3.0))
        process.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0.5, 2.0))
    elif action == "term":
        process.terminate()
        process.wait(timeout=60)
    elif action == "broker":
        server.kill()
        time.sleep(rng.uniform(0.2, 2.0))
        server.start()
        time.sleep(rng.uniform(0.5, 3.0))
    elif action == "ingest" and (worker := ingest_of(process.pid)) is not None:
        os.kill(worker, signal.SIGKILL)
        process.wait(timeout=60)
    elif action == "crash":
        time.sleep(rng.uniform(0.0, 4.0))
    if process.poll() is None:
        process.kill()
    _, said = process.communicate()
    if b"Traceback" in said:
        raise SystemExit(f"{action}: {said.decode()}")
    return f"{action} {process.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--impressions", type=int, default=20_000)
    parser.add_argument("--of", choices=("run", "train"), default="run")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = small_log(folder / "log", impressions=args.impressions, days=2.0, late_share=0.0, future_share=0.0)
        server = kafka_server(folder / "kafka", os.environ)
        try:
            settings = live_settings(server, log, labels={"method": "survival"})
            create_topics(settings, Credentials())
            (folder / "live.toml").write_text(dump(settings), encoding="utf-8")
            send = send_events if args.of == "run" else send_blocks
            sender = threading.Thread(target=send, args=(log, settings, args.rounds * 5.0))
            sender.start()
            command = [args.of, "--config", str(folder / "live.toml"), "--out", str(folder / "run")]
            done = Counter(one_round(command, server, rng) for _ in range(args.rounds))
            sender.join()
            of = "events" if args.of == "run" else "examples"
            live = LiveRun(folder / "run", settings, begin="earliest", record=None, environ={}, of=of)
            try:
                metrics = go(live, Settled())
            except AssertionError:
                subprocess.run([*COMMAND, "topics", "describe", "--run", str(folder / "run")])
                raise
        finally:
            server.close()
        for _ in Replay(log, folder / "replay", settings).run():
            pass
        reached_ms = min(own.watermark_ms or 0 for own in metrics.partitions.values())
        found, wanted = (
            Counter(identity(row) for row in rows_of(run) if row["due_ms"] < reached_ms)
            for run in (folder / "run", folder / "replay")
        )
        taught = sum(row["step"] is not None for row in rows_of(folder / "run"))
    verdict = {
        "chaos": args.of,
        "rounds": args.rounds,
        "seed": args.seed,
        "what": dict(sorted(done.items())),
        "examples": sum(wanted.values()),
        "lost": sum((wanted - found).values()),
        "beyond": sum((found - wanted).values()),
        "doubled": sum(count - 1 for count in found.values()),
        "learned": metrics.taught,
        "written_as_learned": taught,
    }
    print(json.dumps(verdict))
    is_right = not verdict["lost"] and not verdict["beyond"] and not verdict["doubled"]
    sys.exit(0 if is_right and metrics.taught == taught > 1_000 else 1)


if __name__ == "__main__":
    main()
