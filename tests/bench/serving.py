"""How long a scorer takes over real HTTP, beside the bare model on a batch that is ready; then with weights swapped under it.

The model is the one of `esmm_step.py`: 20 fields of width 16, towers 256-128-64. Ten fields are the user's and stand in the context. The
server is `afterclick serve` in a process of its own; requests and bare calls of one size take turns, so that whatever else the
machine does meets them alike; where other work shares the cores, p10 is nearer to what an idle machine would show. In the second part versions are published every three seconds (one in ten a snapshot, the others
deltas of one row in a hundred), while one client asks for 100 items without a pause. Prints one line of JSON.

    python tests/bench/serving.py [--ids 20000] [--rounds 300] [--swaps 20]
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from models.frozen import FrozenModel  # noqa: E402
from models.manifest import Manifest  # noqa: E402
from models.schema import Feature, Labels, Network, Optimizer, Safeguards  # noqa: E402
from models.trainer import Learner  # noqa: E402
from models.weights import Weights, encode  # noqa: E402
from streaming.adapters.directory import DirectoryPublisher  # noqa: E402
from streaming.features import FeatureReader  # noqa: E402
from streaming.ids import Salt  # noqa: E402

FIELDS, WIDTH, HIDDEN = 20, 16, (256, 128, 64)
SIZES = (1, 100, 500)
WARM_UP = 20  # calls before any is timed
PERIOD_S = 3.0  # between two versions: 20 a minute


def model_of(ids: int) -> Weights:
    """A version with a row for each of `ids` values of each field."""
    features = tuple(Feature(name=f"field{field}", kind="categorical", width=WIDTH) for field in range(FIELDS))
    learner = Learner(
        features,
        network=Network(towers=HIDDEN, threads=1),
        optimizer=Optimizer(),
        safeguards=Safeguards(),
        labels=Labels(),
        observation_window_ms=3_600_000,
        attribution_window_ms=604_800_000,
        batch_size=2048,
        kappa_half_life_ms=43_200_000,
    )
    manifest = Manifest(
        epoch=1,
        version=1,
        settings_hash="",
        method="mature",
        torch_version=str(torch.__version__),
        features=features,
        network=Network(towers=HIDDEN, threads=1),
    )
    rows = np.concatenate([Salt(feature.name).ids([f"v{value}" for value in range(ids)]) for feature in features])
    vectors = torch.rand(len(rows), WIDTH).mul_(0.02).sub_(0.01)
    tables = {f"table_{WIDTH}.ids": torch.from_numpy(rows), f"table_{WIDTH}.vectors": vectors}
    return Weights(manifest, learner.published() | tables)


def next_of(weights: Weights, version: int, rng: np.random.Generator) -> Weights:
    """The version after: a delta of one row in a hundred, or a snapshot."""
    base, name = weights.manifest, f"table_{WIDTH}"
    if version % 10 == 1:
        return Weights(msgspec.structs.replace(base, version=version), weights.tensors)
    ids = weights.tensors[f"{name}.ids"]
    rows = torch.from_numpy(np.sort(rng.choice(len(ids), len(ids) // 100, replace=False)))
    tensors = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith("table")}
    tensors |= {
        f"{name}.ids": ids[rows],
        f"{name}.vectors": torch.rand(len(rows), WIDTH).mul_(0.02).sub_(0.01),
        f"{name}.rows": rows.to(torch.int32),
        f"{name}.gone": torch.zeros(0, dtype=torch.int64),
    }
    manifest = msgspec.structs.replace(
        base, version=version, kind="delta", base_epoch=base.epoch, base_version=version - 1
    )
    return Weights(manifest, tensors)


def question(items: int, ids: int, rng: np.random.Generator) -> tuple[bytes, list[bytes]]:
    """A request, and its items as whole rows."""
    values = np.minimum(rng.zipf(1.2, (items, FIELDS)), ids) - 1
    half = FIELDS // 2
    context = {f"field{field}": f"v{values[0, field]}" for field in range(half)}
    rows = [{f"field{field}": f"v{row[field]}" for field in range(half, FIELDS)} for row in values]
    body = json.dumps({"context": context, "items": rows}).encode()
    return body, [json.dumps(context | row).encode() for row in rows]


class Client:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, body: bytes) -> bytes:
        self._connection.request("POST", "/score", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {data[:200]!r}")
        return data


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "p10": round(1000 * cuts[9], 2),
        "p50": round(1000 * cuts[49], 2),
        "p99": round(1000 * cuts[98], 2),
        "max": round(1000 * max(seconds), 2),
    }


def against_bare(port: int, weights: Weights, ids: int, rounds: int) -> dict[str, object]:
    rng, client = np.random.default_rng(0), Client(port)
    model, reader = FrozenModel(weights), FeatureReader(weights.manifest.features)
    found: dict[str, object] = {}
    for items in SIZES:
        asked = [question(items, ids, rng) for _ in range(50)]
        batches = [reader.read(rows) for _, rows in asked]
        over_http, bare = [], []
        for number in range(WARM_UP + rounds):
            body, batch = asked[number % len(asked)][0], batches[number % len(asked)]
            started = time.perf_counter()
            client.ask(body)
            answered = time.perf_counter()
            model.predict_many(batch)
            ended = time.perf_counter()
            if number >= WARM_UP:
                over_http.append(answered - started)
                bare.append(ended - answered)
        told = {"http_ms": milliseconds(over_http), "bare_ms": milliseconds(bare)}
        ratios = {
            "p50_ratio": round(statistics.median(over_http) / statistics.median(bare), 2),
            "p10_ratio": round(statistics.quantiles(over_http, n=10)[0] / statistics.quantiles(bare, n=10)[0], 2),
        }
        found[str(items)] = told | ratios | {"body_bytes": len(asked[0][0])}
    return found


def under_swaps(port: int, publisher: DirectoryPublisher, weights: Weights, ids: int, swaps: int) -> dict[str, object]:
    rng, done = np.random.default_rng(1), threading.Event()
    asked = [question(100, ids, rng)[0] for _ in range(50)]
    seconds: list[float] = []
    failed: list[str] = []
    versions: set[int] = set()

    def ask() -> None:
        client = Client(port)
        while not done.is_set():
            started = time.perf_counter()
            try:
                told = msgspec.json.decode(client.ask(asked[len(seconds) % len(asked)]))
            except OSError as error:
                failed.append(str(error))
                client = Client(port)
                continue
            seconds.append(time.perf_counter() - started)
            versions.add(told["weights"]["version"])

    thread = threading.Thread(target=ask)
    thread.start()
    started = time.perf_counter()
    for number in range(swaps):
        publisher.publish(encode(next_of(weights, 2 + number, rng)))
        time.sleep(max(0.0, started + (number + 1) * PERIOD_S - time.perf_counter()))
    elapsed = time.perf_counter() - started
    done.set()
    thread.join()
    return {
        "requests": len(seconds), "failed": len(failed), "failures": failed[:3], "versions_seen": len(versions),
        "swaps_a_minute": round(60 * swaps / elapsed, 1), "http_ms": milliseconds(seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=20_000, help="ids a field (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=300, help="requests of each size (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=20, help="versions published under load (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)
    weights = model_of(args.ids)
    with tempfile.TemporaryDirectory() as folder:
        publisher = DirectoryPublisher(Path(folder), versions_kept=12)
        publisher.publish(encode(weights))
        command = [sys.executable, "-c", "from streaming.cli import main; main()", "serve", "--weights", folder]
        server = subprocess.Popen(
            [*command, "--port", "0", "--poll-ms", "200"], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            told = next(line for line in server.stderr if "serving scores" in line)
            port = int(told.rpartition(":")[2].split()[0])
            result: dict[str, object] = {
                "embedding_rows": args.ids * FIELDS,
                "items": against_bare(port, weights, args.ids, args.rounds),
            }
            result["under_swaps"] = under_swaps(port, publisher, weights, args.ids, args.swaps) if args.swaps else None
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            result["answers"] = [line for line in lines if "requests_total{" in line and not line.endswith(" 0.0")]
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(result | {"to_reach": {"p50_ratio of 100": 3.0, "failed": 0}}))


if __name__ == "__main__":
    main()
