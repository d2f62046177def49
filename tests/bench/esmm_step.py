"""How fast the learner steps, beside what its dense part alone allows; prints one line of JSON.

The baselines are `baselines/esmm_limit.py` as it stands and, where torch-rechub is installed, `baselines/rechub_esmm.py`. Each
contestant has a process of its own, as it would in use, and they take turns, so that whatever else the machine does meets
them alike. Two ratios to the dense part alone: the median over the turns (`typical`), and of the best turns
(`undisturbed`), the one to look at where other work shares the cores.

    python tests/bench/esmm_step.py --ids 100000
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
BASELINES = Path(__file__).resolve().parent / "baselines"
sys.path[:0] = [str(ROOT), str(BASELINES)]

import esmm_limit  # noqa: E402
from esmm_limit import BATCH, FIELDS, HIDDEN, WIDTH  # noqa: E402

from models.batch import Batch, Event, Inputs, Int64  # noqa: E402
from models.schema import Feature, Labels, Network, Optimizer, Safeguards  # noqa: E402
from models.trainer import Learner, Snapshot  # noqa: E402

WARM_UP = 3  # steps before the clock starts, as in the baseline

Contestant = Callable[[], float]
"""Runs some steps; the samples a second."""


def baseline(how: str, ids: int, steps: int) -> dict[str, Contestant]:
    """What `esmm_limit.py` measures, by its own functions."""
    rng = np.random.default_rng(0)
    net = esmm_limit.Net(ids, how)
    dense = [torch.randn(BATCH, FIELDS * WIDTH)]
    sparse = [torch.from_numpy(np.minimum(rng.zipf(1.2, (BATCH, FIELDS)), ids) - 1) for _ in range(steps)]
    clicked = (torch.rand(BATCH) < 0.05).float()
    converted = clicked * (torch.rand(BATCH) < 0.1).float()
    inputs = dense if how == "none" else sparse
    return {how: lambda: esmm_limit.rate(net, inputs, clicked, converted, steps)}


class RowsThemselves:
    """An index to which an id is its own row: what a step costs when rows are known."""

    def find(self, ids: Int64) -> Int64:
        return ids.copy()


def ours(ids: int, threads: int, steps: int) -> dict[str, Contestant]:
    """The learner, from row numbers and from 64-bit ids."""
    learner = Learner(
        [Feature(name=f"field{i}", kind="categorical", width=WIDTH) for i in range(FIELDS)],
        network=Network(towers=HIDDEN, threads=threads),
        optimizer=Optimizer(),
        safeguards=Safeguards(),
        labels=Labels(),
        observation_window_ms=3_600_000,
        attribution_window_ms=604_800_000,
        batch_size=BATCH,
        kappa_half_life_ms=43_200_000,
    )
    rng = np.random.default_rng(0)
    offsets = np.arange(FIELDS) * ids
    rows = [np.minimum(rng.zipf(1.2, (BATCH, FIELDS)), ids) - 1 + offsets for _ in range(steps)]
    ids_of_rows = np.unique(rng.integers(-(2**63), 2**63 - 1, int(1.01 * ids * FIELDS)))
    rng.shuffle(ids_of_rows)
    ids_of_rows = ids_of_rows[: ids * FIELDS]
    fill(learner, ids_of_rows)
    table = learner._input.tables[WIDTH]

    def contestant(index: object, batches: list[Batch]) -> Contestant:
        def run() -> float:
            table._index = index  # type: ignore[assignment]
            for timed in (batches[:WARM_UP], batches):
                started = time.perf_counter()
                for batch in timed:
                    assert learner.learn_many(batch, at_ms=0).refusal is None
            return len(batches) * BATCH / (time.perf_counter() - started)

        return run

    return {
        "from_rows": contestant(RowsThemselves(), [batch_of(each, rng) for each in rows]),
        "from_ids": contestant(table._index, [batch_of(ids_of_rows[each], rng) for each in rows]),
    }


def fill(learner: Learner, ids: Int64) -> None:
    """Gives the learner a row for every id, in their order."""
    snapshot = learner.snapshot()
    vectors = torch.rand(len(ids), WIDTH).mul_(0.02).sub_(0.01)
    tensors = snapshot.tensors | {
        f"table_{WIDTH}.ids": torch.from_numpy(ids),
        f"table_{WIDTH}.touched": torch.zeros(len(ids), dtype=torch.int32),
        f"table_{WIDTH}.vectors": vectors,
        f"table_{WIDTH}.sums": torch.full_like(vectors, 1e-7),
    }
    learner.restore(Snapshot(tensors, snapshot.state))


def batch_of(ids: Int64, rng: np.random.Generator) -> Batch:
    """A batch like those of a stream: 4 % of the rows are clicks, and as many carry a matured label."""
    inputs = Inputs(ids, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32))
    kinds = [Event.UNCLICKED, Event.CLICKED, Event.MATURED]
    events = rng.choice(kinds, len(ids), p=[0.92, 0.04, 0.04]).astype(np.int8)
    converted = ((events == Event.MATURED) & (rng.random(len(ids)) < 0.1)).astype(np.float32)
    return Batch.of(inputs, events, converted, click_ms=np.where(events == Event.UNCLICKED, -1, 0))


def serve(pipe: Connection, who: str, ids: int, threads: int, steps: int) -> None:
    """A contestant's process: runs what it is asked for, and answers with the rate."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    runs = ours(ids, threads, steps) if who == "ours" else baseline(who, ids, steps)
    pipe.send(list(runs))
    while (name := pipe.recv()) is not None:
        pipe.send(runs[name]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=100_000, help="ids a field (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9, help="turns of each contestant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps a turn (default: %(default)s)")
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    contestants: dict[str, Connection] = {}
    for who in ("none", "ours", "sparse"):
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, who, args.ids, args.threads, args.steps), daemon=True).start()
        contestants |= dict.fromkeys(here.recv(), here)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(1 + args.turns):
        for name, pipe in contestants.items():
            pipe.send(name)
            rate = pipe.recv()
            if turn:  # the first warms up
                rates[name].append(rate)
    for pipe in set(contestants.values()):
        pipe.send(None)

    alone = rates.pop("none")
    result = {
        "ids_per_field": args.ids,
        "threads": args.threads,
        "samples_per_second": {"dense_part_alone": round(max(alone))}
        | {name: round(max(own)) for name, own in rates.items()},
        "of_dense_part": {
            "undisturbed": {name: round(max(own) / max(alone), 3) for name, own in rates.items()},
            "typical": {
                name: round(statistics.median(mine / theirs for mine, theirs in zip(own, alone, strict=True)), 3)
                for name, own in rates.items()
            },
        },
        "to_reach": {"from_rows": 0.8, "from_ids": 0.7},
    }
    if importlib.util.find_spec("torch_rechub") is not None:
        command = [sys.executable, str(BASELINES / "rechub_esmm.py"), f"--ids={args.ids}", f"--threads={args.threads}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result["rechub_samples_per_second"] = json.loads(said.splitlines()[-1])["samples_per_second"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
