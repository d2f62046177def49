"""Which share of the ids that scorers are asked about has no row, feature by feature. Must not know what an id means or who is told."""

from __future__ import annotations

from collections.abc import Mapping


class UnseenShares:
    """The share of a feature's newest ids that the weights have no row for.

    A model whose ids are missing still answers, and every answer looks alike: this is where it shows. Sums are halved whenever they
    reach `window`, so that the newest `window` or so ids count.

    Args:
        window: ids over which the share is taken. Below a tenth of it there is no alarm: a share of few is chance.
        alarm_share: above it the alarm of the feature is on.

    Attributes:
        seen, unseen: feature -> ids looked up since the start, and those of them without a row.

    Example:
        >>> shares = UnseenShares(window=100, alarm_share=0.5)
        >>> shares.add({"user": 10, "item": 10}, {"user": 6, "item": 0})
        >>> shares.share("user"), shares.alarms()
        (0.6, ['user'])
    """

    def __init__(self, *, window: int, alarm_share: float) -> None:
        self._window, self._alarm_share = window, alarm_share
        self._recent: dict[str, tuple[float, float]] = {}
        self.seen: dict[str, int] = {}
        self.unseen: dict[str, int] = {}

    def add(self, seen: Mapping[str, int], unseen: Mapping[str, int]) -> None:
        """Counts the ids of one answer."""
        for feature, count in seen.items():
            new = unseen.get(feature, 0)
            self.seen[feature] = self.seen.get(feature, 0) + count
            self.unseen[feature] = self.unseen.get(feature, 0) + new
            total, without = self._recent.get(feature, (0.0, 0.0))
            total, without = total + count, without + new
            self._recent[feature] = (total, without) if total < self._window else (total / 2, without / 2)

    def share(self, feature: str) -> float | None:
        """The recent share; None before the first id."""
        total, without = self._recent.get(feature, (0.0, 0.0))
        return without / total if total else None

    def alarms(self) -> list[str]:
        """The features whose recent share is above the alarm's."""
        return [
            feature
            for feature, (total, without) in self._recent.items()
            if total >= self._window / 10 and without > self._alarm_share * total
        ]
