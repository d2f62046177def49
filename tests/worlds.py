"""Small simulated logs for tests: every kind of mishap in them, a few thousand impressions, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import msgspec

from streaming.lab.world import World, generate
from streaming.settings import Settings, load

HOUR_MS = 3_600_000


def small_world(**dials: object) -> World:
    """Four days of little traffic, with short windows, so that whole lives of clicks fit in."""
    defaults: dict[str, object] = {
        "impressions": 6_000,
        "days": 4.0,
        "users": 300,
        "items": 400,
        "ctr": 0.12,
        "cvr": 0.3,
        "attribution_window_ms": 12 * HOUR_MS,
        "late_share": 0.02,
        "redelivered_share": 0.01,
        "second_fact_share": 0.05,
        "orphan_share": 0.05,
        "out_of_window_share": 0.05,
        "view_through_share": 0.05,
        "malformed_share": 0.004,
        "future_share": 0.001,
        "feature_fault_share": 0.02,
    }
    return World(**(defaults | dials))  # type: ignore[arg-type]


def small_log(path: Path, **dials: object) -> Path:
    """A log of `small_world` in a directory."""
    generate(path, small_world(**dials))
    return path


def small_settings(log: Path, **sections: dict[str, object]) -> Settings:
    """The settings of a small log: small towers, small batches, one thread, a cut every six hours of event time."""
    changes: dict[str, dict[str, object]] = {
        "network": {"towers": (16, 8), "threads": 1},
        "batching": {"batch_size": 256, "batch_interval_ms": HOUR_MS},
        "cuts": {"cut_interval_ms": 6 * HOUR_MS},
    }
    for section, values in sections.items():
        changes[section] = changes.get(section, {}) | values
    settings = load(log / "settings.toml", {})
    replaced = {
        section: msgspec.structs.replace(getattr(settings, section), **values) for section, values in changes.items()
    }
    return msgspec.structs.replace(settings, **replaced)


def lines_of(log: Path) -> dict[str, list[bytes]]:
    """The lines of a log, by file."""
    return {path.name: path.read_bytes().split(b"\n")[:-1] for path in sorted(log.glob("*.jsonl"))}
