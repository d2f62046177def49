"""How Faust deals partitions out, where the brokers do not say how many there are. Must not know what a partition is joined by.

Brokers that have just started tell for a moment of no topics. Faust passes over a topic that it does not find: whoever leads the group would deal nothing to
anybody, and that stands until the client asks for topics anew, which may be minutes.
"""

from __future__ import annotations

from typing import Any

from faust.assignor.partition_assignor import MemberAssignmentMapping, MemberMetadataMapping, PartitionAssignor


class _Remembered:
    """What a client knows of the brokers, and how many partitions topics had before it lost sight of them."""

    def __init__(self, cluster: Any, counts: dict[str, int]) -> None:
        self._cluster, self._counts = cluster, counts

    def partitions_for_topic(self, topic: str) -> set[int]:
        """All that there are or were: partitions are added, never taken away."""
        there = len(self._cluster.partitions_for_topic(topic) or ())
        self._counts[topic] = max(there, self._counts.get(topic, 0))
        return set(range(self._counts[topic]))


class Assignor(PartitionAssignor):
    """Faust's, which never takes a topic for gone.

    `counts` is to be told how many partitions each topic has.

    Example:
        >>> from types import SimpleNamespace
        >>> _Remembered(SimpleNamespace(partitions_for_topic=lambda topic: None), {"clicks": 3}).partitions_for_topic("clicks")
        {0, 1, 2}
    """

    counts: dict[str, int]

    def __init__(self, app: Any, replicas: int = 0) -> None:
        super().__init__(app, replicas)
        self.counts = {}

    def assign(self, cluster: Any, member_metadata: MemberMetadataMapping) -> MemberAssignmentMapping:
        """Which member is dealt what."""
        remembered: Any = _Remembered(cluster, self.counts)
        return super().assign(remembered, member_metadata)
