"""What one step of the learner sees, as arrays; must not know how a row was logged, joined or labelled.

Letters used for shapes in this package:
    B  rows (examples) of the batch
    F  single-valued embedded features (categorical, crossed, bucketed numbers), in the order of the schema
    G  bags (multi-value and sequence features), in the order of the schema
    N  ids in all bags together
    K  plain numbers, in the order of the schema
    D  width of an embedding vector
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class Event(IntEnum):
    """What a row tells the losses; the rows of the tables in `delay.py`."""

    UNCLICKED = 0
    CLICKED = 1
    IMMEDIATE_POSITIVE = 2
    OBSERVED_NEGATIVE = 3
    REVISIT = 4
    AGED = 5
    DELAYED_POSITIVE = 6
    REAL_NEGATIVE = 7
    MATURED = 8
    ORACLE = 9
    HELD_OUT = 10
    """Predicted with the others, and taught nothing."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The features of B rows.

    Args:
        ids: (B, F) 64-bit ids, salted by feature, so that equal values of two features differ. Every cell holds an id;
            a missing value has an id of its own.
        bag_ids: (N,) 64-bit ids, bag after bag; the bags of the first feature first, in row order.
        bag_offsets: (G * B + 1,) where each bag starts in `bag_ids`; bag g of row b is number g * B + b. A missing or empty list
            holds the one id that stands for missing.
        numbers: (B, K) after their transformation; NaN is missing.
    """

    ids: Int64
    bag_ids: Int64
    bag_offsets: Int64
    numbers: Float32

    def __len__(self) -> int:
        return len(self.numbers)


def rows_of(inputs: Inputs, rows: Int64) -> Inputs:
    """Some rows of a batch, in the order given."""
    count = len(inputs)
    bags = (len(inputs.bag_offsets) - 1) // count if count else 0
    kept = (np.arange(bags)[:, None] * count + rows).ravel()  # bag g of row b is number g * B + b
    starts = inputs.bag_offsets[kept]
    sizes = inputs.bag_offsets[kept + 1] - starts
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.add.accumulate(sizes, out=offsets[1:])
    ids = (starts - offsets[:-1]).repeat(sizes) + np.arange(offsets[-1])
    return Inputs(inputs.ids[rows], inputs.bag_ids[ids], offsets, inputs.numbers[rows])


@dataclass(frozen=True, slots=True)
class ClickMemory:
    """What the C clicks of a batch were told before it, or after it.

    Args:
        click: (B,) which click each row is about, 0 to C - 1; -1 for rows of none.
        first_f: (C,) the pCVR that its first event was weighed with; NaN before that.
        positive, negative: (C,) the a+ and a- that it has been taught in all; NaN before its first event.
    """

    click: Int64
    first_f: Float64
    positive: Float64
    negative: Float64


@dataclass(frozen=True, slots=True)
class Aged:
    """Converters whose clicks have just reached an edge of the delay model's bins.

    Args:
        inputs: the features, n rows.
        edges: (n,) which edge, k.
        in_bin: (n,) whether the delay falls in bin k; else it is shorter.
    """

    inputs: Inputs
    edges: Int64
    in_bin: Bool

    def __len__(self) -> int:
        return len(self.edges)


@dataclass(frozen=True, slots=True)
class Matured:
    """Clicks whose labels are final.

    Args:
        inputs: the features, n rows.
        observed: (n,) whether they converted within the observation window.
        converted: (n,) whether they converted within the attribution window.
    """

    inputs: Inputs
    observed: Bool
    converted: Bool

    def __len__(self) -> int:
        return len(self.converted)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: features, and what each row is to teach.

    Args:
        inputs: the features.
        events: (B,) `Event` codes.
        converted: (B,) 1.0 where the row's label says converted, else 0.0.
        click_ms: (B,) event time of the click; -1 where there is none.
        delay_ms: (B,) of the conversion after the click; -1 where none is known.
        looks: (B,) of a REVISIT, which horizon it is; else 0.
        age_ms: (B,) how old the click was when the row was due; -1 where there is none. Of a conversion that became known late, more
            than `delay_ms`.
        memory: what clicks were taught before, for methods that adjust it; None for the others.
    """

    inputs: Inputs
    events: Int8
    converted: Float32
    click_ms: Int64
    delay_ms: Int64
    looks: Int8
    age_ms: Int64
    memory: ClickMemory | None = None

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        events: Int8,
        converted: Float32,
        *,
        click_ms: Int64 | None = None,
        delay_ms: Int64 | None = None,
        looks: Int8 | None = None,
        age_ms: Int64 | None = None,
        memory: ClickMemory | None = None,
    ) -> Batch:
        """A batch that needs not tell everything: None is -1 for times, 0 for looks."""
        rows = len(events)
        return cls(
            inputs,
            events,
            converted,
            np.full(rows, -1, np.int64) if click_ms is None else click_ms,
            np.full(rows, -1, np.int64) if delay_ms is None else delay_ms,
            np.zeros(rows, np.int8) if looks is None else looks,
            np.full(rows, -1, np.int64) if age_ms is None else age_ms,
            memory,
        )

    def __len__(self) -> int:
        return len(self.events)
