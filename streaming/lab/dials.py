"""The dials of a simulated world: what is shown, how people answer, what goes wrong on the way. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import msgspec

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

DEFECT_SHARES = (
    "disorder_share",
    "late_share",
    "redelivered_share",
    "second_fact_share",
    "orphan_share",
    "out_of_window_share",
    "view_through_share",
    "clock_skew_share",
    "future_share",
    "malformed_share",
    "feature_fault_share",
)
"""The dials that are at 0 in a clean world."""


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a simulated log; two equal worlds write equal bytes.

    The shares of defects are of the stream they befall. What goes wrong is drawn apart from what happens: two worlds that
    differ in defects alone show the same impressions and have the same truth.

    Raises:
        ValueError: a dial is out of its range; the message names it, its value and the rule.

    Example:
        >>> World.clean(impressions=1_000).late_share
        0.0
        >>> World(ctr=4)
        Traceback (most recent call last):
        ...
        ValueError: ctr must lie between 0 and 1, both excluded (got 4): it is the mean probability of a click
    """

    seed: int = 0
    impressions: int = 200_000  # about 8,000 clicks and 800 conversions: enough to see a model learn
    days: float = 14.0  # how long impressions are shown; conversions follow for one attribution window more
    start_ms: int = 1_767_571_200_000  # Monday, 2026-01-05T00:00Z

    # who and what
    users: int = 20_000
    items: int = 12_000  # more than 10,000, as in a small shop; a shared table must cope with rare ids
    user_zipf: float = 0.7  # how uneven users are: weight of the r-th is r^-zipf
    item_zipf: float = 0.9  # items are more uneven than users
    new_item_share: float = (
        0.05  # of the items, that appear only in the course of the log; see docs/labels.md for what they meet
    )
    missing_share: float = 0.03  # of ages, cities, brands and qualities, that nobody knows
    rhythm: float = 0.6  # traffic between 1 - rhythm and 1 + rhythm times its mean within a day, highest at 20:00 UTC
    growth_per_day: float = 0.0  # traffic of a day is (1 + growth) times that of the day before

    # how they answer
    ctr: float = 0.04  # mean pCTR
    cvr: float = 0.1  # mean pCVR over clicks
    signal: float = 1.0  # scales what features say about both logits; 0: constant probabilities
    drift_degrees_per_day: float = 2.0  # how far the truth's weights rotate; 28 degrees over two weeks leave cos = 0.88
    click_window_ms: int = 15 * MINUTE_MS
    attribution_window_ms: int = 3 * DAY_MS  # short enough that a log of two weeks shows what lateness does
    short_share: float = 0.35  # of converters, that convert within minutes: the Criteo log within its first hour
    delay_contrast: float = (
        1.0  # sd of the logit of short_share over x; at 0 every converter has one and the same delay law
    )

    # what goes wrong on the way
    out_of_orderness_ms: int = 10_000  # the bound that disorder keeps and lateness breaks
    disorder_share: float = 0.05  # records that arrive late, but within the bound
    late_share: float = 0.002  # records that arrive beyond the bound, by minutes to hours
    late_beyond_closing_share: float = 0.3  # of the late ones, that arrive after their impression has closed
    redelivered_share: float = 0.003  # records that arrive a second time, as exact copies
    second_fact_share: float = 0.01  # clicks and conversions followed by another of the same impression
    orphan_share: float = 0.005  # facts in addition whose impression was never logged
    out_of_window_share: float = 0.005  # facts in addition that come after their window
    view_through_share: float = 0.01  # conversions in addition without a click
    clock_skew_share: float = 0.005  # clicks stamped before their impression
    clock_skew_ms: int = 2_000  # by at most so much
    future_share: float = 0.0002  # impressions and facts in addition that are stamped days after the end, one by one
    malformed_share: float = 0.0005  # lines in addition that cannot be read
    feature_fault_share: float = 0.0005  # impressions whose price is a word

    def __post_init__(self) -> None:
        for rule in (_check_counts, _check_probabilities, _check_times):
            rule(self)

    @classmethod
    def clean(cls, **dials: Any) -> Self:
        """The world of these dials in which nothing goes wrong: defects are 0 unless given."""
        return cls(**(dict.fromkeys(DEFECT_SHARES, 0.0) | dials))

    @property
    def duration_ms(self) -> int:
        """How long impressions are shown."""
        return round(self.days * DAY_MS)


def parse_dials(texts: Sequence[str]) -> dict[str, Any]:
    """Dials as a person writes them, NAME=VALUE.

    Raises:
        ValueError: there is no such dial, or the value is not of its type. Its range is looked at by `World`.

    Example:
        >>> parse_dials(["ctr=0.1", "items=500"])
        {'ctr': 0.1, 'items': 500}
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in World.__struct_fields__:
            raise ValueError(
                f"--dial {text} must be NAME=VALUE with one of the names {', '.join(World.__struct_fields__)}"
            )
        try:
            values[name] = msgspec.convert(value, type(getattr(World(), name)), strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"--dial {text}: {error}") from error
    return values


def _refuse(world: World, name: str, rule: str, reason: str) -> None:
    raise ValueError(f"{name} {rule} (got {getattr(world, name)}): {reason}")


def _check_counts(world: World) -> None:
    for name, least, reason in (
        ("seed", 0, "random numbers start from it"),
        ("impressions", 1, "a log needs an impression"),
        ("users", 1, "somebody must see the impressions"),
        ("items", 100, "new items succeed old ones and categories need a few each"),
    ):
        value = getattr(world, name)
        if not isinstance(value, int) or value < least:
            _refuse(world, name, f"must be a whole number of {least} or more", reason)


def _check_probabilities(world: World) -> None:
    for name, meaning in (
        ("ctr", "the mean probability of a click"),
        ("cvr", "the mean probability that a click converts"),
        ("short_share", "the share of converters with a short delay"),
    ):
        if not 0 < getattr(world, name) < 1:
            _refuse(world, name, "must lie between 0 and 1, both excluded", f"it is {meaning}")
    for name in (*DEFECT_SHARES, "late_beyond_closing_share", "new_item_share", "missing_share", "rhythm"):
        if not 0 <= getattr(world, name) <= 1:
            _refuse(world, name, "must lie between 0 and 1", "it is a share; 0 switches it off")
    for name, most in (
        ("user_zipf", 3.0),
        ("item_zipf", 3.0),
        ("signal", 3.0),
        ("delay_contrast", 3.0),
        ("drift_degrees_per_day", 180.0),
    ):
        if not 0 <= getattr(world, name) <= most:
            _refuse(
                world, name, f"must lie between 0 and {most:g}", "beyond it the world says nothing about a real one"
            )


def _check_times(world: World) -> None:
    if not 0.01 <= world.days <= 3650:
        _refuse(world, "days", "must lie between 0.01 and 3650", "impressions need some time to be spread over")
    if not -0.9 <= world.growth_per_day <= 10 or abs(world.days * world.growth_per_day) > 100:
        _refuse(
            world,
            "growth_per_day",
            "must lie between -0.9 and 10, and times days within 100",
            "traffic would explode or end",
        )
    if not 10**11 <= world.start_ms <= 10**13:
        _refuse(
            world,
            "start_ms",
            "must lie between 1e11 and 1e13",
            "it is UTC epoch milliseconds; smaller looks like seconds",
        )
    for name, least in (
        ("click_window_ms", 1000),
        ("attribution_window_ms", MINUTE_MS),
        ("out_of_orderness_ms", 0),
        ("clock_skew_ms", 0),
    ):
        value = getattr(world, name)
        if not isinstance(value, int) or not least <= value <= 3650 * DAY_MS:
            _refuse(world, name, f"must be a whole number from {least} ms to ten years", "delays are drawn within it")
    if world.attribution_window_ms < world.click_window_ms:
        rule = f"must be at least click_window_ms = {world.click_window_ms}"
        _refuse(world, "attribution_window_ms", rule, "no join waits less for a conversion than for the click")
    if world.disorder_share > 0 and world.out_of_orderness_ms < 2:
        _refuse(
            world,
            "out_of_orderness_ms",
            "must be 2 or more while disorder_share is above 0",
            "there is no room for disorder",
        )
    if world.clock_skew_share > 0 and world.clock_skew_ms < 1:
        _refuse(world, "clock_skew_ms", "must be 1 or more while clock_skew_share is above 0", "no stamp could be off")
