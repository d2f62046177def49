"""What deltas weigh beside snapshots over a day of traffic, and what leaving rows out or writing them in fewer bits costs.

    python tests/bench/deltas.py [--impressions 160000] [--users 300000] [--items 100000] [--json]

A simulated day is taught once. Every `--every-batches` batches a version is made each way, and what a reader has of it scores the
impressions that come next, before they are taught. NE is of pCTR over all of them; The percentage is how far it lies from that of
readers with whole snapshots.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field

import numpy as np

from models.batch import Batch, Event, Inputs
from models.delta import applied, whole
from models.manifest import Manifest
from models.row_format import RowFormat
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner
from models.versions import Versions
from models.weights import Weights, decode, encode

FEATURES = tuple(
    Feature(name=name, kind="categorical") for name in ("user", "item", "shop", "hour", "device", "user_by_hour")
)
NETWORK = Network(towers=(64, 32), embedding_width=16, threads=2, prior_ctr=0.05, prior_cvr=0.1)
ROWS = 2_048


def learner() -> Learner:
    return Learner(
        FEATURES,
        network=NETWORK,
        optimizer=Optimizer(embedding_learning_rate=0.05, dense_learning_rate=1e-3),
        safeguards=Safeguards(),
        labels=Labels(),
        observation_window_ms=3_600_000,
        attribution_window_ms=86_400_000,
        batch_size=ROWS,
        kappa_half_life_ms=43_200_000,
    )


class World:
    """Impressions of users and items whose popularity falls off as 1 / rank, with a click rate that both shape."""

    def __init__(self, users: int, items: int, seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)
        self._users, self._items = users, items
        self._tastes = self._rng.normal(0, 0.8, users), self._rng.normal(0, 0.8, items)

    def _drawn(self, count: int, of: int) -> np.ndarray:
        return np.minimum((of ** self._rng.random(count)).astype(np.int64), of - 1)

    def batch(self, hour: int) -> tuple[Batch, np.ndarray]:
        """A batch of impressions, and which were clicked."""
        user, item = self._drawn(ROWS, self._users), self._drawn(ROWS, self._items)
        chance = 1 / (1 + np.exp(3.0 - self._tastes[0][user] - self._tastes[1][item]))
        clicked = self._rng.random(ROWS) < chance
        ids = np.stack([user, item, item % 500, np.full(ROWS, hour), user % 7, user * 24 + hour], axis=1)
        ids = ids + np.arange(len(FEATURES)) * 10**9
        inputs = Inputs(ids, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((ROWS, 0), np.float32))
        events = np.where(clicked, Event.CLICKED, Event.UNCLICKED).astype(np.int8)
        return Batch.of(inputs, events, np.zeros(ROWS, np.float32)), clicked


@dataclass
class Way:
    """A way to publish, and what it has come to."""

    name: str
    versions: Versions
    reader: Learner
    bytes: int = 0
    deltas: int = 0
    delta_bytes: int = 0
    snapshot_bytes: int = 0
    has: Weights | None = None
    predicted: list[np.ndarray] = field(default_factory=list)

    def publish(self, manifest: Manifest) -> None:
        made = self.versions.make(manifest, {})
        published = encode(made)
        self.versions.published(published.manifest)
        size = sum(map(len, published.parts.values()))
        self.bytes += size
        found = decode(published)
        if found.manifest.kind == "snapshot":
            self.snapshot_bytes, self.has = size, whole(found)
        else:
            assert self.has is not None
            self.deltas, self.delta_bytes, self.has = self.deltas + 1, self.delta_bytes + size, applied(self.has, found)
        _load(self.reader, self.has)


def _load(reader: Learner, weights: Weights) -> None:
    """Puts published weights into a learner, to score with."""
    tensors = dict(weights.tensors)
    dense = {name.removeprefix("dense."): tensor for name, tensor in tensors.items() if name.startswith("dense.")}
    reader._network.parameters.restore(dense)
    for width, table in reader._input.tables.items():
        ids, vectors = tensors[f"table_{width}.ids"], tensors[f"table_{width}.vectors"]
        state = {"ids": ids, "vectors": vectors, "sums": vectors, "touched": ids.int() * 0, "evicted": ids[:0]}
        table.restore(state)


def normalized_entropy(p: np.ndarray, y: np.ndarray) -> float:
    def entropy(p: np.ndarray) -> float:
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())

    return entropy(p) / entropy(np.full(len(y), y.mean()))


WAYS: dict[str, tuple[int, float, RowFormat]] = {
    "snapshots": (1, 0.0, "fp32"),
    "deltas": (10**9, 0.0, "fp32"),
    "deltas, epsilon 0.01": (10**9, 0.01, "fp32"),
    "deltas, epsilon 0.05": (10**9, 0.05, "fp32"),
    "deltas, fp16": (10**9, 0.0, "fp16"),
    "deltas, int8": (10**9, 0.0, "int8"),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--impressions", type=int, default=160_000)
    asked.add_argument("--users", type=int, default=300_000)
    asked.add_argument("--items", type=int, default=100_000)
    asked.add_argument("--every-batches", type=int, default=4, help="batches between two versions")
    asked.add_argument("--warm", type=int, default=100, help="batches taught before the day begins")
    asked.add_argument("--json", action="store_true")
    options = asked.parse_args()
    own, world = learner(), World(options.users, options.items)
    batches = options.impressions // ROWS
    for number in range(options.warm):
        own.learn_many(world.batch(number % 24)[0], at_ms=number)
    ways = [
        Way(name, Versions(_Shared(own), snapshot_every=every, epsilon=epsilon, row_format=row_format), learner())
        for name, (every, epsilon, row_format) in WAYS.items()
    ]
    clicks, predicted = [], []
    for number in range(batches):
        if number % options.every_batches == 0:
            manifest = Manifest(
                epoch=1, version=number // options.every_batches + 1, settings_hash="", method="mature",
                torch_version="", features=FEATURES, network=NETWORK,
            )  # fmt: skip
            for way in ways:
                way.publish(manifest)
        batch, clicked = world.batch(24 * number // batches)
        clicks.append(clicked)
        predicted.append(own.predict_many(batch.inputs).pctr)
        for way in ways:
            way.predicted.append(way.reader.predict_many(batch.inputs).pctr)
        own.learn_many(batch, at_ms=options.warm + number)
    y = np.concatenate(clicks).astype(float)
    # Between two versions readers are behind the trainer: what counts is how far a way is from whole snapshots, as fresh.
    base = normalized_entropy(np.concatenate(ways[0].predicted), y)
    found = [
        {
            "way": way.name,
            "megabytes": way.bytes / 1e6,
            "times_smaller": ways[0].bytes / way.bytes,
            "delta_kilobytes": way.delta_bytes / way.deltas / 1e3 if way.deltas else None,
            "snapshot_kilobytes": way.snapshot_bytes / 1e3,
            "ne": normalized_entropy(np.concatenate(way.predicted), y),
            "off_percent": 100 * (normalized_entropy(np.concatenate(way.predicted), y) / base - 1),
        }
        for way in ways
    ]
    trainer = normalized_entropy(np.concatenate(predicted), y)
    if options.json:
        json.dump({"rows": own.embedding_rows, "trainer_ne": trainer, "ways": found}, sys.stdout)
        return
    print(
        f"{own.embedding_rows:,} rows, {-(-batches // options.every_batches)} versions; NE of the trainer itself {trainer:.5f}"
    )
    for row in found:
        delta = "" if row["delta_kilobytes"] is None else f"{row['delta_kilobytes']:8,.0f} kB a delta"
        print(
            f"{row['way']:30} {row['megabytes']:9,.1f} MB {row['times_smaller']:6.1f} x smaller  NE {row['ne']:.5f} "
            f"{row['off_percent']:+.4f} % {delta}"
        )


class _Shared:
    """A learner that several `Versions` look at: nothing is evicted here, so none takes from another."""

    def __init__(self, own: Learner) -> None:
        self._own = own
        self.published, self.published_since = own.published, own.published_since

    @property
    def step(self) -> int:
        return self._own.step

    def take_evicted(self) -> dict[str, object]:
        return {
            f"table_{width}.ids": table.vectors.new_zeros(0).long() for width, table in self._own._input.tables.items()
        }


if __name__ == "__main__":
    main()
