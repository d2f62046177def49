"""Published versions of a small run, and what its trainer would have predicted with each; sources of weights that go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput
from worlds import lines_of, small_log, small_settings

from models.batch import Float64
from models.manifest import Manifest, MissingWeightsError, Published
from models.schema import Feature, Network
from models.weights import Weights, encode
from streaming.features import FeatureReader
from streaming.ingest import Ingest
from streaming.pipeline import Pipeline


class FakeSource:
    """Weights in memory; `fails` is asked before each answer, and may raise."""

    def __init__(self, *versions: Published, fails: Callable[[], None] = lambda: None) -> None:
        self.versions: dict[tuple[int, int], Published] = {}
        self.fails = fails
        self.fetched: list[tuple[int, int]] = []
        self.newest: tuple[int, int] | None = None
        for published in versions:
            self.publish(published)

    def publish(self, published: Published) -> None:
        self.newest = published.manifest.epoch, published.manifest.version
        self.versions[self.newest] = published

    def current(self) -> tuple[int, int] | None:
        self.fails()
        return self.newest

    def fetch(self, epoch: int, version: int) -> Published:
        self.fetched.append((epoch, version))
        self.fails()
        try:
            return self.versions[epoch, version]
        except KeyError:
            raise MissingWeightsError(f"there is no version {epoch}-{version}") from None


USER = Feature(name="user", kind="categorical", width=2)
TINY = Network(towers=(), embedding_width=2, threads=1)


def tiny(
    epoch: int,
    version: int,
    *,
    logit: float = 0.0,
    rows: Mapping[int, float] | None = None,
    base: int | None = None,
    base_digest: str | None = None,
    watermark_ms: int | None = None,
) -> Published:
    """A version whose logits are all `logit`, with rows of these ids; a delta if it has a base."""
    held = {} if rows is None else rows
    ids = torch.tensor(list(held), dtype=torch.int64)
    tensors = {
        "dense.entrance.bias": torch.full((2,), logit),
        "dense.entrance.shared.weight": torch.zeros(2, 2),
        "dense.entrance.ctr.weight": torch.zeros(1, 0),
        "dense.entrance.cvr.weight": torch.zeros(1, 0),
        "table_2.ids": ids,
        "table_2.vectors": torch.tensor(list(held.values()))[:, None].repeat(1, 2).reshape(-1, 2),
    }
    of_delta: dict[str, object] = {}
    if base is not None:
        of_delta = {"kind": "delta", "base_epoch": epoch, "base_version": base, "base_digest": base_digest}
        tensors |= {
            "table_2.rows": torch.arange(len(ids), dtype=torch.int32),
            "table_2.gone": torch.zeros(0, dtype=torch.int64),
        }
    manifest = Manifest(
        epoch=epoch, version=version, settings_hash="h", method="mature", torch_version="2", features=(USER,), network=TINY,
        watermark_ms=watermark_ms, offsets={"log": version}, **of_delta,  # type: ignore[arg-type]
    )  # fmt: skip
    return encode(Weights(manifest, tensors))


def probability(logit: float) -> float:
    return 1 / (1 + float(np.exp(-logit)))


@dataclass
class Told:
    """Versions of a run in order, and beside each what the trainer predicts for the rows asked about: pctr and pcvr."""

    rows: list[bytes]
    versions: list[Published] = field(default_factory=list)
    expected: list[tuple[Float64, Float64]] = field(default_factory=list)


class _Listening(ListPublisher):
    """A publisher that asks the trainer, at the moment of publishing, what it would predict."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self.told = told
        self.pipeline: Pipeline | None = None

    def publish(self, published: Published) -> str:
        assert self.pipeline is not None
        inputs = FeatureReader(published.manifest.features).read(self.told.rows)
        said = self.pipeline._learner.predict_many(inputs)
        recalibrator = self.pipeline._calibrating._recalibrator
        pcvr = said.pcvr if recalibrator is None else recalibrator.apply(said.pcvr, inputs)
        self.told.versions.append(published)
        self.told.expected.append((said.pctr, pcvr))
        return super().publish(published)


@cache
def small_run(folder: str, method: str = "survival", objective: str = "esmm", recalibrated: bool = False) -> Told:
    """All versions of a run over a small log."""
    from pathlib import Path

    log = Path(folder) / "log"
    if not log.exists():
        small_log(log, impressions=3_000)
    lines = lines_of(log)
    sections: dict[str, dict[str, object]] = {
        "labels": {"method": method},
        "network": {"towers": (16, 8), "threads": 1, "objective": objective},
    }
    if recalibrated:
        sections["recalibrating"] = {"kind": "platt", "field": "placement", "least_conversions": 20.0}
    settings = small_settings(log, **sections)
    rows = [
        json.dumps(json.loads(line)["features"]).encode()
        for line in lines["impressions.jsonl"][:3_000:17]
        if b"features" in line
    ]
    listening = _Listening(Told([*rows, b"{}", b'{"item_id":"nobody has seen this","recent_items":["nor this"]}']))
    pipeline = Pipeline(
        settings,
        feed=Ingest(settings, ListLog(lines, settings)),
        output=MemoryOutput(),
        cuts=MemoryCuts(),
        publisher=listening,
    )
    listening.pipeline = pipeline
    for _ in pipeline.run():
        pass
    return listening.told
