"""What a scorer is set to: how it ranks, what it refuses, when it is too stale. Must not know who asks or how a score is made."""

from __future__ import annotations

import msgspec

MOST_FACTOR, LEAST_FACTOR = 1e12, 1e-12
"""Of a factor of the ranking score; the least holds where its exponent is below 0, else 0 does."""
MOST_EXPONENTS = 25.0
"""Of all factors together: 1e12 to the 25th is a number still."""


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
    factors: dict[
        str, float
    ] = {}  # name -> exponent; every item must then bring a number of that name, up to MOST_FACTOR
    max_body_bytes: int = 4_194_304  # 4 MiB: some thousand items of 2 KB
    max_items: int = 1_000  # of one request; each takes 10 to 20 us, and others wait as long
    request_timeout_ms: int = (
        5_000  # for the whole body to arrive; on a busy machine a second may pass between two pieces
    )
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
        total = sum(map(abs, self.factors.values()))
        if not total <= MOST_EXPONENTS:
            raise ValueError(
                f"serving.factors must be exponents of {MOST_EXPONENTS:g} at most in all, signs left out (got {self.factors}): "
                "scores would leave the range of numbers"
            )
        if not 0 < self.unseen_alarm_share <= 1:
            raise ValueError(
                f"serving.unseen_alarm_share must lie above 0 and be at most 1, for never (got {self.unseen_alarm_share})"
            )
