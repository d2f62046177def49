"""Examples to batches; the only door to models/. Must not know how a label was drawn or what is learned from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np

from models.batch import Aged, Batch, Bool, Event, Inputs, Matured, rows_of
from models.delay_edges import bin_of
from models.schema import Feature
from streaming.examples import Example, Examples, Kind, Slot
from streaming.features import FeatureReader
from streaming.open_clicks import OpenClicks
from streaming.set_aside import SetAside

_features = attrgetter("features")

# The losses' word for each kind, by the kind's number. An OUTCOME teaches nothing and has none.
_EVENTS = np.array([-1 if kind is Kind.OUTCOME else Event[kind.name] for kind in sorted(Kind)], np.int8)
_IS_ROW = np.array([kind not in (Kind.OUTCOME, Kind.AGED) for kind in sorted(Kind)])


def is_row(examples: Examples) -> Bool:
    """(n,) whether each example is a row of a step; OUTCOMEs score predictions, and AGED teach the delay model alone."""
    return _IS_ROW[examples.kinds]


def collate(examples: Examples, reader: FeatureReader, memory: OpenClicks | None = None) -> Batch:
    """The rows of one step, one for each example, in their order.

    Args:
        examples: those of a group that are rows; none is fine.
        reader: of the features of these settings.
        memory: what clicks were taught before, for methods that adjust it.

    Raises:
        ValueError: one of them is no row.
    """
    return batch_of(examples, reader.read(list(map(_features, examples.impressions))), memory)


def batch_of(examples: Examples, inputs: Inputs, memory: OpenClicks | None = None) -> Batch:
    """The same, of features that have been read.

    Raises:
        ValueError: one of them is no row.
    """
    if not is_row(examples).all():
        raise ValueError(
            "examples must not hold an OUTCOME or an AGED: the one scores predictions, the other teaches the delay model alone; "
            "leave them out before collating"
        )
    click_ms, delay_ms, age_ms = np.full((3, len(examples)), -1, np.int64)
    looks = np.zeros(len(examples), np.int8)
    converted = np.zeros(len(examples), np.float32)
    for row, example in zip(examples.places.tolist(), examples.others, strict=True):  # few
        converted[row] = example.converted
        if example.click_ms is not None:
            click_ms[row], age_ms[row] = example.click_ms, example.due_ms - example.click_ms
            if example.conversion_ms is not None:
                delay_ms[row] = max(example.conversion_ms - example.click_ms, 0)
        if example.kind == Kind.REVISIT:
            looks[row] = example.slot - Slot.REVISIT
    return Batch(
        inputs=inputs,
        events=_EVENTS[examples.kinds],
        converted=converted,
        click_ms=click_ms,
        delay_ms=delay_ms,
        looks=looks,
        age_ms=age_ms,
        memory=None if memory is None else memory.recall(examples),
    )


def collate_aged(aged: Sequence[Example], reader: FeatureReader, edges_ms: tuple[int, ...]) -> Aged:
    """What AGED examples tell the delay model."""
    return aged_of(aged, reader.read([example.impression.features for example in aged]), edges_ms)


def aged_of(aged: Sequence[Example], inputs: Inputs, edges_ms: tuple[int, ...]) -> Aged:
    """The same, of features that have been read."""
    edges = [example.slot - Slot.AGED for example in aged]
    in_bin = [
        bin_of(max(example.conversion_ms - example.click_ms, 0), edges_ms) == edge
        for example, edge in zip(aged, edges, strict=True)
        if example.conversion_ms is not None and example.click_ms is not None
    ]
    return Aged(inputs, np.array(edges, np.int64), np.array(in_bin, np.bool_))


def collate_matured(outcomes: Sequence[Example], reader: FeatureReader, observation_window_ms: int) -> Matured:
    """What OUTCOMEs tell the papers' two heads.

    Args:
        outcomes: of a group.
        reader: of the features of these settings.
        observation_window_ms: after the click, when its first label is drawn.
    """
    return matured_of(outcomes, reader.read([one.impression.features for one in outcomes]), observation_window_ms)


def matured_of(outcomes: Sequence[Example], inputs: Inputs, observation_window_ms: int) -> Matured:
    """The same, of features that have been read."""
    observed = [
        example.conversion_ms is not None
        and example.click_ms is not None
        and example.conversion_ms - example.click_ms <= observation_window_ms
        for example in outcomes
    ]
    converted = np.array([example.converted for example in outcomes], np.bool_)
    return Matured(inputs, np.array(observed, np.bool_), converted)


class Group(NamedTuple):
    """Examples that are learned together.

    Args:
        examples: all of them, in order. rows: those that the step is of. batch: the same, collated; without what clicks were taught,
            and HELD_OUT where nothing is to be learned of the impression.
        aged: what others of them tell the delay model; matured: the papers' two heads, None if there are none.
        at_ms: event time of the batch, the largest due time so far.
    """

    examples: Examples
    rows: Examples
    batch: Batch
    aged: Aged
    matured: Matured | None
    at_ms: int


class Collator:
    """Makes groups of examples, the features of each group read at once.

    Args:
        features: of the settings. edges_ms: of the delay model's bins.
        heads_window_ms: w_o, if the delay model is the papers' two heads.
        set_aside: impressions of which nothing is to be learned; None is none.

    Attributes:
        faults: see `FeatureReader`.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        edges_ms: tuple[int, ...],
        heads_window_ms: int | None,
        set_aside: SetAside | None = None,
    ) -> None:
        self._reader = FeatureReader(features)
        self._edges_ms, self._heads_window_ms = edges_ms, heads_window_ms
        self._set_aside = SetAside(0.0) if set_aside is None else set_aside
        self.faults = self._reader.faults

    def collate(self, examples: Examples, *, at_ms: int) -> Group:
        """One group.

        Args:
            examples: those of the group, in order. at_ms: event time of the batch.
        """
        rows = examples.where(is_row(examples))
        aged = self._to_learn(examples.of_kind(Kind.AGED))
        outcomes = [] if self._heads_window_ms is None else self._to_learn(examples.of_kind(Kind.OUTCOME))
        # Read together: a handful alone costs a millisecond.
        raws = [impression.features for impression in rows.impressions]
        raws += [example.impression.features for example in chain(aged, outcomes)]
        inputs = self._reader.read(raws)
        ends = np.cumsum([len(rows), len(aged), len(outcomes)])
        own, of_aged, of_outcomes = (
            inputs if count == len(inputs) else rows_of(inputs, np.arange(end - count, end))
            for end, count in zip(ends.tolist(), np.diff(ends, prepend=0).tolist(), strict=True)
        )
        matured = None
        if self._heads_window_ms is not None:
            matured = matured_of(outcomes, of_outcomes, self._heads_window_ms)
        batch = batch_of(rows, own)
        if not self._set_aside.is_empty:
            batch.events[self._set_aside.among(rows.impressions)] = Event.HELD_OUT
        return Group(examples, rows, batch, aged_of(aged, of_aged, self._edges_ms), matured, at_ms)

    def _to_learn(self, examples: list[Example]) -> list[Example]:
        if self._set_aside.is_empty:
            return examples
        held_out = self._set_aside.among([example.impression for example in examples])
        return [example for example, is_held_out in zip(examples, held_out.tolist(), strict=True) if not is_held_out]


class Batcher:
    """Groups examples, so that the same examples make the same groups however they and the watermark arrived.

    A group holds examples of one interval of due time, in their order. It leaves when it holds `batch_size` rows, or when its
    interval is over: the watermark has passed the interval's last millisecond, or an example of a later one has come (it could
    not have left the join before that). OUTCOMEs and AGED travel along, but are no rows.

        interval      0               1                        2
        due time      |--------------|------------------------|----
        groups        [ 3 of 4 rows ] [ 4 rows, full ][ 2 rows ]

    Args:
        batch_size: most rows of a group.
        batch_interval_ms: length of an interval of due time; interval n starts at n * batch_interval_ms.
        is_ordered: whether examples never go back in due time. If they may (a join partition comes back that was idle), those
            that do belong to the interval that is open, or to their own if none is.
    """

    def __init__(self, *, batch_size: int, batch_interval_ms: int, is_ordered: bool = True) -> None:
        self._batch_size = batch_size
        self._batch_interval_ms = batch_interval_ms
        self._is_ordered = is_ordered
        self._open: list[Examples] = []  # stretches, none of them empty
        self._rows = 0
        self._newest_ms = 0  # due time of the newest that waits
        self.taken = 0
        """Groups given so far."""

    def on_examples(self, examples: Examples) -> Iterator[Examples]:
        """Takes examples in order of due time; gives the groups that are complete by that.

        Raises:
            ValueError: they go back in due time.
        """
        if self._is_ordered:
            self._refuse_disorder(examples)
        groups: list[Examples] = []
        # As they count here: none before the newest that waits.
        dues = np.maximum(np.maximum.accumulate(examples.due_ms), self._newest_ms if self._open else 0)
        start = 0
        while start < len(examples):
            due_ms = int(dues[start])
            if self._open and due_ms >= self._end_ms():
                groups.append(self._take())
            end_ms = (due_ms // self._batch_interval_ms + 1) * self._batch_interval_ms
            stop = int(np.searchsorted(dues, end_ms, "left"))
            self._newest_ms = int(dues[stop - 1])
            groups += self._fill(examples[start:stop])
            start = stop
        return iter(groups)

    def _refuse_disorder(self, examples: Examples) -> None:
        dues = examples.due_ms
        if self._open and len(dues):
            dues = np.concatenate([[self._newest_ms], dues])
        back = np.flatnonzero(np.diff(dues) < 0)
        if len(back):
            before, after = dues[back[0] : back[0] + 2].tolist()
            raise ValueError(
                f"examples must come in order of due time (got due_ms {after} after {before}): "
                "a group would hold other rows than the next time; feed the examples of one partition as they left the join"
            )

    @property
    def is_open(self) -> bool:
        """Whether a group is held."""
        return bool(self._open)

    def on_watermark(self, watermark_ms: int) -> Iterator[Examples]:
        """Gives the group that is held if its interval is over."""
        return self.flush() if self._open and watermark_ms >= self._end_ms() else iter(())

    def flush(self) -> Iterator[Examples]:
        """Gives the group that is held, whatever the watermark: nothing more will come, or nobody wants to wait for it."""
        return iter([self._take()] if self._open else [])

    def snapshot(self) -> bytes:
        """The group that is held, as `encode_examples` writes it."""
        return encode_examples([example for part in self._open for example in part])

    def restore(self, snapshot: bytes) -> None:
        """Goes on from a snapshot; what was held is forgotten."""
        held = Examples.of(decode_examples(snapshot))
        self._open = [held] if len(held) else []
        self._rows = int(is_row(held).sum())
        self._newest_ms = int(held.due_ms.max(initial=0))

    def _fill(self, examples: Examples) -> Iterator[Examples]:
        """Adds examples of the interval that is open; gives each group that is full."""
        places = np.flatnonzero(is_row(examples))
        start, taken = 0, 0
        while self._rows + len(places) - taken >= self._batch_size:
            taken += self._batch_size - self._rows
            stop = int(places[taken - 1]) + 1
            self._open.append(examples[start:stop])
            yield self._take()
            start = stop
        if start < len(examples):
            self._open.append(examples[start:])
            self._rows += len(places) - taken

    def _take(self) -> Examples:
        group, self._open, self._rows = Examples.joined(self._open), [], 0
        self.taken += 1
        return group

    def _end_ms(self) -> int:
        """The first millisecond after the interval that is open."""
        return (self._newest_ms // self._batch_interval_ms + 1) * self._batch_interval_ms


def encode_examples(examples: Sequence[Example]) -> bytes:
    """Examples as msgpack; their raw features are kept byte for byte, whatever they hold."""
    return msgspec.msgpack.encode(
        [_with_features(example, msgspec.msgpack.encode(bytes(example.impression.features))) for example in examples]
    )


def decode_examples(encoded: bytes) -> list[Example]:
    """What `encode_examples` wrote.

    Raises:
        msgspec.DecodeError: it is something else.

    Example:
        >>> decode_examples(encode_examples([]))
        []
    """
    examples = msgspec.msgpack.decode(encoded, type=list[Example])
    return [
        _with_features(example, msgspec.msgpack.decode(example.impression.features, type=bytes)) for example in examples
    ]


def _with_features(example: Example, features: bytes) -> Example:
    # msgpack has no JSON inside: the JSON travels as a msgpack byte string, which a Raw may hold.
    impression = msgspec.structs.replace(example.impression, features=msgspec.Raw(features))
    return msgspec.structs.replace(example, impression=impression)
