"""What a worker that was dealt nothing asks its group. On a real broker; all else that workers do: `test_join_live.py`."""

from __future__ import annotations

from typing import Any

import pytest
from brokers import NOBODY, put, with_topics
from fakes import shown
from services import Server

from streaming.adapters.faust_join import FaustJoin
from streaming.adapters.kafka_offsets import KafkaOffsets
from streaming.events import RecordKind

pytestmark = pytest.mark.integration


def test_a_worker_that_holds_nothing_sees_when_nobody_reads(kafka: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_topics(kafka)
    nobody: Any = None
    join = FaustJoin(settings, NOBODY, f"{settings.kafka.model}.join", nobody, partitions=2)
    monkeypatch.setattr(join._group, "_hung_s", 0.0)
    assert join._group_hangs() is None  # it waits to be dealt something
    join._group.assigned(0, now_s=0.0)
    assert [join._group_hangs() for _ in range(2)] == [None, None]  # there is nothing to read
    put(settings, RecordKind.IMPRESSION, *[shown(f"i{number}", number) for number in range(9)])
    assert "nobody in its group has committed anything" in (join._group_hangs() or "")
    offsets = KafkaOffsets(settings, NOBODY, f"{settings.kafka.model}.join")
    names = [f"{settings.kafka.topic(kind.stem)}[{p}]" for kind in RecordKind for p in range(2)]
    assert sum(offsets.ends(names).values()) == 9
    offsets.close()
