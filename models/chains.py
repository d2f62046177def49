"""Which versions hang on which: the deltas back to their snapshot, and what must stay. Names alone; must not know bytes or tensors."""

from __future__ import annotations

from collections.abc import Mapping


def chain_of(name: str, bases: Mapping[str, str | None]) -> list[str]:
    """What must be read to have a version whole: its snapshot, the deltas after it, itself.

    Args:
        name: of the version.
        bases: name -> the name of its base, None for a snapshot.

    Raises:
        KeyError: one of them is not there; its name is the argument.

    Example:
        >>> chain_of("3", {"1": None, "2": "1", "3": "2"})
        ['1', '2', '3']
    """
    chain = [name]
    while (base := bases[chain[-1]]) is not None:
        chain.append(base)
    return chain[::-1]


def retained(bases: Mapping[str, str | None], newest: int) -> set[str]:
    """The newest versions, and all that they hang on.

    Example:
        >>> sorted(retained({"1": None, "2": "1", "3": None, "4": "3", "5": "4"}, 1))
        ['3', '4', '5']
    """
    kept: set[str] = set()
    for name in sorted(bases)[-newest:]:
        at: str | None = name
        while at is not None and at in bases and at not in kept:
            kept.add(at)
            at = bases[at]
    return kept
