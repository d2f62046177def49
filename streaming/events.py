"""What happened, as it was logged."""

from __future__ import annotations

import msgspec


class Served(msgspec.Struct, frozen=True, gc=False):
    """The prediction an impression was shown under, if it was logged."""

    pctr: float
    pcvr: float
    weights_version: int | None = None


class Impression(msgspec.Struct, frozen=True, gc=False):
    """Something was shown. `features` stays raw bytes (a JSON object, `format` "json") until batching."""

    impression_id: str
    event_time_ms: int
    features: msgspec.Raw
    served: Served | None = None
    join_key: str | None = None
