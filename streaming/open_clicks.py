"""What each open click has been taught, for methods that adjust it until it is settled; must not know how it is taught."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from models.batch import ClickMemory
from streaming.examples import Examples, Kind

_ON_CLICK = frozenset(
    (Kind.IMMEDIATE_POSITIVE, Kind.OBSERVED_NEGATIVE, Kind.REVISIT, Kind.DELAYED_POSITIVE, Kind.REAL_NEGATIVE)
)
_SETTLING = frozenset((Kind.IMMEDIATE_POSITIVE, Kind.DELAYED_POSITIVE, Kind.REAL_NEGATIVE))


class OpenClick(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The pCVR that the click's first event was weighed with, and the a+ and a- it has been taught in all."""

    first_f: float
    positive: float
    negative: float


class OpenClicks:
    """What `ClickMemory` holds, by impression, from a click's first event to the one that settles it.

    Example:
        >>> from streaming.events import Impression
        >>> from streaming.examples import Example
        >>> shown = Impression("i-1", 1_700_000_000_000, msgspec.Raw(b"{}"))
        >>> observed = Example(1_700_003_600_000, Kind.OBSERVED_NEGATIVE, 1, 0, shown, click_ms=1_700_000_000_000)
        >>> first = Examples.of([observed])
        >>> clicks = OpenClicks()
        >>> memory = clicks.recall(first)
        >>> memory.click.tolist(), memory.negative.tolist()
        ([0], [nan])
        >>> clicks.remember(first, ClickMemory(memory.click, np.array([0.2]), np.array([0.0]), np.array([0.9])))
        >>> clicks.recall(first).negative.tolist()
        [0.9]
    """

    def __init__(self) -> None:
        self._open: dict[str, OpenClick] = {}

    def __len__(self) -> int:
        return len(self._open)

    def recall(self, examples: Examples) -> ClickMemory:
        """What is known of the clicks that these examples are about."""
        numbers: dict[str, int] = {}
        click = np.full(len(examples), -1, np.int64)
        for row, name in _clicks(examples):
            click[row] = numbers.setdefault(name, len(numbers))
        nothing = OpenClick(np.nan, np.nan, np.nan)
        known = [self._open.get(name, nothing) for name in numbers]
        columns = np.array([(own.first_f, own.positive, own.negative) for own in known], np.float64).reshape(-1, 3).T
        return ClickMemory(click, *columns)

    def remember(self, examples: Examples, memory: ClickMemory) -> None:
        """Takes what these examples' clicks were told; those that are settled by it are forgotten."""
        for row, name in _clicks(examples):
            number = memory.click[row]
            if not np.isnan(memory.negative[number]):
                taught = float(memory.positive[number]), float(memory.negative[number])
                self._open[name] = OpenClick(float(memory.first_f[number]), *taught)
        self.settle(examples)

    def settle(self, examples: Examples) -> None:
        """Forgets the clicks that these examples settle."""
        for example in examples.others:
            if example.kind in _SETTLING:
                self._open.pop(example.impression.impression_id, None)

    def snapshot(self) -> dict[str, OpenClick]:
        """All that is open."""
        return dict(self._open)

    def restore(self, snapshot: dict[str, OpenClick]) -> None:
        """Takes up what `snapshot` gave, in place of all there was."""
        self._open = dict(snapshot)


def _clicks(examples: Examples) -> Iterable[tuple[int, str]]:
    return (
        (row, example.impression.impression_id)
        for row, example in zip(examples.places.tolist(), examples.others, strict=True)
        if example.kind in _ON_CLICK
    )
