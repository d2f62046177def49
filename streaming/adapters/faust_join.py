"""Join partitions shared out among workers by Faust: who holds which, records from its consumer, offsets back. Decides nothing about records.

Of Faust: group membership, assignment, fetching. Not: tables, windows, joins, its producer, its acks. What else it would do, and what is done:

    it acks an event whose agent failed       its acks are off; offsets are committed after the snapshot that holds their records
    a failed commit counts as one             our own commit, whose failure changes nothing: the next snapshot's covers it
    an exception restarts the agent           it ends the worker, without a snapshot; another goes on from the last
    a stream waits for a record               idle ticks come to the agent between what is fetched: it is the one writer
    it passes on record by record             what was fetched together is handed on together (`faust_transport`); streams stay empty
    it reads what transactions took back      its consumer is made to read what is committed
    topics of unequal size are dealt apart    refused at start and at each assignment
    topics it has lost sight of go to nobody  how many partitions they have is remembered (`faust_assignor`)
    its buffers outlive a rebalance           records of another generation are passed over; those that its consumer leaves out are read
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import faust
import msgspec
from faust.types import TP

from streaming.adapters.faust_assignor import Assignor
from streaming.adapters.faust_connection import faust_options
from streaming.adapters.faust_transport import FaustConsumer, FaustTransport, Fetched
from streaming.adapters.group_watch import GroupWatch
from streaming.adapters.kafka_connection import BrokerError, answers
from streaming.adapters.kafka_offsets import KafkaOffsets
from streaming.connection import Credentials
from streaming.events import RecordKind
from streaming.join_ports import JoinError
from streaming.join_worker import JoinWorker
from streaming.metrics import RunMetrics
from streaming.records import PolledRecord
from streaming.settings import Settings

TAKE_WITHIN_S = 0.1
"""How long a take waits for more records: latency against blocks of few examples."""

_SNAPSHOT_SHARE = 0.1
"""Of the time, for snapshots, at most: where state is large they come less often."""

_AGAIN_S = 5.0
"""After which a partition that another has claimed is held again: a worker that was asleep is told by its group, before that, that it is no longer its own."""

_BLIND_S = 1.0  # between two looks at the ends of streams, where more is unusual: idleness is then looked for anew

_END_WITHIN_S = 20.0
"""How long a worker that has failed may take to leave its group before it is ended; likewise one that is to end while the brokers are away."""

Answer = TypeVar("Answer")


class FaustJoin:
    """A worker that shares the join with others of its group.

    Args:
        settings: which brokers and topics. secret: who asks. group: what the workers are called together.
        partitions: how many each of the three topics has.
        worker: what holds partitions; it is called by one thread at a time.
        tell: is told, in words, what a person should know.
    """

    def __init__(
        self,
        settings: Settings,
        secret: Credentials,
        group: str,
        worker: JoinWorker,
        *,
        partitions: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._settings, self._secret, self._worker, self._tell = settings, secret, worker, tell
        self._name, self._partitions = group, partitions
        self._topics = [settings.kafka.topic(kind.stem) for kind in RecordKind]
        self._thread = ThreadPoolExecutor(1, "join")
        self._lock = asyncio.Lock()
        self._wanted: frozenset[int] = frozenset()
        self._again_s: dict[int, float] = {}  # when to hold what was lost
        self._generation = -1
        self._paused: frozenset[str] = frozenset()
        self._failure: BaseException | None = None
        self._is_ended = self._works = False
        self._save_next_s = self._looked_s = time.monotonic()
        self._group = GroupWatch(
            session_timeout_ms=settings.kafka.session_timeout_ms,
            snapshot_interval_ms=settings.kafka.snapshot_interval_ms,
            now_s=time.monotonic(),
        )
        self._why: str | None = None
        self._uncommitted: dict[TP, int] = {}
        self._watched = threading.Event()
        self._look_every_s = min(max(settings.event_time.idle_timeout_ms / 3_000, 0.1), 5.0)
        self._metrics, self._is_broker_away = RunMetrics(), False
        # Faust wants a directory, and keeps nothing in it.
        self._folder = tempfile.TemporaryDirectory(prefix="afterclick-join-")
        self._app = faust.App(
            group, datadir=self._folder.name, PartitionAssignor=Assignor, **faust_options(settings.kafka, secret)
        )
        assert isinstance(self._app.assignor, Assignor)
        self._app.assignor.counts |= dict.fromkeys(self._topics, partitions)
        self._app.transport = FaustTransport(self._app.conf.broker_consumer, self._app)
        topic = self._app.topic(
            *self._topics,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            acks=False,
            allow_empty=True,
        )
        self._app.agent(topic, name="join", concurrency=1)(self._work)
        app: Any = self._app  # Faust's types ask for handlers of a form that no method has
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_before_shutdown.connect(self._on_shutdown)

    def run(self) -> None:
        """Works until it is told to stop (SIGINT, SIGTERM).

        Raises:
            JoinError: Faust has ended, or what a partition needs is not there. And whatever else ended it.
        """
        worker = faust.Worker(self._app, loglevel="ERROR", redirect_stdouts=False, quiet=True)
        worker.spinner = None
        # A hundred lines a second while brokers are away; what a person must know is told by `_watch`, once in a while.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        logging.getLogger("kafka").propagate = False  # errors are made of what it says: it goes on saying it
        threading.Thread(target=self._watch, daemon=True).start()
        code: object = 0
        try:
            worker.execute_from_commandline()
        except SystemExit as ended:
            code = ended.code
        finally:
            self._watched.set()
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._folder.cleanup()
        if self._failure is not None:
            raise self._failure
        if code or worker.crash_reason or self._app.crash_reason:
            reason = worker.crash_reason or self._app.crash_reason or "its log says why"
            raise JoinError(
                f"Faust has ended ({reason}): look whether {', '.join(self._settings.kafka.bootstrap_servers)} answers, then start the worker again; "
                "it goes on from its snapshot"
            )

    async def _work(self, stream: Any) -> None:
        """The agent, and the one writer: records as they come, and ticks where none do. Its stream stays empty, and ends when Faust stops it."""
        ended = asyncio.ensure_future(anext(stream.noack_take(1, within=1.0)))
        taking: asyncio.Task[Fetched] | None = None
        fetched: list[Fetched] = []
        try:
            while not (self._is_ended or ended.done()):
                if self._generation >= 0:
                    taking = taking or asyncio.ensure_future(self._consumer().fetched.get())
                await asyncio.wait(
                    {ended} if taking is None else {taking, ended},
                    timeout=self._settings.kafka.poll_timeout_ms / 1_000,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if taking is not None and taking.done():
                    fetched += await self._with_more(taking.result())
                    taking = None
                async with self._lock:
                    if not self._is_ended:
                        fetched = await self._turn(fetched)
        except Exception as error:
            self._end(error)
        finally:
            waited = [task for task in (taking, ended) if task is not None]
            for task in waited:
                task.cancel()
            await asyncio.gather(*waited, return_exceptions=True)

    async def _with_more(self, first: Fetched) -> list[Fetched]:
        """What was fetched, and what comes within a moment."""
        fetched, until_s = [first], time.monotonic() + TAKE_WITHIN_S
        queue, count = self._consumer().fetched, _count(first)
        while count < self._settings.kafka.max_poll_records and not self._is_ended:
            if queue.empty():
                if time.monotonic() >= until_s:
                    break
                await asyncio.sleep(TAKE_WITHIN_S / 10)
                continue
            fetched.append(queue.get_nowait())
            count += _count(fetched[-1])
        return fetched

    async def _turn(self, fetched: list[Fetched]) -> list[Fetched]:
        """Takes in what was fetched; what is left of it: all, until Faust has told which partitions it is of."""
        generation = self._generation
        left = fetched if generation < 0 else []
        records: dict[str, list[PolledRecord]] = {}
        for each in fetched:
            if each.generation == generation:
                for tp, some in each.records.items():
                    own = records.setdefault(f"{tp.topic}[{tp.partition}]", [])
                    own += [(record.offset, record.key, record.value) for record in some]
        now_s = time.monotonic()
        is_look = now_s - self._looked_s >= self._look_every_s
        await self._on_thread(lambda: self._do(records, is_look=is_look))
        if now_s >= self._save_next_s:
            await self._save()
        self._paused = self._worker.paused()
        self._consumer().held_back = frozenset(map(_tp, self._paused))
        return left

    def _do(self, records: dict[str, list[PolledRecord]], *, is_look: bool) -> None:
        """On the thread of the worker."""
        self._notice_lost()
        now_s = time.monotonic()
        for p in sorted(self._wanted - self._worker.held):
            if now_s >= self._again_s.get(p, now_s):
                self._again_s.pop(p, None)
                self._worker.hold(p)
        now_ms = time.time_ns() // 1_000_000
        if records:
            self._worker.take(records, now_ms)
        if is_look:
            # Who has waited for brokers that long has not seen whether streams are idle; their producers have waited as well.
            is_blind = time.monotonic() - self._looked_s > max(_BLIND_S, self._look_every_s * 1.5)
            paused = self._worker.stream_names() if is_blind else self._paused
            self._worker.look(paused=paused, now_ms=now_ms, monotonic_ms=round(time.monotonic() * 1_000))
            self._looked_s = time.monotonic()
        self._metrics = self._worker.metrics()

    def _notice_lost(self) -> None:
        """Tells a person what another has claimed; held again after a while, if the group has not said by then that it is not ours."""
        for p in sorted(self._worker.lost - self._again_s.keys()):
            self._again_s[p] = time.monotonic() + _AGAIN_S
            self._tell(
                f"join partition {p} was taken over by another worker while this one did not answer: it is let go"
            )

    async def _save(self) -> None:
        """A snapshot, then the offsets; numbered steps in `join_worker`."""
        begun_s = time.monotonic()
        offsets = await self._on_thread(self._worker.save)
        ended_s = time.monotonic()
        interval_s = self._settings.kafka.snapshot_interval_ms / 1_000
        self._save_next_s = ended_s + max(interval_s, (ended_s - begun_s) / _SNAPSHOT_SHARE)
        self._uncommitted |= {_tp(name): at for name, at in offsets.items()}
        self._why = await self._consumer().try_commit(self._uncommitted) if self._uncommitted else None
        if self._why is None:
            self._uncommitted.clear()
            self._group.committed(now_s=time.monotonic())

    @property
    def metrics(self) -> RunMetrics:
        """What was counted by a moment ago."""
        is_away = self._metrics.is_broker_away or self._is_broker_away
        return msgspec.structs.replace(self._metrics, is_broker_away=is_away)

    @property
    def commit_age_s(self) -> float:
        """How long it is that everything was committed; 0 where nothing is held."""
        return self._group.commit_age_s(now_s=time.monotonic())

    def _watch(self) -> None:
        """On a thread of its own: tells a person when commits stop, whatever it is that stopped them, and ends a worker whose client hangs.

        Once in a while Faust's client does not find back into its group after its brokers were away and members slept: it waits for ever. A worker that
        ends is started again by whoever runs it, and goes on from its snapshot.
        """
        tick_s, was_away = self._group.still_s / 3, False
        while not self._watched.wait(tick_s):
            now_s, age_s = time.monotonic(), self.commit_age_s
            # The worker sees it where it looks at the topics; not while it waits for what it has appended.
            self._is_broker_away = age_s > tick_s and not answers(self._settings.kafka, self._secret)
            if was_away is not (was_away := self.metrics.is_broker_away):
                where = f"kafka {', '.join(self._settings.kafka.bootstrap_servers)}"
                self._tell(f"{where} is away; tried again until it is back" if was_away else f"{where} is back")
            elif age_s > self._group.still_s and not was_away:
                self._tell(
                    f"nothing could be committed for {age_s:.0f} s ({self._why or 'the group does not answer'}): what comes is held back, nothing is lost"
                )
            says = self._group.hung(now_s=now_s) or self._group_hangs()
            if says is None or self._is_ended or self._works:  # a large partition may take long to be taken over
                continue
            if not answers(self._settings.kafka, self._secret):
                self._group.brokers_were_away(now_s=now_s)
                continue
            told = f"the worker hangs, though its brokers answer: {says}. Start it again; it goes on from its snapshot"
            self._end(JoinError(told))

    def _group_hangs(self) -> str | None:
        """What a worker that holds nothing sees of its group, if it is that nobody reads."""
        if not self._group.is_idle:
            return None
        names = [f"{topic}[{p}]" for topic in self._topics for p in range(self._partitions)]
        try:
            with closing(KafkaOffsets(self._settings, self._secret, self._name)) as offsets:
                committed, ends = offsets.committed(names), offsets.ends(names)
        except BrokerError:
            self._group.brokers_were_away(now_s=time.monotonic())
            return None
        return self._group.group_is_at(committed, ends, now_s=time.monotonic())

    async def _on_revoked(self, app: Any, revoked: set[TP], **options: Any) -> None:
        """Before others may take over: a snapshot and its offsets, then everything is let go."""
        await self._let_go()
        self._group.revoked(now_s=time.monotonic())

    async def _on_shutdown(self, app: Any, **options: Any) -> None:
        threading.Thread(target=self._end_anyway, daemon=True).start()
        await self._let_go()
        self._is_ended = True

    async def _let_go(self) -> None:
        async with self._lock:
            self._wanted, self._generation, self._paused = frozenset(), -1, frozenset()
            if self._failure is None and not self._is_ended:
                try:
                    await self._save()
                    self._uncommitted.clear()  # whoever holds them next commits them
                    await self._on_thread(self._worker.drop)
                    self._again_s.clear()
                except Exception as error:
                    self._end(error)

    async def _on_assigned(self, app: Any, assigned: set[TP], **options: Any) -> None:
        """What is to be held; the agent takes it over before it takes records, so that heartbeats do not wait for it."""
        dealt = {topic: frozenset(tp.partition for tp in assigned if tp.topic == topic) for topic in self._topics}
        if len(set(dealt.values())) > 1:
            each = ", ".join(f"{sorted(ps)} of {topic}" for topic, ps in dealt.items())
            self._end(
                JoinError(
                    f"a worker must be dealt the same partitions of all three topics (got {each}): they must have equally many"
                )
            )
            return
        async with self._lock:
            self._wanted, self._generation = dealt[self._topics[0]], self._app.consumer_generation_id
            self._group.assigned(len(self._wanted), now_s=time.monotonic())

    def _end(self, error: BaseException) -> None:
        """Ends the worker without a snapshot; what it has emitted since the last is known from the topic."""
        if self._failure is not None:
            return
        self._failure, self._is_ended = error, True
        os.kill(os.getpid(), signal.SIGTERM)  # Faust's own way out: it leaves the group

        def end() -> None:
            print(f"afterclick: error: {error}", file=sys.stderr, flush=True)
            os._exit(1)

        timer = threading.Timer(_END_WITHIN_S, end)
        timer.daemon = True
        timer.start()

    def _end_anyway(self) -> None:
        """Ends a worker that is to end, or whose Faust has crashed, and that waits for brokers that do not answer, or for Faust."""
        while not self._watched.wait(_END_WITHIN_S):
            if self._is_ended:
                said = "Faust was to end and did not; all that was done is kept. Start the worker again"
            elif not answers(self._settings.kafka, self._secret):
                said = "ended without a last snapshot, since the brokers do not answer; whoever goes on does again what was done since the one before"
            else:
                continue  # a last snapshot may be large
            print(f"afterclick: error: {said}", file=sys.stderr, flush=True)
            os._exit(1)

    def _consumer(self) -> FaustConsumer:
        consumer = self._app.consumer
        assert isinstance(consumer, FaustConsumer)
        return consumer

    def _on_thread(self, do: Callable[[], Answer]) -> Awaitable[Answer]:
        def work() -> Answer:
            self._works = True
            try:
                return do()
            finally:
                self._works = False

        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def _count(fetched: Fetched) -> int:
    return sum(map(len, fetched.records.values()))


def _tp(name: str) -> TP:
    topic, _, number = name[:-1].rpartition("[")
    return TP(topic, int(number))
