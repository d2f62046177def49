"""The settings that fit a simulated log: what its features are, how long it waits, how large its batches. Draws nothing."""

from __future__ import annotations

import math

import numpy as np

from streaming.lab.dials import DAY_MS, HOUR_MS, MINUTE_MS, World
from streaming.lab.population import Items
from streaming.lab.traffic import RECENT

_ROUND_MS = (
    *(1000 * seconds for seconds in (1, 2, 5, 10, 20, 30)),
    *(MINUTE_MS * minutes for minutes in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(HOUR_MS * hours for hours in (1, 2, 3, 4, 6, 8, 12, 24)),
)
"""Intervals that divide a day, so that cuts once a day never fall into a batch."""

BATCH_SIZE = 2048


def batch_interval_ms(world: World) -> int:
    """The round interval that comes nearest to the time in which a batch of impressions is shown.

    Example:
        >>> batch_interval_ms(World(impressions=1_000_000, days=14)) / HOUR_MS
        0.5
    """
    fills_ms = world.duration_ms * BATCH_SIZE / world.impressions
    return min(_ROUND_MS, key=lambda interval: abs(math.log(interval / fills_ms)))


def settings_text(world: World, items: Items) -> str:
    """The TOML of a settings file to replay this world's log with."""
    known = items.quality[~np.isnan(items.quality)]
    edges = np.unique(np.quantile(known, np.arange(1, 8) / 8).round(3)).tolist() if len(known) else [0.5]
    log_price = np.log1p(items.price)
    gap_hours = world.duration_ms * world.users / world.impressions / HOUR_MS
    return f"""\
# How to replay this log: afterclick replay LOG --config LOG/settings.toml --out RUN
# Every key left out has the default that `afterclick init` would show.

[windows]
click_window_ms = {world.click_window_ms}
observation_window_ms = {min(HOUR_MS, world.attribution_window_ms // 4)}  # a short conversion takes ten minutes
attribution_window_ms = {world.attribution_window_ms}

[event_time]
out_of_orderness_ms = {world.out_of_orderness_ms}
clock_skew_ms = {world.clock_skew_ms}
alignment_ms = {max(900_000, 2 * world.out_of_orderness_ms)}

[labels]
method = "mature"

[batching]
batch_size = {BATCH_SIZE}
batch_interval_ms = {batch_interval_ms(world)}  # about the time in which a batch of impressions is shown

[cuts]
cut_interval_ms = {DAY_MS}  # once a day of the log

[network]
prior_ctr = {world.ctr}
prior_cvr = {world.cvr}

[[features]]
name = "user_id"
kind = "categorical"

[[features]]
name = "item_id"
kind = "categorical"

[[features]]
name = "brand"
kind = "categorical"

[[features]]
name = "category"
kind = "categorical"

[[features]]
name = "city"
kind = "categorical"

[[features]]
name = "membership"
kind = "categorical"

[[features]]
name = "device"
kind = "categorical"

[[features]]
name = "placement"
kind = "categorical"

[[features]]
name = "hour"  # of the day, UTC
kind = "categorical"

[[features]]
name = "tags"
kind = "multi"

[[features]]
name = "recent_items"  # what the user was shown before, newest last
kind = "sequence"
ids_of = "item_id"
max_length = {RECENT}

[[features]]
name = "price"
kind = "numeric"
transform = "log"
center = {log_price.mean():.3f}
scale = {max(log_price.std(), 1e-3):.3f}

[[features]]
name = "recency_hours"  # since the user's last impression; missing at the first
kind = "numeric"
transform = "log"
center = {math.log1p(gap_hours):.3f}
scale = 1.2

[[features]]
name = "age"
kind = "numeric"
transform = "buckets"
boundaries = [22, 26, 30, 35, 40, 45, 50, 55, 60, 70]

[[features]]
name = "quality"
kind = "numeric"
transform = "buckets"
boundaries = {edges}  # eighths of the catalogue

[[features]]
name = "device_x_category"
kind = "crossed"
inputs = ["device", "category"]

[[features]]
name = "membership_x_category"
kind = "crossed"
inputs = ["membership", "category"]
"""
