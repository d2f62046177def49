"""Rounds of harm to `afterclick join`: workers killed, stopped, crashed in the middle of a snapshot, added and removed, the broker and Redis restarted.

Each round has topics of its own, three workers on six partitions, records that keep coming, and faults drawn from the seed; in the end the examples
by identity must be those of a replay. A worker that ended by itself is started again, as whoever runs it would.

    PYTHONPATH=tests python tests/chaos/join_chaos.py --rounds 50 --seed 1 [--store redis] [--keep DIR]

Snapshots lie in a directory, or in a Redis with an append-only file, which is killed as well.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from join_faults import JoinRun, assert_as_replayed, join_settings
from services import Server, kafka_server, redis_server
from worlds import small_log

FEED_S = 25.0
IDLE_MS = 5_000
"""Longer than a producer takes to send again what a broker that crashed had not acknowledged: else its stream is taken for idle, and conversions are late."""

FAULTS = ("kill", "kill", "stop", "long stop", "crash in a snapshot", "crash in a snapshot", "add", "remove", "broker")


class Round:
    """One round; `faults` tells what was done."""

    def __init__(self, kafka: Server, folder: Path, log: Path, seed: int, redis: Server | None) -> None:
        self._kafka, self._redis, self._log, self._rng = kafka, redis, log, random.Random(seed)
        self._faults = FAULTS if redis is None else (*FAULTS, "redis")
        store = None if redis is None else f"redis://{redis.bootstrap}/0"
        settings = join_settings(kafka, log, partitions=6, idle_timeout_ms=IDLE_MS)
        self.run = JoinRun(folder, settings, log, store=store)
        self.run.tend = self._tend
        self._asleep: dict[int, float] = {}
        self._doomed: set[int] = set()
        self.faults: Counter[str] = Counter()

    def go(self) -> Counter[str]:
        """Feeds, hurts, waits, compares; how often examples were appended."""
        try:
            for _ in range(3):
                self.run.start()
            self.run.feed(seconds=FEED_S)
            begun = time.monotonic()
            self.run.until(lambda: sum(self.run.ends().values()) > 0, "a first block")
            while time.monotonic() - begun < FEED_S + 3.0:
                time.sleep(self._rng.uniform(0.1, 1.5))
                if len(self._alive()) >= 2:
                    self._hurt(self._rng.choice(self._faults))
                self._tend()
            for number in list(self._asleep):
                self._wake(number)
            self.run.settle()
            return assert_as_replayed(self.run, self._log)
        finally:
            self.run.close()

    def _alive(self) -> list[int]:
        workers = enumerate(self.run.workers)
        return [number for number, worker in workers if worker.poll() is None and number not in self._asleep]

    def _hurt(self, fault: str) -> None:
        alive = self._alive()
        if not alive:
            return
        number = self._rng.choice(alive)
        if fault == "kill":
            self.run.signal(number, signal.SIGKILL)
            self._doomed.add(number)
        elif fault in ("stop", "long stop"):
            self.run.signal(number, signal.SIGSTOP)
            self._asleep[number] = time.monotonic() + (
                self._rng.uniform(0.3, 3.0) if fault == "stop" else self._rng.uniform(7.0, 9.0)
            )
        elif fault == "crash in a snapshot":
            step = f"{self._rng.randint(1, 3)}@{self._rng.randint(1, 5)}"
            self._doomed.add(self.run.start({"AFTERCLICK_CRASH_AT": step}))
        elif fault == "add" and len(alive) < 5:
            self.run.start()
        elif fault == "remove":
            self.run.signal(number, signal.SIGTERM)
            self._doomed.add(number)
        elif fault == "broker" and not self.faults["broker"]:
            self._kafka.kill()
            time.sleep(self._rng.uniform(0.1, 2.0))
            self._kafka.start()
        elif fault == "redis" and self._redis is not None:
            self._redis.kill()
            time.sleep(self._rng.uniform(0.1, 2.0))
            self._redis.start()
        self.faults[fault] += 1

    def _tend(self) -> None:
        """Wakes who has slept, starts again who ended by itself, keeps three alive."""
        for number, due in list(self._asleep.items()):
            if time.monotonic() > due:
                self._wake(number)
        for number, worker in enumerate(self.run.workers):
            if worker.poll() is not None and number not in self._doomed:
                self._doomed.add(number)
                self.faults["ended by itself"] += 1
                print(
                    f"    worker {number} ended by itself ({worker.returncode}): {self.run.said(number)[-300:]}",
                    flush=True,
                )
        while len(self._alive()) + len(self._asleep) < 3:
            self.run.start()

    def _wake(self, number: int) -> None:
        del self._asleep[number]
        if self.run.workers[number].poll() is None:
            self.run.signal(number, signal.SIGCONT)


def main() -> None:
    """Rounds, each with a line of what was done; the first that fails ends it with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=("directory", "redis"), default="directory")
    parser.add_argument("--keep", type=Path, help="a directory where what workers say stays")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="join_chaos_") as told:
        folder = arguments.keep or Path(told)
        log = small_log(folder / "log", impressions=3_000, days=2.0, late_share=0.0, future_share=0.0)
        kafka = kafka_server(folder / "kafka", os.environ)
        redis = redis_server(folder / "redis", os.environ) if arguments.store == "redis" else None
        try:
            for number in range(arguments.rounds):
                seed = arguments.seed + number
                one = Round(kafka, folder / str(seed), log, seed, redis)
                counts = one.go()
                done = ", ".join(f"{fault} {count}" for fault, count in sorted(one.faults.items()))
                print(f"round {number + 1} (seed {seed}): {dict(counts)}; {done}", flush=True)
        finally:
            kafka.close()
            if redis is not None:
                redis.close()


if __name__ == "__main__":
    main()
