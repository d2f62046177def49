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
    from streaming.metrics import TargetFigures


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


class TargetError(Exception):
    """Weights cannot be written to a target, or read from it; the message names it, what is wrong and what to do."""


class StaleVersionError(TargetError):
    """A version was refused because a newer one stands there.

    Args:
        says: what is wrong and what to do.
        current: the name of the version that stands there. Of the same epoch, it is an older one that `weights rollback` put
            there; of a greater one, another run has taken over.
    """

    def __init__(self, says: str, *, current: str) -> None:
        super().__init__(says)
        self.current = current


class GapError(TargetError):
    """A delta was refused because its base is not there: a snapshot is needed."""


class HeldError(TargetError):
    """A version was refused because publishing is held, after a rollback: until it is told to go on."""


class Publisher(Protocol):
    """Hands out versions of the weights."""

    def issue_epoch(self) -> int:
        """A new epoch, greater than any before; asked once by every start of a run."""

    def publish(self, published: Published) -> str:
        """Makes a version visible, whole or not at all; its name.

        Raises:
            StaleVersionError, GapError, HeldError: it was refused, and nothing was changed.
        """

    def keep_refused(self, published: Published, why: str) -> None:
        """Keeps a version that must not be served, and why."""

    @property
    def needs_snapshot(self) -> bool:
        """Whether the next version must be a snapshot: somewhere its base would be missing."""

    def figures(self) -> dict[str, TargetFigures]:
        """How each target is doing, by name."""


class Target(Protocol):
    """One place where versions are published."""

    def issue_epoch(self, *, at_least: int = 1) -> int:
        """A new epoch, greater than any that was issued or published here; the one issued last, if that is `at_least` as great."""

    def newest_epoch(self) -> int:
        """The greatest epoch that was issued or published here; 0 before the first."""

    def publish(self, published: Published, *, past_hold: bool = False) -> str:
        """Makes a version visible, whole or not at all; its name. `past_hold`: even where publishing is held."""

    def hold(self, why: str) -> None:
        """Refuses every further version, until `release`."""

    def release(self) -> None:
        """Lets versions be published again."""

    def held(self) -> str | None:
        """Why publishing is held; None if it is not."""

    def close(self) -> None:
        """Lets go of the outside."""


class WeightsSource(Protocol):
    """Where published versions are read."""

    def current(self) -> tuple[int, int] | None:
        """The (epoch, version) to serve; None before the first.

        Raises:
            TargetError: it cannot be read now.
        """

    def fetch(self, epoch: int, version: int) -> Published:
        """A version, every byte of it verified; a delta as the delta that it is.

        Raises:
            MissingWeightsError: it is not there, or no longer. DamagedWeightsError: it is not what its manifest says; the
                message names the part or the chunk. TargetError: it cannot be read now.
        """

    def close(self) -> None:
        """Lets go of the outside."""
