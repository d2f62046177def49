"""Small logs whose facts arrive long after their time, for tests of what is taught after the event."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from fakes import KIND_OF, clicked, converted, line_of, shown

from models.schema import Feature, Labels, Network
from streaming.events import Event
from streaming.settings import Batching, Cuts, EventTime, Settings, Windows

MINUTE = 60_000
LATE = 30 * MINUTE
"""How long after its time a late record arrives: its impression and click have left, and are forgotten."""


def late_settings(method: str = "mature", *, objective: str = "esmm", batch_size: int = 64) -> Settings:
    """A minute to click, five to convert; everything else as small as it can be."""
    return Settings(
        windows=Windows(click_window_ms=MINUTE, observation_window_ms=2 * MINUTE, attribution_window_ms=5 * MINUTE),
        event_time=EventTime(out_of_orderness_ms=1_000, clock_skew_ms=0, alignment_ms=10_000),
        labels=Labels(method=method, horizons=2),
        batching=Batching(batch_size=batch_size, batch_interval_ms=10 * MINUTE, kappa_half_life_ms=60 * MINUTE),
        network=Network(towers=(16, 8), threads=1, prior_ctr=0.2, prior_cvr=0.3, objective=objective),  # type: ignore[arg-type]
        cuts=Cuts(cut_interval_ms=1_000 * MINUTE),
        features=(Feature(name="shop", kind="categorical"), Feature(name="price", kind="numeric")),
    )


def write_arrivals(log: Path, arrivals: Iterable[tuple[int, Event]]) -> Path:
    """Events into the files of their streams, in the order in which they arrive."""
    log.mkdir(parents=True)
    files: dict[str, list[bytes]] = {"impressions": [], "clicks": [], "conversions": []}
    for _, event in sorted(arrivals, key=lambda arrival: arrival[0]):
        files[KIND_OF[type(event)].stem].append(line_of(event) + b"\n")
    for stem, lines in files.items():
        (log / f"{stem}.jsonl").write_bytes(b"".join(lines))
    return log


def shop_log(log: Path, *, late_share: float, impressions: int = 4_000, ctr: float = 0.3, cvr: float = 0.4) -> Path:
    """Two shops alike, but that a share of the clicks and conversions of one, `slow`, come half an hour late."""
    rng = np.random.default_rng(1)
    arrivals: list[tuple[int, Event]] = []
    for number in range(impressions):
        at, name = number * 20_000, f"i{number}"
        is_slow = rng.random() < 0.5
        after = LATE if is_slow and rng.random() < late_share else 0
        features = b'{"shop":"%s","price":%d}' % (b"slow" if is_slow else b"prompt", rng.integers(3))
        arrivals.append((at, shown(name, at, features)))
        if rng.random() < ctr:
            click_at = at + int(rng.integers(1, 50_000))
            arrivals.append((click_at + after, clicked(name, click_at)))
            if rng.random() < cvr:
                conversion_at = click_at + int(rng.integers(1, 4 * MINUTE))
                arrivals.append((conversion_at + after, converted(name, conversion_at)))
    return write_arrivals(log, arrivals)


def told_log(log: Path, cases: Iterable[tuple[int, Event]], *, minutes: int = 100) -> Path:
    """A few cases, each with when it arrives, in a stream of plain traffic that moves every clock."""
    arrivals = list(cases)
    for number in range(minutes * 6):
        at, name = number * 10_000, f"plain{number}"
        arrivals.append((at, shown(name, at, b'{"shop":"prompt","price":1}')))
        if number % 3 == 0:
            arrivals += [(at + 1, clicked(name, at + 1)), (at + 2, converted(name, at + 2))]
    return write_arrivals(log, arrivals)
