"""Whether a scorer should be asked: it has weights, and they are fresh enough. Must not know who asks, or where weights come from."""

from __future__ import annotations

from streaming.reader import WeightsReader
from streaming.serving import Serving


def not_ready(reader: WeightsReader, serving: Serving) -> list[str]:
    """Why not, each with what to do; empty if it is ready.

    Example:
        >>> from pathlib import Path
        >>> from streaming.adapters.directory_source import DirectorySource
        >>> not_ready(WeightsReader(DirectorySource(Path("nowhere")), clock=lambda: 0), Serving())
        ['no weights: nothing was published yet; start the run that publishes, or look at its target']
    """
    if reader.served is None:
        why = reader.last_refusal or "nothing was published yet"
        return [f"no weights: {why}; start the run that publishes, or look at its target"]
    reasons = []
    for what, age_ms, bound_ms in (
        ("watermark", reader.watermark_age_ms(), serving.max_watermark_age_ms),
        ("version", reader.version_age_ms(), serving.max_version_age_ms),
    ):
        if bound_ms is not None and (age_ms is None or age_ms > bound_ms):
            why = f"; the newest version was refused: {reader.last_refusal}" if reader.last_refusal else ""
            reasons.append(
                f"stale: the {what} of version {reader.served.manifest.name} is {age_ms} ms old, serving.max_{what}_age_ms is {bound_ms}: "
                f"see whether the run still publishes{why}"
            )
    return reasons
