"""Examples to batches; the only door to models/. Must not know how a label was drawn or what is learned from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec
import numpy as np

from models.batch import Aged, Batch, Bool, Event, Matured
from models.delay_edges import bin_of
from streaming.examples import Example, Examples, Kind, Slot
from streaming.features import FeatureReader
from streaming.open_clicks import OpenClicks

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
        inputs=reader.read(list(map(_features, examples.impressions))),
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
    edges = [example.slot - Slot.AGED for example in aged]
    in_bin = [
        bin_of(max(example.conversion_ms - example.click_ms, 0), edges_ms) == edge
        for example, edge in zip(aged, edges, strict=True)
        if example.conversion_ms is not None and example.click_ms is not None
    ]
    features = [example.impression.features for example in aged]
    return Aged(reader.read(features), np.array(edges, np.int64), np.array(in_bin, np.bool_))


def collate_matured(outcomes: Sequence[Example], reader: FeatureReader, observation_window_ms: int) -> Matured:
    """What OUTCOMEs tell the papers' two heads.

    Args:
        outcomes: of a group.
        reader: of the features of these settings.
        observation_window_ms: after the click, when its first label is drawn.
    """
    observed = [
        example.conversion_ms is not None
        and example.click_ms is not None
        and example.conversion_ms - example.click_ms <= observation_window_ms
        for example in outcomes
    ]
    converted = np.array([example.converted for example in outcomes], np.bool_)
    features = [example.impression.features for example in outcomes]
    return Matured(reader.read(features), np.array(observed, np.bool_), converted)


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
    """

    def __init__(self, *, batch_size: int, batch_interval_ms: int) -> None:
        self._batch_size = batch_size
        self._batch_interval_ms = batch_interval_ms
        self._open: list[Examples] = []  # stretches, none of them empty
        self._rows = 0

    def on_examples(self, examples: Examples) -> Iterator[Examples]:
        """Takes examples in order of due time; gives the groups that are complete by that.

        Raises:
            ValueError: they go back in due time.
        """
        self._refuse_disorder(examples)
        groups: list[Examples] = []
        start = 0
        while start < len(examples):
            due_ms = int(examples.due_ms[start])
            if self._open and due_ms >= self._end_ms():
                groups.append(self._take())
            end_ms = (due_ms // self._batch_interval_ms + 1) * self._batch_interval_ms
            stop = int(np.searchsorted(examples.due_ms, end_ms, "left"))
            groups += self._fill(examples[start:stop])
            start = stop
        return iter(groups)

    def _refuse_disorder(self, examples: Examples) -> None:
        dues = examples.due_ms
        if self._open and len(dues):
            dues = np.concatenate([self._open[-1].due_ms[-1:], dues])
        back = np.flatnonzero(np.diff(dues) < 0)
        if len(back):
            before, after = dues[back[0] : back[0] + 2].tolist()
            raise ValueError(
                f"examples must come in order of due time (got due_ms {after} after {before}): "
                "a group would hold other rows than the next time; feed the examples of one partition as they left the join"
            )

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
        return group

    def _end_ms(self) -> int:
        """The first millisecond after the interval that is open."""
        return (int(self._open[-1].due_ms[-1]) // self._batch_interval_ms + 1) * self._batch_interval_ms


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
