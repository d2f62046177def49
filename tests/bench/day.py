"""A day of simulated traffic through the whole line, with a delta every few minutes of event time: what it weighs, and what a reader then has.

    python tests/bench/day.py [--impressions 200000] [--users 400000] [--items 60000] [--every-minutes 5] [--width 16] [--towers 256,128,64] [--json]

Two days are replayed; the second is measured. Every version is written to a directory and followed there by a `WeightsReader`; beside that it is
written with its rows in 16 and in 8 bits, and a reader of those keeps what they add up to. At the day's end the trainer and the readers are asked
about the impressions of its last hours: normalized entropy of pCTR and pCTCVR, and how far logits have moved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from models.delta import applied, whole
from models.frozen import FrozenModel
from models.manifest import DENSE, Published
from models.row_format import RowFormat, packed
from models.weights import Weights, decode, encode
from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import DirectorySource
from streaming.adapters.run_directory import RunDirectory
from streaming.features import FeatureReader
from streaming.ingest import Ingest
from streaming.lab.world import World, generate
from streaming.log_source import LogSource
from streaming.metrics import TargetFigures
from streaming.pipeline import Pipeline
from streaming.reader import WeightsReader
from streaming.settings import Settings, load

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ASKED_MS = 3 * HOUR_MS  # the end of the day, about which all are asked
NARROW: tuple[RowFormat, ...] = ("fp16", "int8")
replace = msgspec.structs.replace


def size_of(published: Published) -> int:
    return sum(map(len, published.parts.values()))


def narrowed(weights: Weights, row_format: RowFormat) -> Published:
    """The version with its rows in fewer bits."""
    tensors = dict(weights.tensors)
    for name in [name for name in tensors if name.endswith(".vectors")]:
        table = name.removesuffix(".vectors")
        tensors |= {f"{table}.{key}": tensor for key, tensor in packed(tensors[name], row_format).items()}
    return encode(Weights(weights.manifest, tensors))


class Day:
    """Publishes into a directory, weighs what is published within the day, and follows it.

    Args:
        path: of the weights. starts_ms, ends_ms: the day, in event time.
    """

    needs_snapshot = False

    def __init__(self, path: Path, *, starts_ms: int, ends_ms: int) -> None:
        self._publisher = DirectoryPublisher(path, versions_kept=20)
        self._starts_ms, self._ends_ms = starts_ms, ends_ms
        self.reader = WeightsReader(DirectorySource(path), clock=lambda: 0)
        self.has: dict[RowFormat, Weights] = {}
        self.deltas: dict[str, list[int]] = {"fp32": [], **{name: [] for name in NARROW}}
        self.snapshots: list[int] = []
        self.dense = 0
        self.is_over = False

    def issue_epoch(self) -> int:
        return self._publisher.issue_epoch()

    def publish(self, published: Published) -> str:
        name = self._publisher.publish(published)
        assert self.reader.poll()
        watermark_ms, weights = published.manifest.watermark_ms or 0, decode(published)
        is_within = self._starts_ms <= watermark_ms < self._ends_ms and published.manifest.kind == "delta"
        if is_within:
            self.deltas["fp32"].append(size_of(published))
            assert self.reader.served is not None
            tensors = self.reader.served.weights.tensors  # whole: what a snapshot would have held, F32
            self.snapshots.append(sum(tensor.nbytes for tensor in tensors.values()))
            self.dense = len(published.parts[DENSE])
        for row_format in NARROW:
            narrow = narrowed(weights, row_format)
            found = decode(narrow)
            self.has[row_format] = (
                whole(found) if found.manifest.kind == "snapshot" else applied(self.has[row_format], found)
            )
            if is_within:
                self.deltas[row_format].append(size_of(narrow))
        self.is_over = watermark_ms >= self._ends_ms
        return name

    def keep_refused(self, published: Published, why: str) -> None:
        raise AssertionError(why)

    def figures(self) -> dict[str, TargetFigures]:
        return {}


def normalized_entropy(p: np.ndarray, y: np.ndarray) -> float:
    def entropy(p: np.ndarray) -> float:
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())

    return entropy(p) / entropy(np.full(len(y), y.mean()))


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def moved(p: np.ndarray, from_p: np.ndarray) -> dict[str, float]:
    apart = np.abs(logit(p) - logit(from_p))
    return {"mean": float(apart.mean()), "p99": float(np.quantile(apart, 0.99)), "max": float(apart.max())}


def asked(log: Path, ends_ms: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Features of the impressions of the day's last hours, which of them are clicked, and which convert."""
    ids: list[str] = []
    rows: list[bytes] = []
    for line in (log / "impressions.jsonl").read_bytes().splitlines():
        shown = msgspec.json.decode(line)
        if ends_ms - ASKED_MS <= shown["event_time_ms"] < ends_ms:
            ids.append(shown["impression_id"])
            rows.append(msgspec.json.encode(shown["features"]))
    facts = []
    for name in ("clicks", "conversions"):
        lines = (log / f"{name}.jsonl").read_bytes().splitlines()
        facts.append({fact["impression_id"] for fact in map(msgspec.json.decode, lines)})
    clicked = np.array([one in facts[0] for one in ids])
    return rows, clicked, clicked & np.array([one in facts[1] for one in ids])


def settings_of(log: Path, args: argparse.Namespace) -> Settings:
    """Those of the log, with other shapes, and deltas often."""
    settings = load(log / "settings.toml", {})
    every_ms = round(args.every_minutes * 60_000)
    publishing = replace(settings.publishing, delta_interval_ms=every_ms, least_interval_ms=0, snapshot_every=10**9)
    return replace(
        settings,
        network=replace(settings.network, embedding_width=args.width, towers=tuple(map(int, args.towers.split(",")))),
        labels=replace(settings.labels, method="survival"),
        cuts=replace(settings.cuts, cut_interval_ms=HOUR_MS),
        publishing=publishing,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=200_000, help="a day")
    parser.add_argument("--users", type=int, default=400_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--every-minutes", type=float, default=5.0, help="of event time, between two deltas")
    parser.add_argument("--width", type=int, default=16, help="of vectors")
    parser.add_argument("--towers", default="256,128,64")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), args)
    if args.json:
        json.dump(found, sys.stdout)
        return
    print(
        f"{found['rows']:,} rows; {found['versions']} deltas in the day, one every {args.every_minutes:g} minutes; a snapshot {found['snapshot_mb']:.2f} MB; "
        f"of each, dense layers are {found['dense_kb']:,.0f} kB"
    )
    for name, own in found["formats"].items():
        print(
            f"{name}: {own['mean_kb']:8,.1f} kB a delta, {own['times_smaller']:6.1f} x smaller; NE off by {own['ctr_ne_off_percent']:+.5f} % (pCTR), "
            f"{own['ctcvr_ne_off_percent']:+.5f} % (pCTCVR); |logit| moved, mean / p99 / max: pCTR "
            + " / ".join(f"{value:.1e}" for value in own["pctr_logit"].values())
            + ", pCVR "
            + " / ".join(f"{value:.1e}" for value in own["pcvr_logit"].values())
        )


def measured(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    log = folder / "log"
    world = World(
        impressions=2 * args.impressions, days=2.0, users=args.users, items=args.items, attribution_window_ms=12 * HOUR_MS, future_share=0.0, malformed_share=0.0
    )  # fmt: skip
    generate(log, world)
    settings = settings_of(log, args)
    day = Day(folder / "weights", starts_ms=world.start_ms + DAY_MS, ends_ms=world.start_ms + 2 * DAY_MS)
    output = RunDirectory(folder / "run", ())
    # In blocks of a minute or so of the log: a version is published between two of them.
    block_bytes = max(4_096, int((log / "impressions.jsonl").stat().st_size * args.every_minutes / (2 * 24 * 60) / 4))
    pipeline = Pipeline(
        settings,
        feed=Ingest(settings, LogSource(log, settings, block_bytes=block_bytes)),
        output=output,
        cuts=CutDirectory(folder / "run" / "cuts", settings),
        publisher=day,
    )
    for _ in pipeline.run():
        if day.is_over:
            break
    output.close()
    rows, clicked, converted = asked(log, world.start_ms + 2 * DAY_MS)
    inputs = FeatureReader(settings.features).read(rows)
    trainer = pipeline._learner.predict_many(inputs)
    assert day.reader.served is not None
    models = {"fp32": day.reader.served.model} | {name: FrozenModel(weights) for name, weights in day.has.items()}
    base = [normalized_entropy(p, y) for p, y in ((trainer.pctr, clicked), (trainer.pctr * trainer.pcvr, converted))]
    formats: dict[str, object] = {}
    for name, model in models.items():
        said = model.predict_many(inputs)
        own = [normalized_entropy(p, y) for p, y in ((said.pctr, clicked), (said.pctr * said.pcvr, converted))]
        formats[name] = {
            "mean_kb": float(np.mean(day.deltas[name])) / 1e3,
            "day_mb": sum(day.deltas[name]) / 1e6,
            "times_smaller": sum(day.snapshots) / sum(day.deltas[name]),
            "ctr_ne_off_percent": 100 * (own[0] / base[0] - 1),
            "ctcvr_ne_off_percent": 100 * (own[1] / base[1] - 1),
            "pctr_logit": moved(said.pctr, trainer.pctr),
            "pcvr_logit": moved(said.pcvr, trainer.pcvr),
        }
    return {
        "rows": pipeline.metrics().embedding_rows,
        "versions": len(day.snapshots),
        "snapshot_mb": day.snapshots[-1] / 1e6,
        "dense_kb": day.dense / 1e3,
        "asked": len(rows),
        "ne": {"ctr": base[0], "ctcvr": base[1]},
        "formats": formats,
    }


if __name__ == "__main__":
    main()
