"""What a scorer is set to: how it ranks, what it refuses, when it is too stale. Must not know who asks or how a score is made."""

from __future__ import annotations

import math

import msgspec


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How items are ranked, and what a scorer takes on. No part of a run's result.

    The ranking score of an item is pctr^pctr_exponent * pcvr^pcvr_exponent * the product of its factors, each to its exponent.

    Raises:
        ValueError: an exponent or the share is out of its range.

    Example:
        >>> Serving(factors={"bid": 1.0}).factors
        {'bid': 1.0}
    """

    pctr_exponent: float = 1.0
    pcvr_exponent: float = 1.0
    factors: dict[str, float] = {}  # name -> exponent; every item must then bring a number of 0 or more of that name
    max_body_bytes: int = 4_194_304  # 4 MiB: some thousand items of 2 KB
    max_items: int = 1_000  # of one request; each takes 10 to 20 us, and others wait as long
    request_timeout_ms: int = 1_000  # for the whole body to arrive
    max_concurrent_requests: int = 128  # more are told 503 at once: a queue that grows answers nobody in time
    max_watermark_age_ms: int | None = (
        None  # older data than this is not ready to serve; None: any age is, as of an old log
    )
    max_version_age_ms: int | None = (
        None  # a version that has been in service for longer is not ready to serve; None: any time is
    )
    threads: int = 1  # torch's within an operation: of 100 items none gains by a second
    unseen_alarm_share: float = 0.5  # of a feature's newest ids without a row; above it an alarm rises
    unseen_window: int = 10_000  # ids of a feature over which that share is taken

    def __post_init__(self) -> None:
        for name, exponent in self.factors.items():
            if not math.isfinite(exponent):
                raise ValueError(f"serving.factors.{name} must be a finite exponent (got {exponent})")
        if not 0 < self.unseen_alarm_share <= 1:
            raise ValueError(
                f"serving.unseen_alarm_share must lie above 0 and be at most 1, for never (got {self.unseen_alarm_share})"
            )
