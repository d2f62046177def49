"""Join and label over JSONL, examples and every side output written, one core: events/s beside the least a joiner can do.

    join_label.py [--impressions N] [--rounds K]

Both read the same simulated log, take turns, and run pinned to one core; the ratio is that of the medians. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.delay import method_of
from streaming.adapters.run_directory import RunDirectory
from streaming.examples import Kind
from streaming.join import Join
from streaming.lab.world import World, generate
from streaming.label import Policy
from streaming.log_source import LogSource
from streaming.outputs import door_of, example_lines, refused_line, side_line
from streaming.partitions import join_windows
from streaming.run import OUTPUTS
from streaming.settings import load

BASELINE = Path(__file__).parent / "baselines" / "merge_join.py"


def ours(log: Path, out: Path) -> float:
    """Events a second through decode, arrival order, join, label and writing."""
    settings = load(log / "settings.toml", {})
    windows = settings.windows
    policy = Policy(
        map(Kind, method_of("window").sees),
        p=0,
        observation_window_ms=windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
    )
    join, output = Join(join_windows(settings), policy.schedule), RunDirectory(out, OUTPUTS)
    started, events = time.perf_counter(), 0
    for arrivals in LogSource(log, settings):
        events += len(arrivals.times) + len(arrivals.refused)
        for refused in arrivals.refused:
            output.append(f"{door_of(refused)}.jsonl", refused_line(refused))
        join.on_arrivals(arrivals)
        if arrivals.watermark_ms is not None:
            dues, sides = join.on_watermark(arrivals.watermark_ms)
            for side in sides:
                output.append(f"{side.door}.jsonl", side_line(side))
            output.append("examples.jsonl.zst", example_lines(policy.on_due(dues), None, None, None))
    output.close()
    return events / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps({"events_per_second": ours(args.one, Path(out))}))
        return
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        generate(log, World(impressions=args.impressions, days=1.0))
        commands = {
            "merge_join_write": [sys.executable, str(BASELINE), str(log), "--write", str(Path(folder) / "rows.jsonl")],
            "afterclick": [sys.executable, __file__, "--one", str(log)],
        }
        # The baseline knows no defects: what it cannot decode is taken out of its copy of the log.
        clean = Path(folder) / "clean"
        generate(clean, World.clean(impressions=args.impressions, days=1.0))
        commands["merge_join_write"][2] = str(clean)
        rates: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rates[name].append(json.loads(done.stdout)["events_per_second"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["afterclick"] / medians["merge_join_write"]
    print(
        json.dumps({name: round(rate) for name, rate in medians.items()} | {"ratio": round(ratio, 3), "to_reach": 0.5})
    )


if __name__ == "__main__":
    main()
