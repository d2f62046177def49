"""Which impressions teach nothing, so that the gate can judge versions by their labels. Must not know how versions are judged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from models.batch import Bool
from streaming.events import Impression
from streaming.ids import Salt
from streaming.publication import Gate

_SALT = Salt("set aside")  # of its own: neither a feature nor another choice by id goes with this one


class SetAside:
    """A share of all impressions, by their ids: the same ones in every run, process and language that does so.

    Args:
        share: from 0 to 1.

    Example:
        >>> from streaming.events import Impression
        >>> shown = [Impression(f"i{number}", 1_700_000_000_000, msgspec.Raw(b"{}")) for number in range(10_000)]
        >>> int(SetAside(0.1).among(shown).sum()), SetAside(0.0).is_empty
        (1044, True)
    """

    def __init__(self, share: float) -> None:
        self._below = np.uint64(min(round(share * 2**64), 2**64 - 1))
        self.is_empty = share == 0

    @classmethod
    def of(cls, rules: Gate) -> SetAside:
        """What these rules set aside: nothing where none of them judges by labels."""
        return cls(rules.held_out_share if rules.judges_labels else 0.0)

    def among(self, impressions: Sequence[Impression]) -> Bool:
        """(n,) whether each is set aside."""
        if self.is_empty or not impressions:
            return np.zeros(len(impressions), np.bool_)
        return _SALT.ids([impression.impression_id for impression in impressions]).view(np.uint64) < self._below

    def has(self, impression_id: str) -> bool:
        """Whether this one is."""
        return not self.is_empty and int.from_bytes(_SALT.digests([impression_id])) < int(self._below)


class JudgedState(msgspec.Struct, frozen=True):
    """What a cut holds of the labels that versions are judged by.

    Args:
        outcomes: the newest of them with their features, as `encode_examples` writes them; nothing where none are kept.
        served: what the version published last said of each; NaN of those that came since.
        has_passed: whether the learner of the cut is one to fall back to.
    """

    outcomes: bytes | None = None
    served: list[float] = []
    has_passed: bool = False
