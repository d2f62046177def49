"""What is asked of the outside, in one or two methods each. Must not know who answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from streaming.deliveries import Delivery, IngestState
from streaming.log_file import Place

if TYPE_CHECKING:  # a process that ingests and does not learn needs no torch
    import torch

    from models.manifest import Published
    from streaming.checkpoint import Cut


class Arriving(Protocol):
    """Something of one join partition that has arrived, `Arrivals` or blocks of examples."""

    @property
    def p(self) -> int:
        """The join partition."""

    @property
    def now_ms(self) -> int | None:
        """Live: processing time, UTC epoch ms."""

    @property
    def records(self) -> int:
        """How many there are."""

    @property
    def first_watermark_ms(self) -> int | None:
        """The first watermark that it tells of."""


class Source(Protocol):
    """Gives records in arrival order, and says how far it has."""

    @property
    def partitions(self) -> tuple[int, ...]:
        """The join partitions it reads; (0,) for a log of files."""

    def __iter__(self) -> Iterator[Arriving]: ...

    def places(self) -> Mapping[str, Place]:
        """How far each file was handed on."""

    def snapshot(self) -> Any:
        """What else it must know to go on from those places, as msgpack can carry it; None if nothing."""


class Feed(Protocol):
    """The first half of the line: `ingest.Ingest`, or one that runs elsewhere."""

    def deliveries(self, *, close_at_end: bool = False) -> Iterator[Delivery]:
        """What the source brings, to its end; with `close_at_end` it is complete, and what is open is labelled."""

    def restore(self, state: IngestState) -> None:
        """Takes up where a cut was taken."""


class Output(Protocol):
    """Keeps what a run writes."""

    def append(self, name: str, data: bytes) -> None:
        """Adds bytes to one of the outputs."""

    def sync(self) -> dict[str, int]:
        """Makes everything appended durable, and gives the length of each output in bytes."""

    def replace(self, name: str, data: bytes) -> None:
        """Writes an output whole; readers see the old one or the new one."""


class CutStore(Protocol):
    """Keeps consistent cuts."""

    def write(self, cut: Cut, tensors: dict[str, torch.Tensor]) -> None:
        """Makes a cut durable without making it the one to resume from."""

    def commit(self) -> None:
        """Makes the cut last written the one to resume from."""


class Publisher(Protocol):
    """Hands out versions of the weights."""

    def issue_epoch(self) -> int:
        """A new epoch, greater than any before; asked once by every start of a run."""

    def publish(self, published: Published) -> str:
        """Makes a version visible, whole or not at all; its name."""
