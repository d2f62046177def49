"""The users and items of a simulated world, and what they like; must not know when anything is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.lab.delays import Floats, Ints
from streaming.lab.dials import World

BRANDS, CATEGORIES, CITIES, TAGS, TAGS_AN_ITEM = 300, 24, 60, 150, 4
CITY_TIERS = 3
DEVICES = ("android", "ios", "desktop", "tablet", "tv")
DEVICE_WEIGHTS = (0.4, 0.27, 0.22, 0.08, 0.03)
MEMBERSHIPS = ("none", "bronze", "silver", "gold")
MEMBERSHIP_WEIGHTS = (0.55, 0.22, 0.15, 0.08)
PLACEMENTS = ("feed", "search", "top", "side", "related", "cart")
PLACEMENT_WEIGHTS = (0.4, 0.2, 0.1, 0.15, 0.1, 0.05)
TASTES = 6  # width of the hidden taste vectors


@dataclass(frozen=True, slots=True)
class Users:
    """One entry a user. An unknown city is -1, an unknown age NaN.

    Args:
        cdf: cumulated share of the traffic. favourite: the category that finds its way to them more often than others.
        tier: how big the city is, known to nobody but the truth. taste: (users, TASTES). own: what only they are like.
    """

    cdf: Floats
    age: Floats
    city: Ints
    tier: Ints
    membership: Ints
    device: Ints
    favourite: Ints
    taste: Floats
    own: Floats


@dataclass(frozen=True, slots=True)
class Items:
    """One entry an item. An unknown brand is -1, an unknown quality NaN, a tag that is not there -1.

    Args:
        cdf: cumulated popularity. born_ms: before it the item is not shown, its predecessor is: one that was there from the start.
        tags: (items, TAGS_AN_ITEM). price: in units of money. price_z: its logarithm, standardised.
        taste: (items, TASTES): what it offers. own: what only it is like.
    """

    cdf: Floats
    born_ms: Ints
    predecessor: Ints
    brand: Ints
    category: Ints
    tags: Ints
    price: Floats
    price_z: Floats
    quality: Floats
    taste: Floats
    own: Floats


def pick(rng: np.random.Generator, weights: tuple[float, ...] | Floats, n: int) -> Ints:
    """Indices drawn by weight, n of them."""
    cdf = np.cumsum(np.asarray(weights, dtype=np.float64))
    return np.asarray(np.searchsorted(cdf, rng.random(n) * cdf[-1], side="right"), dtype=np.int64)


def _zipf(rng: np.random.Generator, n: int, exponent: float) -> Floats:
    """Cumulated shares of n entries whose ranks are shuffled."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return np.asarray(np.cumsum(rng.permutation(weights)) / weights.sum())


def draw_users(rng: np.random.Generator, world: World) -> Users:
    """The users of a world."""
    n = world.users
    membership = pick(rng, MEMBERSHIP_WEIGHTS, n)
    tier_of_city = rng.integers(0, CITY_TIERS, CITIES)
    city = pick(rng, np.arange(1, CITIES + 1, dtype=np.float64) ** -0.8, n)
    tier = tier_of_city[city]
    # Most of a taste is the taste of people like them: that is what few conversions can teach.
    by_membership, by_tier = rng.standard_normal((len(MEMBERSHIPS), TASTES)), rng.standard_normal((CITY_TIERS, TASTES))
    taste = (by_membership[membership] + 0.7 * by_tier[tier] + 0.6 * rng.standard_normal((n, TASTES))) / np.sqrt(1.85)
    age = np.round(np.clip(18 + rng.gamma(2.2, 11.0, n), 18, 90))
    return Users(
        cdf=_zipf(rng, n, world.user_zipf),
        age=np.where(rng.random(n) < world.missing_share, np.nan, age),
        city=np.where(rng.random(n) < world.missing_share, -1, city),
        tier=tier,
        membership=membership,
        device=pick(rng, DEVICE_WEIGHTS, n),
        favourite=rng.integers(0, CATEGORIES, n),
        taste=taste,
        own=rng.standard_normal(n),
    )


def draw_items(rng: np.random.Generator, world: World) -> Items:
    """The items of a world. Those of one category are dearer than those of another, those of one brand alike."""
    n = world.items
    category = pick(rng, np.arange(1, CATEGORIES + 1, dtype=np.float64) ** -0.5, n)
    brand = pick(rng, np.arange(1, BRANDS + 1, dtype=np.float64) ** -0.7, n)
    log_price = (
        rng.normal(3.2, 0.8, CATEGORIES)[category] + rng.normal(0.0, 0.3, BRANDS)[brand] + rng.normal(0.0, 0.4, n)
    )
    by_category, by_brand = rng.standard_normal((CATEGORIES, TASTES)), rng.standard_normal((BRANDS, TASTES))
    taste = (by_category[category] + 0.5 * by_brand[brand] + 0.4 * rng.standard_normal((n, TASTES))) / np.sqrt(1.41)
    # Tags follow the category in two places of four, so that they say something about it.
    tags = rng.integers(0, TAGS, (n, TAGS_AN_ITEM))
    tags[:, :2] = (category[:, None] * 5 + rng.integers(0, 5, (n, 2))) % TAGS
    tags[:, 1:][rng.random((n, TAGS_AN_ITEM - 1)) < 0.35] = -1
    is_new = rng.random(n) < world.new_item_share
    is_new[:CATEGORIES] = False
    born_ms = world.start_ms + np.where(is_new, (rng.random(n) * world.duration_ms).astype(np.int64), 0)
    return Items(
        cdf=_zipf(rng, n, world.item_zipf),
        born_ms=born_ms,
        predecessor=_predecessors(rng, is_new),
        brand=np.where(rng.random(n) < world.missing_share, -1, brand),
        category=category,
        tags=tags,
        price=np.round(np.exp(log_price), 2).clip(0.01),
        price_z=(log_price - log_price.mean()) / log_price.std(),
        quality=np.where(rng.random(n) < world.missing_share, np.nan, np.round(rng.beta(4.0, 2.0, n), 3)),
        taste=taste,
        own=rng.standard_normal(n),
    )


def _predecessors(rng: np.random.Generator, is_new: np.ndarray) -> Ints:
    """For each item one that is there from the start: itself, unless it is new."""
    old = np.flatnonzero(~is_new)
    return np.where(is_new, old[rng.integers(0, len(old), len(is_new))], np.arange(len(is_new)))
