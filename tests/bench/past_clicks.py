"""How many clicks the item of an impression had lately, beside what its true pCTR expected; must not know a model."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.batch import Float64
from streaming.lab.world import truth_of

_SPAN_MS = 3 * 86_400_000
_PRIOR = 0.5  # clicks, had and expected: an item that was hardly shown is near 1


def clicks_over_expected(log: Path, names: Sequence[str], feature: str = "item_id") -> Float64:
    """Of each impression named: clicks of the same item in the three days before it, over the sum of their true pCTR; 1 for one that is not in the log.

    Args:
        log: directory of a simulated log. names: of impressions. feature: what makes them the same item.
    """
    truth = truth_of(log)
    known = zip(truth.impression_id.tolist(), truth.event_time_ms.tolist(), truth.pctr.tolist(), strict=True)
    of = {name: (at_ms, pctr) for name, at_ms, pctr in known}
    clicked = {str(record.get("impression_id")) for record in _records(log / "clicks.jsonl")}
    shown: dict[str, object] = {}
    for record in _records(log / "impressions.jsonl"):
        name, features = str(record.get("impression_id")), record.get("features")
        if name in of and isinstance(features, dict):
            shown.setdefault(name, features.get(feature))
    wanted, ratio = set(names), {}
    past: dict[object, deque[tuple[int, float, float]]] = {}
    for name in sorted(shown, key=of.__getitem__):
        (at_ms, pctr), mine = of[name], past.setdefault(shown[name], deque())
        while mine and mine[0][0] < at_ms - _SPAN_MS:
            mine.popleft()
        if name in wanted:
            had, expected = sum(each[1] for each in mine), sum(each[2] for each in mine)
            ratio[name] = (had + _PRIOR) / (expected + _PRIOR)
        mine.append((at_ms, float(name in clicked), pctr))
    return np.array([ratio.get(name, 1.0) for name in names])


def _records(path: Path) -> Iterator[dict[str, object]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # a malformed line is one of the world's mishaps
                continue
