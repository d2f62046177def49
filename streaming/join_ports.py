"""What a join worker asks of the world: to append, to say what the brokers know, to keep snapshots. Must not know who answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from streaming.joiner import JoinerSnapshot
from streaming.records import PolledRecord

EXAMPLES = "examples"


class JoinError(Exception):
    """A join partition cannot be held; the message names it, what is wrong and what to do."""


class Appends(Protocol):
    """Appends to the topics of the model."""

    def send(self, stem: str, value: bytes | None, *, key: bytes | None = None, partition: int | None = None) -> None:
        """Appends a record; it is there once `flush` has returned."""

    def append(self, stem: str, data: bytes) -> None:
        """Appends lines, a record each."""

    def flush(self) -> None:
        """Waits until everything appended is acknowledged."""

    def end(self, stem: str, partition: int) -> int | None:
        """The offset after the last record that was sent there from here and acknowledged; None if there was none yet."""


class Offsets(Protocol):
    """What the brokers know of the topics, and of the group that shares the join."""

    def partitions(self) -> int:
        """How many the topics have, asked anew; errors if not all as many."""

    def committed(self, names: Collection[str]) -> dict[str, int | None]:
        """How far the group has come in each `topic[partition]`; None if it has committed nothing there."""

    def bounds(self, names: Collection[str]) -> dict[str, tuple[int, int]]:
        """The first offset there is, and the one after the last."""

    def ends(self, names: Collection[str]) -> dict[str, int]:
        """The offset after the last; left out where the brokers do not say."""

    def records(self, name: str, start: int, end: int) -> Iterator[PolledRecord]:
        """Each record from offset `start` on and before `end`."""


class Snapshots(Protocol):
    """Keeps snapshots."""

    def write(self, snapshot: JoinerSnapshot, names: Iterable[str]) -> str:
        """Makes a snapshot durable."""

    def newest(self, p: int, committed: Mapping[str, int | None], names: Iterable[str]) -> JoinerSnapshot | None:
        """The newest at or past what is committed."""


def refuse_gone(name: str, offset: int, first: int, last: int) -> None:
    """Refuses to go on in a stream at an offset where it no longer is.

    Raises:
        JoinError: it begins behind `offset`, or ends before it.
    """
    if offset < first:
        raise JoinError(
            f"{name}: reading was to go on at offset {offset}, and the earliest there is is {first}: {first - offset} records have expired unread. "
            "Start anew under another kafka.model, and let topics keep records for longer (kafka.retention_ms) than the join may stand still"
        )
    if offset > last:
        raise JoinError(
            f"{name}: reading was to go on at offset {offset}, and it ends at {last}: it is not the topic that was read, or lost its end. "
            "Start anew under another kafka.model"
        )
