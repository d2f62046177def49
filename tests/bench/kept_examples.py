"""Examples of a log that stay in memory, and the features of each impression, parsed once; must not know a study or a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.batch import Float32, Inputs, Int64
from models.delay import method_of
from models.schema import Feature
from streaming.batching import Batcher
from streaming.events import Impression
from streaming.examples import Examples, Kind
from streaming.features import FeatureReader
from streaming.lab.compare.stream import Group, Stream, _group
from streaming.label import EVERY_POLICY
from streaming.settings import Settings


@dataclass(frozen=True, slots=True)
class Table:
    """The features of N impressions, so that any rows can be taken out: as `Inputs`, but of each bag (N, G) its start and its size."""

    ids: Int64
    numbers: Float32
    bag_ids: Int64
    starts: Int64
    sizes: Int64

    @classmethod
    def of(cls, read: Inputs) -> Table:
        """What was read."""
        bags = (len(read.bag_offsets) - 1) // len(read)
        starts, sizes = (each.reshape(bags, -1).T for each in (read.bag_offsets[:-1], np.diff(read.bag_offsets)))
        return cls(read.ids, read.numbers, read.bag_ids, starts, sizes)

    def and_then(self, more: Table) -> Table:
        """With the rows of another behind its own."""
        both = np.concatenate
        return Table(
            both([self.ids, more.ids]),
            both([self.numbers, more.numbers]),
            both([self.bag_ids, more.bag_ids]),
            both([self.starts, more.starts + len(self.bag_ids)]),
            both([self.sizes, more.sizes]),
        )

    def inputs(self, rows: Int64) -> Inputs:
        """Some of the rows, in the order given."""
        sizes = self.sizes[rows].T.ravel()  # the bags of the first feature first
        offsets = np.append(0, np.cumsum(sizes))
        places = np.repeat(self.starts[rows].T.ravel() - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Inputs(self.ids[rows], self.bag_ids[places], offsets, self.numbers[rows])


class ReadOnce(FeatureReader):
    """Reads the features of an impression once, whichever stream shows it, and takes the rows of a batch out of what it has read."""

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__(features)
        self._kept: dict[str, Impression] = {}
        # By the identity of raw features, which `_alive` keeps from being given to others.
        self._row_of: dict[int, int] = {}
        self._alive: list[msgspec.Raw] = []
        self._table: Table | None = None

    def keep(self, examples: Examples) -> None:
        """Makes one object of each impression that examples are about, and reads those that are new."""
        first = len(self._alive)
        for place, own in enumerate(examples.impressions):
            known = self._kept.setdefault(own.impression_id, own)
            if known is not own and bytes(known.features) == bytes(own.features):
                examples.impressions[place] = known
            elif id(own.features) not in self._row_of:
                self._row_of[id(own.features)] = len(self._alive)
                self._alive.append(own.features)
        for place, example in zip(examples.places.tolist(), examples.others, strict=True):
            msgspec.structs.force_setattr(example, "impression", examples.impressions[place])
        if new := self._alive[first:]:
            table = Table.of(super().read(new))
            self._table = table if self._table is None else self._table.and_then(table)

    def read(self, raws: Sequence[msgspec.Raw | bytes]) -> Inputs:
        """As `FeatureReader.read`, of what was kept."""
        if self._table is None:
            return super().read(raws)
        return self._table.inputs(np.fromiter(map(self._row_of.__getitem__, map(id, raws)), np.int64, len(raws)))


class Read(Stream):
    """A log read through: its examples, not in batches yet."""

    def examples(self) -> Examples:
        """All that is due by the log's end."""
        parts: list[Examples] = []
        for arrivals in self.source:
            self._join.on_arrivals(arrivals)
            if arrivals.watermark_ms is not None:
                parts.append(self._policy.on_due(self._join.on_watermark(arrivals.watermark_ms)[0]))
        return Examples.joined(parts)


class KeptStream:
    """The batches of a method out of examples that are kept.

    Args:
        examples: of the method's events, and maybe more.
        settings: of the run. edges_ms: as `Stream` has them.
        since_ms: impressions before it are not there: a join that starts empty.
    """

    def __init__(
        self, examples: Examples, settings: Settings, *, edges_ms: tuple[int, ...], since_ms: int | None
    ) -> None:
        kinds = {*EVERY_POLICY, *map(Kind, method_of(settings.labels.method).sees)}
        batching = settings.batching
        batcher = Batcher(batch_size=batching.batch_size, batch_interval_ms=batching.batch_interval_ms)
        shown = examples.where(np.isin(examples.kinds, [int(kind) for kind in kinds]))
        groups = map(_group, [*batcher.on_examples(shown), *batcher.flush()])
        self._groups = list(groups if since_ms is None else _since(groups, since_ms))
        self.edges_ms = edges_ms

    def groups(self) -> Iterator[Group]:
        """The batches; what is due after the log's end is not among them."""
        return iter(self._groups)


def _since(groups: Iterable[Group], since_ms: int) -> Iterator[Group]:
    for group in groups:
        times = np.array([shown.event_time_ms for shown in group.rows.impressions], np.int64)
        rows = group.rows.where(times >= since_ms)
        aged, outcomes = (
            [example for example in some if example.impression.event_time_ms >= since_ms]
            for some in (group.aged, group.outcomes)
        )
        if len(rows) or aged or outcomes:
            yield Group(rows, aged, outcomes, group.at_ms)
