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


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: features, and what each row is to teach.

    Args:
        inputs: the features.
        events: (B,) `Event` codes.
        converted: (B,) 1.0 where the row's label says converted, else 0.0.
    """

    inputs: Inputs
    events: Int8
    converted: Float32

    def __len__(self) -> int:
        return len(self.events)
