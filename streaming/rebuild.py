"""A model built anew from the examples of a run; must not know where lines and features were read, or what becomes of it.

What the new learner is taught, in order of due time, so that the stream can go on with it:

    impressions      UNCLICKED and CLICKED, as they left within the days that are looked back on
    closed clicks    one row each, with the final label, where their OUTCOME left within these days
    open clicks      what has left of them so far, however long ago: what is still to come will find it taught

Late facts have their say: an impression that they tell something of is taught as it is known now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from heapq import merge
from itertools import islice

import msgspec
import numpy as np

from models.batch import Bool, Float64
from models.delay import Method, method_of
from models.loss import OBJECTIVES, objective_of
from models.safeguards import Refusal
from models.traffic import Growth, Kappa
from models.trainer import Learner, Snapshot
from models.weighted import Weighted
from streaming.adapters.log_features import ImpressionKey
from streaming.batching import Batcher, collate
from streaming.events import Impression
from streaming.examples import Example, Examples, Kind, Slot, slot_name
from streaming.features import FeatureReader
from streaming.late_facts import Truth
from streaming.open_clicks import OpenClick, OpenClicks
from streaming.outputs import ExampleLine, example_lines
from streaming.set_aside import SetAside
from streaming.settings import Settings

_SLOTS = {slot_name(slot): slot for slot in (Slot.CLICK, Slot.OBSERVED, *range(Slot.REVISIT, Slot.OUTCOME + 1))}
_CLICK_LABELS = (Kind.UNCLICKED, Kind.CLICKED)


class OpenKeys:
    """Finds the clicks that are still open, and all impressions whose features are needed.

    Args:
        from_ms: examples due up to here are not looked back on.
    """

    def __init__(self, from_ms: int) -> None:
        self._from_ms = from_ms
        self.open: set[ImpressionKey] = set()
        self.within: set[ImpressionKey] = set()

    def on_line(self, line: ExampleLine) -> None:
        """Takes the next line of examples.jsonl."""
        key = line.impression_id, line.impression_ms
        if line.kind == "OUTCOME":
            self.open.discard(key)
        elif line.click_ms is not None:
            self.open.add(key)
        if line.due_ms > self._from_ms and line.kind in ("UNCLICKED", "CLICKED", "OUTCOME"):
            self.within.add(key)


def rows_of(
    lines: Iterable[ExampleLine],
    truths: Mapping[ImpressionKey, Truth],
    features: Mapping[ImpressionKey, msgspec.Raw],
    *,
    keys: OpenKeys,
    settings: Settings,
    from_ms: int,
) -> Iterator[Example]:
    """The rows of a rebuilt model, in order of due time.

    Args:
        lines: of examples.jsonl.
        truths: of impressions that late facts tell something of; their lines are left out.
        features: of every impression that is looked back on.
        keys: what a first pass over the same lines found.
        settings: of the run.
        from_ms: due time from which on, itself left out, is looked back.
    """
    kinds = {Kind(event).name for event in method_of(settings.labels.method).sees} - {"MATURED"}
    aside = SetAside.of(settings.gate)
    late = sorted(_late_rows(truths, features, settings, from_ms), key=_order)
    joined = (
        example
        for line in lines
        if (key := (line.impression_id, line.impression_ms)) not in truths
        and not aside.has(line.impression_id)
        and (example := _row(line, key, features, keys.open, kinds, from_ms)) is not None
    )
    return merge(joined, late, key=_order)


def _order(example: Example) -> tuple[int, str, int]:
    return example.due_ms, example.impression.impression_id, example.slot


def _row(
    line: ExampleLine,
    key: ImpressionKey,
    features: Mapping[ImpressionKey, msgspec.Raw],
    opened: Set[ImpressionKey],
    kinds: Set[str],
    from_ms: int,
) -> Example | None:
    kind, slot = Kind[line.kind], _SLOTS[line.slot]
    if kind == Kind.OUTCOME:
        kind, slot = Kind.MATURED, int(Slot.SETTLED)
    elif kind not in _CLICK_LABELS:
        if key not in opened or line.kind not in kinds:
            return None
        from_ms = line.due_ms - 1
    if line.due_ms <= from_ms:
        return None
    impression = Impression(line.impression_id, line.impression_ms, features[key])
    return Example(
        line.due_ms, kind, slot, line.p, impression, line.click_ms, line.conversion_ms, line.converted, line.value
    )


def _late_rows(
    truths: Mapping[ImpressionKey, Truth],
    features: Mapping[ImpressionKey, msgspec.Raw],
    settings: Settings,
    from_ms: int,
) -> Iterator[Example]:
    for (impression_id, impression_ms), truth in truths.items():
        impression = Impression(impression_id, impression_ms, features[impression_id, impression_ms])
        due_ms, click_ms = impression_ms + settings.windows.click_window_ms, truth.click_ms
        if truth.is_click_final and due_ms > from_ms:
            kind = Kind.UNCLICKED if click_ms is None else Kind.CLICKED
            yield Example(due_ms, kind, Slot.CLICK, 0, impression, click_ms)
        if click_ms is not None and truth.is_click_final and truth.is_label_final:
            due_ms = click_ms + settings.windows.attribution_window_ms
            facts = click_ms, truth.conversion_ms, truth.conversion_ms is not None, truth.value
            if due_ms > from_ms:
                yield Example(due_ms, Kind.MATURED, Slot.SETTLED, 0, impression, *facts)


class Rebuilding:
    """Teaches a fresh learner with rows, group by group.

    Closed clicks are taught by their labels, open ones as the method weighs them. Kappa is that of the rebuilt rows, of which clicks
    have their own share; the one of the stream stays as it is.

    Args:
        settings: of the run.
        learner: fresh.
        stream: state of the learner that is to be replaced: its delay model and its traffic go on.
    """

    def __init__(self, settings: Settings, learner: Learner, stream: Snapshot) -> None:
        learner.follow(stream)
        self._settings, self._learner = settings, learner
        self._method: Method = method_of(settings.labels.method)
        network, batching = settings.network, settings.batching
        self._objective = objective_of(network.objective, composed_weight=network.composed_weight)
        self._batcher = Batcher(batch_size=batching.batch_size, batch_interval_ms=batching.batch_interval_ms)
        self._reader = FeatureReader(settings.features)
        self._kappa = Kappa(half_life_ms=batching.kappa_half_life_ms)
        self._growth = Growth(reach_ms=settings.windows.attribution_window_ms)
        self._growth.restore(stream.state["teaching"]["growth"])
        self._memory = OpenClicks() if self._method.adjusts else None
        self.taught: dict[str, int] = {}
        """Kind -> rows that were taught."""
        self.refused: dict[str, int] = {}
        """Reason -> rows of batches that were not learned."""

    @property
    def clicks(self) -> dict[str, OpenClick] | None:
        """What open clicks have been taught, for methods that adjust it."""
        return None if self._memory is None else self._memory.snapshot()

    def teach(self, rows: Iterable[Example]) -> Iterator[bytes]:
        """Teaches rows in order of due time; gives them as lines of examples.jsonl, group by group."""
        rest = iter(rows)
        while portion := list(islice(rest, self._settings.batching.batch_size)):
            for group in self._batcher.on_examples(Examples.of(portion)):
                yield self._learn(group)
        for group in self._batcher.flush():
            yield self._learn(group)

    def _learn(self, group: Examples) -> bytes:
        at_ms, kinds = int(group.due_ms[-1]), group.kinds
        unclicked, clicked = (np.asarray(kinds == kind, np.float64) for kind in _CLICK_LABELS)
        is_open = ~np.isin(kinds, (*_CLICK_LABELS, Kind.MATURED))
        open_rows = group.where(is_open)
        pairs = self._closed_pairs(group, kinds == Kind.MATURED, at_ms)
        lesson = None
        if len(open_rows):
            lesson = self._learner.weigh(collate(open_rows, self._reader, self._memory), at_ms=at_ms)
            pairs[:, is_open] = lesson.positive, lesson.negative
        # As the learner does it: without an unclicked impression beside them, clicks are taught by themselves.
        objective = self._objective if unclicked.any() else OBJECTIVES["composed"]
        kappa = self._kappa.value if self._settings.labels.kappa else 1.0
        by_unclicked = kappa * unclicked if objective.counts_unclicked else np.zeros(len(group))
        told = np.stack([pairs[0], pairs[1] + by_unclicked])
        refusal = self._learner.teach_many(
            self._reader.read([shown.features for shown in group.impressions]),
            Weighted(clicked, unclicked, product=objective.product * told, composed=objective.composed * pairs),
        )
        outcomes = [example.converted for example in group.of_kind(Kind.MATURED)]
        self._learner.observe_outcomes(len(outcomes), sum(outcomes))
        if refusal is None:
            mass = float(pairs.sum()) if objective.counts_unclicked else 0.0
            self._kappa.update(mass=mass, clicks=int(clicked.sum()), at_ms=at_ms)
        if self._memory is not None and lesson is not None:
            if refusal is None and lesson.memory is not None:
                self._memory.remember(open_rows, lesson.memory)
            else:
                self._memory.settle(open_rows)
        self._count(group, refusal)
        if refusal is not None:
            return example_lines(group, None, None, None)
        return example_lines(group, told[0], told[1], self._learner.step)

    def _closed_pairs(self, group: Sequence[Example], closed: Bool, at_ms: int) -> Float64:
        """(2, B) a+ and a- of closed clicks, by their labels; 0 on other rows."""
        label = np.array([example.converted for example in group], np.float64)
        return np.stack([label, 1 - label]) * (closed * self._rho(group, at_ms))

    def _rho(self, group: Sequence[Example], at_ms: int) -> Float64:
        if not self._settings.labels.growth:
            return np.ones(len(group))
        click_ms = [at_ms if example.click_ms is None else example.click_ms for example in group]
        return self._growth.ratio(np.array(click_ms, np.int64), at_ms=at_ms)

    def _count(self, group: Sequence[Example], refusal: Refusal | None) -> None:
        if refusal is not None:
            self.refused[refusal.reason] = self.refused.get(refusal.reason, 0) + len(group)
            return
        for example in group:
            self.taught[example.kind.name] = self.taught.get(example.kind.name, 0) + 1
