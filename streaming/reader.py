"""Follows published weights and scores with the newest whole version. Must not know how weights are learned, or who asks for scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import msgspec

from models.batch import Float64
from models.frozen import FrozenModel, Scored
from models.manifest import Manifest, MissingWeightsError, version_name
from models.weights import Weights
from streaming.features import FeatureReader
from streaming.fields import Raw
from streaming.whole import read_whole

if TYPE_CHECKING:
    from streaming.ports import WeightsSource

_MOST_SKIPPED = 64  # looks in a row that pass by a version that was refused, as it may be mended
_EMPTY = b"{}"


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000


class NoWeightsError(Exception):
    """Nothing can be scored yet; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What one version says of B impressions.

    Args:
        pctr, pcvr, pctcvr: (B,) P(click), P(conversion | click) and their product.
        manifest: of that version, and so which data it was trained on: `offsets`, `watermark_ms`, `method`, `metrics`.
        seen, unseen: feature -> ids that were looked up, and those of them without a row.
    """

    pctr: Float64
    pcvr: Float64
    pctcvr: Float64
    manifest: Manifest
    seen: Mapping[str, int]
    unseen: Mapping[str, int]

    @property
    def weights_version(self) -> tuple[int, int]:
        """(epoch, version)."""
        return self.manifest.epoch, self.manifest.version


@dataclass(frozen=True, slots=True)
class Served:
    """A version in service. It never changes: whoever holds it goes on with it, whatever comes after.

    Args:
        weights: what the next delta is laid over.
        model, features: what it scores with.
        since_ms: processing time at which it was taken into service.
    """

    weights: Weights
    model: FrozenModel
    features: FeatureReader
    since_ms: int

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself."""
        return self.weights.manifest

    @property
    def version(self) -> tuple[int, int]:
        """(epoch, version)."""
        return self.manifest.epoch, self.manifest.version

    def score(self, rows: Sequence[Raw], *, shared: Raw = _EMPTY) -> Scores:
        """Scores B impressions by their raw features; `shared` holds those that they have in common, each row's own come before it."""
        inputs = self.features.read(rows) if shared == _EMPTY else self.features.read_beside(shared, rows)
        scored: Scored = self.model.predict_many(inputs)
        return Scores(scored.pctr, scored.pcvr, scored.pctr * scored.pcvr, self.manifest, scored.seen, scored.unseen)


class WeightsReader:
    """Keeps the newest version that some publisher made current, whole or not at all.

    `poll` looks once; `following` does so from a thread. A version replaces the one before it by one assignment: a score is of one
    version from its first row to its last. It never goes back to a smaller (epoch, version). A version that is damaged, or a delta
    whose base cannot be had, is refused by name; the one in service stays, and the next snapshot heals.

    Args:
        source: where versions are read.
        clock: processing time, UTC epoch milliseconds; by default that of this machine.

    Attributes:
        swaps: versions taken into service so far.
        refused: why -> versions refused, each counted once: `damaged`, `missing` (it, or what it is a delta to), `unreadable`, `older`
            than the one in service (a new run in the place of the one that is followed: start the reader anew).
        last_refusal: what was said of the last one; None while the newest is in service.

    Example:
        >>> from pathlib import Path
        >>> from streaming.adapters.directory_source import DirectorySource
        >>> reader = WeightsReader(DirectorySource(Path("nowhere")))
        >>> reader.poll(), reader.served
        (False, None)
    """

    def __init__(self, source: WeightsSource, *, clock: Callable[[], int] = _utc_ms) -> None:
        self._source = source
        self._clock = clock
        self._lock = Lock()  # of `poll`: two threads must not swap past each other
        self._served: Served | None = None
        self._refused: tuple[int, int] | None = None
        self._skip = self._skipped = 0
        self.swaps = 0
        self.refused: dict[str, int] = {"damaged": 0, "missing": 0, "unreadable": 0, "older": 0}
        self.last_refusal: str | None = None
        self.looked_ms: int | None = None
        """Processing time of the last look that got an answer."""

    @property
    def served(self) -> Served | None:
        """The version in service; None before the first. Read it once for all that belongs together."""
        return self._served

    def score(self, features: Sequence[Raw | Mapping[str, Any]]) -> Scores:
        """Scores impressions with the newest version.

        Args:
            features: of each impression, as JSON or as a mapping.

        Raises:
            NoWeightsError: there is no version yet.
        """
        served = self._served
        if served is None:
            why = f"the newest was refused: {self.last_refusal}" if self.last_refusal else "nothing was published yet"
            raise NoWeightsError(
                f"no weights to score with: {why}; start the run that publishes, or look at its target"
            )
        return served.score([msgspec.json.encode(row) if isinstance(row, Mapping) else row for row in features])

    def watermark_age_ms(self) -> int | None:
        """How far the data of the version in service lies behind now, in event time; None without a version or a watermark."""
        served = self._served
        if served is None or served.manifest.watermark_ms is None:
            return None
        return self._clock() - served.manifest.watermark_ms

    def version_age_ms(self) -> int | None:
        """For how long the version has been in service; None without one."""
        served = self._served
        return None if served is None else self._clock() - served.since_ms

    def poll(self) -> bool:
        """Looks once, and takes the current version into service if it is newer; whether it did.

        Errors of the source and damaged versions are counted and told in `last_refusal`, not raised: service goes on.
        """
        with self._lock:
            return self._poll()

    def _poll(self) -> bool:
        try:
            newest = self._source.current()
        except Exception as error:  # whatever a client may raise: the version in service must outlive it
            self._refuse("unreadable", None, error)
            return False
        self.looked_ms = self._clock()
        held = self._served
        if held is not None and (newest is None or newest < held.version):
            there = (
                "nothing is published there any more" if newest is None else f"{version_name(*newest)} is current there"
            )
            self._refuse(
                "older",
                None,
                ValueError(f"{there}, which is older than {held.manifest.name}, in service: a reader never goes back"),
            )
            return False
        if newest is None or (held is not None and newest == held.version):
            self.last_refusal = None
            return False
        if newest == self._refused and self._skipped < self._skip:
            self._skipped += 1
            return False
        try:
            weights = read_whole(self._source, *newest, held=None if held is None else held.weights)
            model = FrozenModel(weights, None if held is None else held.model)
        except MissingWeightsError as error:
            self._refuse("missing", newest, error)
            return False
        except ValueError as error:  # DamagedWeightsError, and tensors that do not fit each other
            self._refuse("damaged", newest, error)
            return False
        except Exception as error:
            self._refuse("unreadable", newest, error)
            return False
        features = FeatureReader(weights.manifest.features)
        if held is not None and held.manifest.features == weights.manifest.features:
            features = held.features  # its shapes are made, and it goes on counting faults
        self._served = Served(weights, model, features, self._clock())  # one assignment: the swap
        self.swaps += 1
        self._refused, self._skip, self.last_refusal = None, 0, None
        return True

    def _refuse(self, why: str, version: tuple[int, int] | None, error: Exception) -> None:
        said = str(error) or type(error).__name__
        if version is None:
            is_new = said != self.last_refusal
        else:
            is_new = version != self._refused
            self._skip = 0 if is_new else min(2 * self._skip + 1, _MOST_SKIPPED)
            self._refused, self._skipped = version, 0
        self.refused[why] += is_new
        self.last_refusal = said


@contextmanager
def following(reader: WeightsReader, *, poll_ms: int) -> Iterator[WeightsReader]:
    """Polls from a thread of its own until left; the first look is over when it is entered."""
    reader.poll()
    stopped = Event()

    def follow() -> None:
        while not stopped.wait(poll_ms / 1000):
            reader.poll()

    thread = Thread(target=follow, name="afterclick-weights", daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        stopped.set()
        thread.join()
