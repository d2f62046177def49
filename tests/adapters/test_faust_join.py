"""What a worker that was dealt nothing asks its group. On a real broker; all else that workers do: `test_join_live.py`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from brokers import NOBODY, put, with_topics
from fakes import shown
from services import Server

from streaming.adapters.faust_join import FaustJoin
from streaming.adapters.kafka_offsets import KafkaOffsets
from streaming.connection import Kafka
from streaming.events import RecordKind
from streaming.metrics import RunMetrics
from streaming.settings import Settings


class Looked:
    """A worker that holds two streams, and keeps which were said not to be read at each look."""

    held = lost = frozenset[int]()

    def __init__(self) -> None:
        self.paused: list[set[str]] = []

    def stream_names(self) -> list[str]:
        return ["clicks[0]", "conversions[0]"]

    def look(self, *, paused: Collection[str], now_ms: int, monotonic_ms: int) -> None:
        self.paused.append(set(paused))

    def metrics(self) -> RunMetrics:
        return RunMetrics()


def test_a_worker_that_could_not_look_for_long_takes_nothing_for_idle() -> None:
    worker: Any = Looked()
    join = FaustJoin(Settings(kafka=Kafka()), NOBODY, "group", worker, partitions=1)
    for seconds_ago in (0.0, 60.0, 0.0):
        join._looked_s -= seconds_ago
        join._do({}, is_look=True)
    assert worker.paused == [set(), {"clicks[0]", "conversions[0]"}, set()]


@pytest.mark.integration
def test_a_worker_that_holds_nothing_sees_when_nobody_reads(kafka: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_topics(kafka)
    nobody: Any = None
    join = FaustJoin(settings, NOBODY, f"{settings.kafka.model}.join", nobody, partitions=2)
    monkeypatch.setattr(join._group, "_hung_s", 0.0)
    assert join._group_hangs() is None  # it waits to be dealt something
    join._group.assigned(0, now_s=0.0)
    assert [join._group_hangs() for _ in range(2)] == [None, None]  # there is nothing to read
    put(settings, RecordKind.IMPRESSION, *[shown(f"i{number}", number) for number in range(9)])
    # A broker that has just begun may not answer the first time: then nobody knows, and it is asked again.
    says = next(filter(None, (join._group_hangs() for _ in range(20))))
    assert "nobody in its group has committed anything" in says
    offsets = KafkaOffsets(settings, NOBODY, f"{settings.kafka.model}.join")
    names = [f"{settings.kafka.topic(kind.stem)}[{p}]" for kind in RecordKind for p in range(2)]
    assert sum(offsets.ends(names).values()) == 9
    offsets.close()
