"""Which column of a batch belongs to which feature; must not know how a value was parsed or what its vector is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.schema import Feature


@dataclass(frozen=True, slots=True)
class Columns:
    """The features in the order in which a batch carries them.

    Args:
        single: the F single-valued embedded features: categorical, then bucketed numbers, then crossed, each in settings order.
        bags: the G multi-value and sequence features, in settings order.
        numbers: the K plain numbers, in settings order.

    Example:
        >>> columns = Columns.of([Feature(name="price", kind="numeric"), Feature(name="user", kind="categorical")])
        >>> [feature.name for feature in columns.single], [feature.name for feature in columns.numbers]
        (['user'], ['price'])
    """

    single: tuple[Feature, ...]
    bags: tuple[Feature, ...]
    numbers: tuple[Feature, ...]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> Columns:
        """The columns of these features."""
        return cls(
            single=(
                *(feature for feature in features if feature.kind == "categorical"),
                *(feature for feature in features if feature.kind == "numeric" and feature.is_embedded),
                *(feature for feature in features if feature.kind == "crossed"),
            ),
            bags=tuple(feature for feature in features if feature.is_bag),
            numbers=tuple(feature for feature in features if not feature.is_embedded),
        )

    @property
    def embedded(self) -> tuple[Feature, ...]:
        """The F + G features that have vectors."""
        return self.single + self.bags


def salt_of(feature: Feature) -> str:
    """What the ids of a feature are salted with: its own name, or the name of the feature whose ids it shares."""
    return feature.ids_of or feature.name
