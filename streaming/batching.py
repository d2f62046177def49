"""Examples to batches; the only door to models/. Must not know how a label was drawn or what is learned from it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec
import numpy as np

from models.batch import Aged, Batch, Bool, Event, Matured
from models.delay_edges import bin_of
from streaming.features import FeatureReader
from streaming.label import Example, Kind, Slot
from streaming.open_clicks import OpenClicks

_kind = attrgetter("kind")
_due_ms = attrgetter("due_ms")
_features = attrgetter("impression.features")
_converted = attrgetter("converted")

# The losses' word for each kind, by the kind's number. An OUTCOME teaches nothing and has none.
_EVENTS = np.array([-1 if kind is Kind.OUTCOME else Event[kind.name] for kind in sorted(Kind)], np.int8)
_IS_ROW = np.array([kind not in (Kind.OUTCOME, Kind.AGED) for kind in sorted(Kind)])
_CLICK_KINDS = np.array([kind not in (Kind.OUTCOME, Kind.AGED, Kind.UNCLICKED) for kind in sorted(Kind)])
_COUNTS_AS_ROW = bytes(int(_IS_ROW[kind]) if kind < len(_IS_ROW) else 0 for kind in range(256))


def is_row(examples: Sequence[Example]) -> Bool:
    """(n,) whether each example is a row of a step; OUTCOMEs score predictions, and AGED teach the delay model alone."""
    return _IS_ROW[np.frombuffer(_kinds(examples), np.uint8)]


def collate(examples: Sequence[Example], reader: FeatureReader, memory: OpenClicks | None = None) -> Batch:
    """The rows of one step, one for each example, in their order.

    Args:
        examples: those of a group that are rows; none is fine.
        reader: of the features of these settings.
        memory: what clicks were taught before, for methods that adjust it.

    Raises:
        ValueError: one of them is no row.
    """
    kinds = np.frombuffer(_kinds(examples), np.uint8)
    if not _IS_ROW[kinds].all():
        raise ValueError(
            "examples must not hold an OUTCOME or an AGED: the one scores predictions, the other teaches the delay model alone; "
            "leave them out before collating"
        )
    click_ms, delay_ms, age_ms = np.full((3, len(examples)), -1, np.int64)
    looks = np.zeros(len(examples), np.int8)
    for row in np.flatnonzero(_CLICK_KINDS[kinds]).tolist():  # few
        example = examples[row]
        if example.click_ms is not None:
            click_ms[row], age_ms[row] = example.click_ms, example.due_ms - example.click_ms
            if example.conversion_ms is not None:
                delay_ms[row] = max(example.conversion_ms - example.click_ms, 0)
        if example.kind == Kind.REVISIT:
            looks[row] = example.slot - Slot.REVISIT
    return Batch(
        inputs=reader.read(list(map(_features, examples))),
        events=_EVENTS[kinds],
        converted=np.fromiter(map(_converted, examples), np.float32, len(examples)),
        click_ms=click_ms,
        delay_ms=delay_ms,
        looks=looks,
        age_ms=age_ms,
        memory=None if memory is None else memory.recall(examples),
    )


def collate_aged(examples: Sequence[Example], reader: FeatureReader, edges_ms: tuple[int, ...]) -> Aged:
    """What the AGED among these examples tell the delay model."""
    is_aged = np.frombuffer(_kinds(examples), np.uint8) == Kind.AGED
    aged = [examples[place] for place in np.flatnonzero(is_aged).tolist()]
    edges = [example.slot - Slot.AGED for example in aged]
    in_bin = [
        bin_of(max(example.conversion_ms - example.click_ms, 0), edges_ms) == edge
        for example, edge in zip(aged, edges, strict=True)
        if example.conversion_ms is not None and example.click_ms is not None
    ]
    return Aged(reader.read(list(map(_features, aged))), np.array(edges, np.int64), np.array(in_bin, np.bool_))


def collate_matured(examples: Sequence[Example], reader: FeatureReader, observation_window_ms: int) -> Matured:
    """What the OUTCOMEs among these examples tell the papers' two heads.

    Args:
        examples: of a group.
        reader: of the features of these settings.
        observation_window_ms: after the click, when its first label is drawn.
    """
    is_outcome = np.frombuffer(_kinds(examples), np.uint8) == Kind.OUTCOME
    outcomes = [examples[place] for place in np.flatnonzero(is_outcome).tolist()]
    observed = [
        example.conversion_ms is not None
        and example.click_ms is not None
        and example.conversion_ms - example.click_ms <= observation_window_ms
        for example in outcomes
    ]
    converted = np.fromiter(map(_converted, outcomes), np.bool_, len(outcomes))
    return Matured(reader.read(list(map(_features, outcomes))), np.array(observed, np.bool_), converted)


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
        self._open: list[Example] = []
        self._rows = 0

    def on_examples(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        """Takes examples in order of due time; gives the groups that are complete by that.

        Raises:
            ValueError: they go back in due time; seen where the list starts and ends, not at every example.
        """
        groups: list[list[Example]] = []
        start = 0
        while start < len(examples):
            first = examples[start]
            if self._open:
                if first.due_ms < self._open[-1].due_ms:
                    raise _out_of_order(self._open[-1], first)
                if first.due_ms >= self._end_ms():
                    groups.append(self._take())
            end_ms = (first.due_ms // self._batch_interval_ms + 1) * self._batch_interval_ms
            # Examples come in long lists, in order: one look at the last mostly tells that all are of one interval.
            stop = len(examples)
            if examples[-1].due_ms >= end_ms:
                stop = bisect_left(examples, end_ms, lo=start, key=_due_ms)
            elif examples[-1].due_ms < first.due_ms:
                raise _out_of_order(first, examples[-1])
            groups += self._fill(examples[start:stop])
            start = stop
        return iter(groups)

    def on_watermark(self, watermark_ms: int) -> Iterator[list[Example]]:
        """Gives the group that is held if its interval is over."""
        return self.flush() if self._open and watermark_ms >= self._end_ms() else iter(())

    def flush(self) -> Iterator[list[Example]]:
        """Gives the group that is held, whatever the watermark: nothing more will come, or nobody wants to wait for it."""
        return iter([self._take()] if self._open else [])

    def snapshot(self) -> bytes:
        """The group that is held, as `encode_examples` writes it."""
        return encode_examples(self._open)

    def restore(self, snapshot: bytes) -> None:
        """Goes on from a snapshot; what was held is forgotten."""
        self._open = decode_examples(snapshot)
        self._rows = _count_rows(_kinds(self._open))

    def _fill(self, examples: Sequence[Example]) -> Iterator[list[Example]]:
        """Adds examples of the interval that is open; gives each group that is full."""
        kinds = _kinds(examples)
        start = 0
        # Where each row stands, counted from the start. Looked up only if this list fills a group.
        rows = _count_rows(kinds)
        if self._rows + rows >= self._batch_size:
            places = np.flatnonzero(_IS_ROW[np.frombuffer(kinds, np.uint8)])
            taken = 0
            while self._rows + rows >= self._batch_size:
                wanted = self._batch_size - self._rows
                stop = int(places[taken + wanted - 1]) + 1
                self._open += examples[start:stop]
                yield self._take()
                start, taken, rows = stop, taken + wanted, rows - wanted
        self._open += examples[start:]
        self._rows += rows

    def _take(self) -> list[Example]:
        group, self._open, self._rows = self._open, [], 0
        return group

    def _end_ms(self) -> int:
        """The first millisecond after the interval that is open."""
        return (self._open[-1].due_ms // self._batch_interval_ms + 1) * self._batch_interval_ms


def _count_rows(kinds: bytes) -> int:
    return kinds.translate(_COUNTS_AS_ROW).count(1)


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


def _kinds(examples: Sequence[Example]) -> bytes:
    return bytes(map(_kind, examples))  # 30 ns an example, and counting in bytes is next to nothing


def _out_of_order(before: Example, after: Example) -> ValueError:
    return ValueError(
        f"examples must come in order of due time (got due_ms {after.due_ms} after {before.due_ms}): "
        "a group would hold other rows than the next time; feed the examples of one partition as they left the join"
    )
