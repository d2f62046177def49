"""Memory of an open impression and of a remembered one, in bytes, by the growth of the process: no allocator is left out.

    open_impression.py [--impressions N]

Lines have 140 and 300 bytes, ids 16 characters. To reach: 2 x raw bytes + 320 for an open one, 120 for a remembered one.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from streaming.arrivals import ArrivalOrder
from streaming.events import EventDecoder, RecordKind
from streaming.join import Join
from streaming.joined import Schedule, Windows
from streaming.log_file import Lines, LogFile, Place
from streaming.settings import Fields

START_MS, EVERY_MS = 1_767_571_200_000, 10


def lines_of(count: int, size: int) -> Iterator[Lines]:
    for first in range(0, count, 4_000):
        block = []
        for number in range(first, min(first + 4_000, count)):
            # ids that look as scattered as real ones do
            name = f"{(number * 0x9E3779B97F4A7C15) % (1 << 64):016x}"
            head = f'{{"impression_id":"{name}","event_time_ms":{START_MS + number * EVERY_MS},"features":{{"user":"'
            block.append(f'{head}{"u" * (size - len(head) - 3)}"}}}}'.encode())
        yield Lines(first + 1, block, 0)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure(count: int, size: int) -> dict[str, float]:
    # The click window holds them all; the hold is as long again, so that all are remembered before any is forgotten.
    window = count * EVERY_MS + 1_000_000
    join = Join(Windows(window, window * 2, 0, window * 2), Schedule(after_click_ms=((193, window * 2),)))
    file = LogFile(
        "impressions",
        RecordKind.IMPRESSION,
        EventDecoder(RecordKind.IMPRESSION, Fields()),
        lines_of(count, size),
        Place(),
    )
    leads = dict.fromkeys(RecordKind, 0)
    before = resident()
    for arrivals in ArrivalOrder([file], out_of_orderness_ms=0, future_skew_ms=600_000, leads_ms=leads):
        join.on_arrivals(arrivals)
        assert arrivals.watermark_ms is not None
        join.on_watermark(arrivals.watermark_ms)
    del arrivals
    held = (resident() - before) / join.open_impressions
    del file
    empty = resident()
    join.on_watermark(START_MS + window * 2)
    assert join.remembered_impressions == count
    del empty
    join.on_watermark(START_MS + window * 2 + 1)
    # What Python gave back to itself is not given back to the system: a second process remembers without having held.
    return {"open": round(held)}


def remembered(count: int) -> dict[str, float]:
    from streaming.remembered import Remembered

    before = resident()
    memory = Remembered(click_window_ms=1, hold_ms=10**15)
    for number in range(count):
        memory.add_unclicked([f"{(number * 0x9E3779B97F4A7C15) % (1 << 64):016x}"], [START_MS + number])
    return {"remembered": round((resident() - before) / count)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=700_000)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size is not None:
        print(json.dumps(measure(args.impressions, args.size) if args.size else remembered(args.impressions)))
        return
    found: dict[str, float] = {}
    for size in (140, 300, 0):
        command = [sys.executable, __file__, "--impressions", str(args.impressions), "--size", str(size)]
        part = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found |= {f"{name}_{size}_bytes" if size else f"{name}_bytes": value for name, value in part.items()}
    limits = {"open_140_to_reach": 2 * 140 + 320, "open_300_to_reach": 2 * 300 + 320, "remembered_to_reach": 120}
    print(json.dumps(found | limits))


if __name__ == "__main__":
    main()
