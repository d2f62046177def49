"""Partitions are dealt out whole and alike whatever the brokers tell of topics at that moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import faust
import pytest
from brokers import NOBODY

from streaming.adapters.faust_assignor import Assignor
from streaming.adapters.faust_connection import faust_options
from streaming.connection import Kafka

TOPICS = ("impressions", "clicks", "conversions")


@pytest.mark.parametrize(
    ("told", "partitions"),
    [({}, 6), ({"clicks": 6}, 6), (dict.fromkeys(TOPICS, 6), 6), (dict.fromkeys(TOPICS, 8), 8)],
)
def test_every_partition_of_every_topic_is_dealt(tmp_path: Path, told: dict[str, int], partitions: int) -> None:
    app = faust.App("group", datadir=tmp_path, PartitionAssignor=Assignor, **faust_options(Kafka(), NOBODY))
    assignor = app.assignor
    assert isinstance(assignor, Assignor)
    assignor.counts |= dict.fromkeys(TOPICS, 6)
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(told.get(topic, 0))) or None)
    members = {name: assignor.metadata(set(TOPICS)) for name in "ab"}
    shares = [dict(given.assignment) for given in assignor.assign(cluster, members).values()]
    assert all(set(share) == set(TOPICS) and len({tuple(sorted(ps)) for ps in share.values()}) == 1 for share in shares)
    assert sorted(p for share in shares for p in share["clicks"]) == list(range(partitions))
