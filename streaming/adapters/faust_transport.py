"""Faust's consumer where it has to be another: what it reads, how it hands that on and pauses, what becomes of a commit that fails.

Faust passes on record by record, each through four tasks: 80 us, seven times what a join takes. Here what was fetched together is handed on together.
Must not know what is in records, nor state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

_FETCH_WAIT_MS = 100
"""A broker answers one request at a time: a partition that is resumed waits for as long as those at their end are waited for."""

_AHEAD = 2
"""Fetches that wait for the worker: enough that it never waits for one, and memory is bounded."""


_STOPPED: tuple[type[BaseException], ...] = (*driver.Consumer.consumer_stopped_errors, asyncio.CancelledError)
"""What ends a loop over what is fetched when Faust stops; a loop that waits for partitions to be dealt is cancelled."""


class Fetched(NamedTuple):
    """What was fetched together.

    Args:
        generation: of the group, when it was. records: by partition, as the client gives them, in the order of their offsets.
    """

    generation: int
    records: Mapping[TP, list[Any]]


class _Thread(driver.AIOKafkaConsumerThread):
    """Faust's consumer, which reads only what was committed, and whose commits may fail."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust sets both, and asks nobody
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def try_commit(self, offsets: Mapping[TP, int]) -> str | None:
        """Commits; why not, if it could not: another holds the partitions by now, or the brokers are away."""
        told = {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(at, "") for tp, at in offsets.items()}
        try:
            await self._ensure_consumer().commit(told)
        except (KafkaError, IllegalStateError) as error:
            return str(error) or type(error).__name__
        return None


class FaustConsumer(driver.Consumer):
    """Faust's, with a pause of our own: what Faust has fetched of a partition when it is paused, it throws away."""

    held_back: frozenset[TP] = frozenset()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fetched: asyncio.Queue[Fetched] = asyncio.Queue(_AHEAD)
        """What the worker takes."""

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's loop over what it fetches: until it is stopped, and not while the flow is (partitions change hands)."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                records, _ = await self._wait_next_records(1.0)
                generation = self.app.consumer_generation_id
                await self.sleep(0)
                if self.should_stop or not records:
                    continue
                if self.flow_active:
                    # What is not taken before partitions change hands is fetched again by whoever has them then.
                    handed_on = self.fetched.put(Fetched(generation, records))
                    await self.wait_first(handed_on, self.suspend_flow.wait())
                else:
                    await self._seek_back()
        except _STOPPED:
            if not self.transport.app.should_stop:
                raise

    async def _seek_back(self) -> None:
        """What was fetched while partitions change hands is to be fetched again; where that fails, they have changed hands, and are sought anew."""
        try:
            await self.perform_seek()
        except Exception as error:
            self.log.warning("%r while seeking back to what is committed", error)

    async def try_commit(self, offsets: Mapping[TP, int]) -> str | None:
        """See `_Thread.try_commit`."""
        assert isinstance(self._thread, _Thread)
        why: str | None = await self._thread.call_thread(self._thread.try_commit, offsets)
        return why

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        wanted = (active_partitions or set()) - self.held_back
        if not wanted:  # to the client none is all
            await asyncio.sleep(_FETCH_WAIT_MS / 1_000)
            return {}
        return await self._thread.getmany(wanted, _FETCH_WAIT_MS / 1_000)

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class FaustTransport(driver.Transport):
    """Faust's, with that consumer."""

    Consumer = FaustConsumer
