"""A join on a real broker that tests may hurt: workers as processes of their own, records that keep coming, and what must be there in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from brokers import NOBODY, settings_on
from services import Server
from worlds import small_settings

from streaming.adapters.kafka_feed import KafkaFeed
from streaming.adapters.kafka_offsets import KafkaOffsets
from streaming.adapters.kafka_sink import KafkaSink
from streaming.adapters.kafka_topics import create_topics
from streaming.events import EventDecoder, RecordKind
from streaming.example_blocks import Tenure, decode_block
from streaming.examples import Example
from streaming.ingest import Ingest
from streaming.joiner import identity_of
from streaming.log_source import LogSource
from streaming.settings import Settings, dump

PATIENCE_S = 240.0
_WHERE = int(signal.SIGRTMIN)  # Faust takes SIGUSR1 for the same of its tasks
PROGRAM = f"import faulthandler; faulthandler.register({_WHERE}); from streaming.cli import main; main()"
"""Tells on a signal where each of its threads is."""

STILL_S = 9.0
"""More than `session_timeout_ms`: what a dead worker held goes to others after that, and they may have something to send."""


def join_settings(kafka: Server, log: Path, *, partitions: int, idle_timeout_ms: int = 500, **broker: Any) -> Settings:
    """Of a small log, with topics of their own, streams that are soon idle, and dead workers that are soon missed."""
    told = {"session_timeout_ms": 6_000, "snapshot_interval_ms": 500} | broker
    own = settings_on(kafka, partitions=partitions, **told)
    settings = small_settings(
        log,
        labels={"method": "survival"},
        event_time={"idle_timeout_ms": idle_timeout_ms, "stall_hold_ms": 1},
    )
    return msgspec.structs.replace(settings, kafka=own.kafka)


class JoinRun:
    """Workers of one group.

    Args:
        folder: for settings, snapshots and what the workers say. settings: of the model. log: what is fed in. store: of the snapshots.
    """

    def __init__(self, folder: Path, settings: Settings, log: Path, *, store: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.settings, self._log = folder, settings, log
        self._store = store or str(folder / "store")
        self.config = folder / "join.toml"
        self.config.write_text(dump(settings), encoding="utf-8")
        self.workers: list[subprocess.Popen[bytes]] = []
        create_topics(settings, NOBODY)
        self.offsets = KafkaOffsets(settings, NOBODY, f"{settings.kafka.model}.join")
        self._feeding: threading.Thread | None = None
        self.tend: Callable[[], object] = lambda: None
        """Called while something is waited for: starts workers again that ended by themselves, as whoever runs them would."""
        self.void = 0
        """Examples that workers appended which were asleep when others took their place."""

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
        if self._feeding is not None:
            self._feeding.join()
        self.offsets.close()

    def start(self, environ: Mapping[str, str] | None = None, *, options: Sequence[str] = ()) -> int:
        """A worker more; its number."""
        command = [sys.executable, "-c", PROGRAM, "join"]
        command += ["--config", str(self.config), "--store", self._store, *options]
        number = len(self.workers)
        with (self._folder / f"worker{number}.log").open("wb") as said:
            environment = os.environ | dict(environ or {})
            self.workers.append(subprocess.Popen(command, stdout=said, stderr=said, env=environment))
        return number

    def signal(self, number: int, by: signal.Signals) -> None:
        self.workers[number].send_signal(by)
        if by == signal.SIGKILL:
            self.workers[number].wait()

    def said(self, number: int) -> str:
        return (self._folder / f"worker{number}.log").read_text(errors="replace")

    def feed(self, seconds: float = 0.0) -> None:
        """The whole log into the topics, spread over so many seconds; returns at once if there are any."""
        everything = list(LogSource(self._log, self.settings, block_bytes=4_096))

        def work() -> None:
            sink = KafkaSink(self.settings.kafka, NOBODY)
            feed = KafkaFeed(sink, self.settings.kafka)
            begun = time.monotonic()
            for number, arrivals in enumerate(everything):
                feed.produce(arrivals)
                time.sleep(max(0.0, begun + seconds * number / len(everything) - time.monotonic()))
            sink.flush()
            sink.close()

        if seconds:
            self._feeding = threading.Thread(target=work)
            self._feeding.start()
        else:
            work()

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > deadline:
                alive = [number for number, worker in enumerate(self.workers) if worker.poll() is None]
                for number in alive:
                    self.workers[number].send_signal(_WHERE)
                time.sleep(1.0)
                told = "\n".join(
                    f"worker {number}{' (alive)' * (number in alive)}: {self.said(number)[-6_000:]}"
                    for number in range(len(self.workers))
                )
                told += f"\ncommitted {self.offsets.committed(self.streams())}\nthere are {self.offsets.bounds(self.streams())}"
                raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}\n{told}")
            self.tend()
            time.sleep(0.2)

    def streams(self) -> list[str]:
        names = [self.settings.kafka.topic(kind.stem) for kind in RecordKind]
        return [f"{name}[{p}]" for name in names for p in range(self.settings.kafka.partitions)]

    def is_committed(self) -> bool:
        """Whether all that was fed is in snapshots, and was committed."""
        if self._feeding is not None and self._feeding.is_alive():
            return False
        bounds = self.offsets.bounds(self.streams())
        committed = self.offsets.committed(self.streams())
        return all((committed[name] or 0) >= end for name, (_, end) in bounds.items())

    def settle(self) -> None:
        """Waits until all is committed and every partition has come to its end."""
        self.until(self.is_committed, "all committed")
        seen: list[Any] = [None]
        since = [time.monotonic()]

        def is_still() -> bool:
            found = self.ends()
            if found != seen[0]:
                seen[0], since[0] = found, time.monotonic()
            return time.monotonic() - since[0] > STILL_S

        self.until(is_still, "no more blocks come")
        last_ms = self.last_ms()
        self.until(lambda: self.is_at_end(last_ms), "every partition comes to its end")

    def examples_topics(self) -> list[str]:
        topic = self.settings.kafka.topic("examples")
        return [f"{topic}[{p}]" for p in range(self.settings.kafka.partitions)]

    def ends(self) -> dict[str, int]:
        return {name: end for name, (_, end) in self.offsets.bounds(self.examples_topics()).items()}

    def last_ms(self) -> list[int]:
        """How far each partition comes at least once its streams are idle: its newest event less the bound, and what a stall may hold back."""
        newest = [0] * self.settings.kafka.partitions
        for name, (first, end) in self.offsets.bounds(self.streams()).items():
            topic, _, p = name[:-1].rpartition("[")
            kind = next(kind for kind in RecordKind if self.settings.kafka.topic(kind.stem) == topic)
            values = [value or b"" for _, _, value in self.offsets.records(name, first, end)]
            events, _ = EventDecoder(kind, getattr(self.settings.log, kind.stem)).decode_apart(values)
            newest[int(p)] = max([newest[int(p)], *(event.event_time_ms for event in events)])
        times = self.settings.event_time
        return [ms - times.out_of_orderness_ms - times.stall_hold_ms for ms in newest]

    def is_at_end(self, last_ms: Sequence[int]) -> bool:
        reached = self.emitted()[1]
        return all(ms is not None and ms >= last for ms, last in zip(reached, last_ms, strict=True))

    def late(self) -> list[str]:
        """Records that came too late, as the workers told of them."""
        topic = self.settings.kafka.topic("late")
        names = [f"{topic}[{p}]" for p in range(self.settings.kafka.partitions)]
        bounds = self.offsets.bounds(names)
        return [
            (value or b"").decode(errors="replace")
            for name, (_, end) in bounds.items()
            for _, _, value in self.offsets.records(name, 0, end)
        ]

    def emitted(self) -> tuple[list[Example], list[int | None]]:
        """All examples in the topic that are not void, in order of p and offset, and the watermark that each p has reached."""
        examples: list[Example] = []
        reached: list[int | None] = []
        self.void = 0
        for p, name in enumerate(self.examples_topics()):
            known: list[int] = []
            tenure = Tenure()
            for offset, _, value in self.offsets.records(name, 0, self.ends()[name]):
                block, some = decode_block(value or b"")
                assert block.p == p
                if not tenure.admits(offset, block.told):
                    self.void += len(some)
                    continue
                examples += some
                known += [] if block.watermark_ms is None else [block.watermark_ms]
            reached.append(max(known, default=None))
        return examples, reached


def told(rows: Collection[Any]) -> str:
    """How many there are, and the first."""
    return "\n  ".join([str(len(rows)), *(str(row) for row in sorted(rows)[:8])])


def row_of(example: Example) -> tuple[Any, ...]:
    """All that an example says, but for the partition that it came by."""
    facts = example.kind, example.due_ms, example.click_ms, example.conversion_ms, example.converted, example.value
    return *identity_of(example), *facts, bytes(example.impression.features)


_REPLAYED: dict[Path, list[Example]] = {}


def replayed(log: Path, settings: Settings) -> list[Example]:
    """What a replay of the log gives; asked once of each log, which is always read under the same settings but for [kafka]."""
    if log in _REPLAYED:
        return _REPLAYED[log]
    groups = (
        group for delivery in Ingest(settings, LogSource(log, settings)).deliveries() for group in delivery.groups
    )
    _REPLAYED[log] = [example for group in groups for example in group.examples]
    return _REPLAYED[log]


def assert_as_replayed(run: JoinRun, log: Path) -> Counter[str]:
    """The examples are those of a replay, each once, as far as the slowest partition comes; how many were appended in all is told.

    They are waited for: a worker that was to crash in a snapshot may do so after the last record, and whoever takes over sends what it had not.
    """
    reached_ms = min(run.last_ms())
    wanted = {row_of(example) for example in replayed(log, run.settings) if example.due_ms < reached_ms}
    assert len(wanted) > 1_000
    deadline = time.monotonic() + PATIENCE_S
    while True:
        examples, _ = run.emitted()
        found = {row_of(example) for example in examples if example.due_ms < reached_ms}
        if found >= wanted or time.monotonic() > deadline:
            break
        run.tend()
        time.sleep(1.0)
    if wanted != found:  # some are lost, made up, or labelled otherwise
        raise AssertionError(f"lost: {told(wanted - found)}\nbeyond: {told(found - wanted)}\nlate: {told(run.late())}")
    assert len({identity_of(example) for example in examples}) == len(examples)  # none doubled
    return Counter({"appended": len(examples) + run.void, "different": len(examples)})
