"""Which kind of feature the values of a column make; must not know windows, streams or how the settings are written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.schema import Feature

FEW_INTEGERS = 50  # distinct integers up to which a count reads as a category: hours, positions, age bands
LARGE_INTEGER = 1_000_000  # integers whose median lies above this are taken for ids: few quantities are that large
ONE_EACH = 1_000  # values all different among this many rows identify the row and teach nothing about the next one
MOSTLY = 0.99  # share of a column's values that must be of one type; the rest will count as missing
HEAVY_SKEW = 2.0  # skewness (an exponential's) from which a positive quantity is looked at in logarithms

_HISTORY = re.compile(r"hist|recent|last|prev|session|seq|viewed|clicked|bought|visited")
_UNWRITABLE = re.compile(r"[\"\\\x00-\x1f]|^\.|\.\.|\.$")  # what a path of the settings cannot hold
_IDENTIFIER = re.compile(r"(^|[_\-.])ids?$|[a-z]Ids?$|ID$")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A feature as the settings should have it, or None where it is better left out; and why."""

    name: str
    feature: Feature | None
    why: str


def leaves(features: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object, by its dotted path.

    Example:
        >>> list(leaves({"user": {"age": 31}, "tags": ["a"]}))
        [('user.age', 31), ('tags', ['a'])]
    """
    for key, value in features.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def suggest(name: str, values: Sequence[Any], rows: int) -> Suggestion:
    """What to make of a feature.

    Args:
        name: its dotted path.
        values: those seen, without the missing ones (absent or null).
        rows: impressions looked at, missing ones included.

    Example:
        >>> suggest("hour", [3, 4, 3, 5], rows=4).feature.kind
        'categorical'
        >>> suggest("hour", [3, 3, 3], rows=3)
        Suggestion(name='hour', feature=None, why='always 3: a constant teaches nothing')
    """
    if not name or _UNWRITABLE.search(name):
        return Suggestion(
            name, None, "a name that is empty, or holds a quotation mark, a backslash or a control character"
        )
    if not values:
        return Suggestion(name, None, "never has a value")
    types = Counter(_type(value) for value in values)
    if types.keys() == {"integer", "float"}:  # JSON writers drop ".0"
        types = Counter({"float": len(values)})
    kind, count = types.most_common(1)[0]
    if count < MOSTLY * len(values):
        mix = ", ".join(f"{type_} {share / len(values):.0%}" for type_, share in types.most_common())
        return Suggestion(name, None, f"is of several types ({mix}): log it as one")
    if count < len(values):
        values = [value for value in values if _type(value) == kind]
    missing = 1 - len(values) / rows if rows else 0.0
    gaps = f", {missing:.1%} missing" if missing else ""
    if kind == "list":
        return _of_lists(name, values, gaps)
    distinct = len(set(values))
    if distinct == 1 and not missing:
        return Suggestion(name, None, f"always {_shown(values[0])}: a constant teaches nothing")
    if kind == "float":
        return _of_numbers(name, np.array(values, dtype=np.float64), f"floats{gaps}")
    if kind == "integer" and distinct > FEW_INTEGERS and not _is_identifier(name, values):
        return _of_numbers(name, np.array(values, dtype=np.float64), f"integers, {distinct:,} different{gaps}")
    if distinct == len(values) >= ONE_EACH:
        return Suggestion(
            name, None, f"different in each of {len(values):,} rows: it names the row and says nothing of others"
        )
    return Suggestion(name, Feature(name=name, kind="categorical"), f"{kind}, {distinct:,} different{gaps}")


def _of_lists(name: str, lists: Sequence[list[Any]], gaps: str) -> Suggestion:
    items = Counter(_type(item) for values in lists for item in values)
    if not items:
        return Suggestion(name, None, "only empty lists")
    if not items.keys() <= {"string", "integer", "boolean"}:
        return Suggestion(
            name, None, f"lists of {', '.join(sorted(items))}: only lists of ids have a kind of their own"
        )
    distinct = len({item for values in lists for item in values})
    lengths = np.array([len(values) for values in lists])
    longer = [values for values in lists if len(values) > 1]
    repeating = sum(len(set(values)) < len(values) for values in longer) / max(len(longer), 1)
    in_order = repeating > 0.01 or _HISTORY.search(name.lower()) is not None
    why = f"lists of {', '.join(sorted(items))}, {distinct:,} different, {lengths.mean():.3g} a row{gaps}"
    why += "; the name or repeats say that order counts" if in_order else ""
    # Nineteen of twenty lists whole; the rest keep their newest values.
    most = int(np.quantile(lengths, 0.95, method="higher"))
    return Suggestion(
        name,
        Feature(name=name, kind="sequence" if in_order else "multi", max_length=min(max(-(-most // 5) * 5, 5), 200)),
        why,
    )


def _of_numbers(name: str, values: np.ndarray[Any, np.dtype[np.float64]], why: str) -> Suggestion:
    # Values near the largest float overflow a variance; `_rounded` takes what comes of it for "no scale".
    with np.errstate(over="ignore", invalid="ignore"):
        return _scaled(name, values, why)


def _scaled(name: str, values: np.ndarray[Any, np.dtype[np.float64]], why: str) -> Suggestion:
    if not np.ptp(values) > 0:
        return Suggestion(
            name, Feature(name=name, kind="numeric", center=_rounded(values[0])), f"{why}; one value or missing"
        )
    why = f"{why}, {values.min():.4g} to {values.max():.4g}"
    transformed, transform = values, "none"
    if values.min() >= 0 and _skewness(values) > HEAVY_SKEW:
        logged = np.log1p(values)
        if abs(_skewness(logged)) < _skewness(values) / 2:
            transformed, transform = logged, "log"
            why += f"; skewness {_skewness(values):.2g} falls to {_skewness(logged):.2g} in logarithms"
    center, scale = _rounded(transformed.mean()), _rounded(transformed.std())
    return Suggestion(
        name,
        Feature(
            name=name,
            kind="numeric",
            transform="log" if transform == "log" else "none",
            center=center,
            scale=scale or 1.0,
        ),
        why,
    )


def _is_identifier(name: str, values: Sequence[int]) -> bool:
    return (
        _IDENTIFIER.search(name) is not None
        or float(np.median(np.abs(np.array(values, dtype=np.float64)))) >= LARGE_INTEGER
    )


def _skewness(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "integer", float: "float", list: "list"}.get(type(value), "object")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if np.isfinite(value) else 0.0


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
