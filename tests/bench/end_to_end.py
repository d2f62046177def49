"""A replay with everything written beside training from 64-bit ids in memory: the same log, features, model and batches, in one process
and with ingest in its own.

    end_to_end.py [--impressions N] [--rounds K]

Rates are rows that teach, a second. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from models.batch import Batch
from streaming.batching import Batcher, collate, is_row
from streaming.features import FeatureReader
from streaming.join import Join
from streaming.lab.world import World, generate
from streaming.log_source import LogSource
from streaming.partitions import join_windows, policy_of
from streaming.pipeline import learner_of
from streaming.replay import Replay
from streaming.settings import Settings, load


def batches_of(log: Path, settings: Settings) -> list[tuple[Batch, int]]:
    """The batches that a replay of the log learns, with their event times."""
    policy = policy_of(settings)
    join, reader = Join(join_windows(settings), policy.schedule), FeatureReader(settings.features)
    batcher = Batcher(batch_size=settings.batching.batch_size, batch_interval_ms=settings.batching.batch_interval_ms)
    batches: list[tuple[Batch, int]] = []
    for arrivals in LogSource(log, settings):
        join.on_arrivals(arrivals)
        if arrivals.watermark_ms is not None:
            examples = policy.on_due(join.on_watermark(arrivals.watermark_ms)[0])
            for group in [*batcher.on_examples(examples), *batcher.on_watermark(arrivals.watermark_ms)]:
                rows = group.where(is_row(group))
                batches.append((collate(rows, reader), int(group.due_ms[-1])))
    return batches


def from_memory(batches: list[tuple[Batch, int]], settings: Settings) -> float:
    learner = learner_of(settings)
    started = time.perf_counter()
    for batch, at_ms in batches:
        learner.learn_many(batch, at_ms=at_ms)
    return sum(len(batch) for batch, _ in batches) / (time.perf_counter() - started)


def replayed(log: Path, out: Path, settings: Settings, processes: int) -> float:
    started = time.perf_counter()
    replay = Replay(log, out, settings, processes=processes)
    for _ in replay.run():
        pass
    return replay.pipeline.metrics().taught / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        generate(log, World(impressions=args.impressions, days=4.0, attribution_window_ms=86_400_000))
        settings = load(log / "settings.toml", {})
        # The shapes that section 13 of the design speaks of: wide vectors and wide towers.
        network = msgspec.structs.replace(settings.network, embedding_width=16, towers=(256, 128, 64))
        settings = msgspec.structs.replace(settings, network=network)
        batches = batches_of(log, settings)
        rates: dict[str, list[float]] = {"training_from_memory": [], "replay": [], "replay_two_processes": []}
        for number in range(args.rounds):
            rates["training_from_memory"].append(from_memory(batches, settings))
            rates["replay"].append(replayed(log, Path(folder) / f"run-{number}", settings, 1))
            rates["replay_two_processes"].append(replayed(log, Path(folder) / f"two-{number}", settings, 2))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = medians["training_from_memory"]
    ratios = {"one": round(medians["replay"] / base, 3), "two": round(medians["replay_two_processes"] / base, 3)}
    print(
        json.dumps(
            {name: round(rate) for name, rate in medians.items()}
            | {"ratios": ratios, "to_reach": {"one": 0.5, "two": 0.65}}
        )
    )


if __name__ == "__main__":
    main()
