"""How fast the learner steps, beside what its dense part alone allows; prints one line of JSON.

All contestants take turns of a few steps, so that whatever else the machine does meets them alike. Two ratios: of the
medians (`typical`), and of the fastest tenths (`undisturbed`), the one to look at where other work shares the cores.
torch-rechub's own ESMM (`baselines/rechub_esmm.py`) joins in where it is installed.

    python tests/bench/esmm_step.py --ids 100000
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
BASELINES = Path(__file__).resolve().parent / "baselines"
sys.path[:0] = [str(ROOT), str(BASELINES)]

import esmm_limit  # noqa: E402
from esmm_limit import BATCH, FIELDS, HIDDEN, WIDTH  # noqa: E402

from models.batch import Batch, Event, Inputs, Int64  # noqa: E402
from models.schema import Feature, Network, Optimizer, Safeguards  # noqa: E402
from models.trainer import Learner, Snapshot  # noqa: E402

TURN = 6  # steps
BATCHES = 40  # different ones, as in the baselines


class RowsThemselves:
    """An index to which an id is its own row: what a step costs when rows are known."""

    def find(self, ids: Int64) -> Int64:
        return ids.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=100_000, help="ids a field (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20, help="turns of each contestant (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)

    learner = Learner(
        [Feature(name=f"field{i}", kind="categorical", width=WIDTH) for i in range(FIELDS)],
        network=Network(towers=HIDDEN, threads=args.threads),
        optimizer=Optimizer(),
        safeguards=Safeguards(),
        method="mature",
        batch_size=BATCH,
        kappa_half_life_ms=43_200_000,
    )
    rng = np.random.default_rng(0)
    offsets = np.arange(FIELDS) * args.ids
    rows = [np.minimum(rng.zipf(1.2, (BATCH, FIELDS)), args.ids) - 1 + offsets for _ in range(BATCHES)]
    ids_of_rows = rng.permutation(rng.integers(-(2**63), 2**63 - 1, int(1.01 * args.ids * FIELDS)))
    ids_of_rows = np.unique(ids_of_rows)[: args.ids * FIELDS]
    rng.shuffle(ids_of_rows)
    fill(learner, ids_of_rows)
    by_row = [batch_of(each, rng) for each in rows]
    by_id = [batch_of(ids_of_rows[each], rng) for each in rows]
    table = learner._input.tables[WIDTH]
    index = table._index

    def from_rows(turn: int) -> None:
        table._index = RowsThemselves()  # type: ignore[assignment]
        teach(by_row[turn % len(by_row)], turn)

    def from_ids(turn: int) -> None:
        table._index = index
        teach(by_id[turn % len(by_id)], turn)

    def teach(batch: Batch, turn: int) -> None:
        report = learner.learn_many(batch, at_ms=1_000 * turn)
        assert report.refusal is None

    contestants = {
        "dense_part_alone": baseline("none", args.ids, [torch.randn(BATCH, FIELDS * WIDTH)]),
        "from_rows": from_rows,
        "from_ids": from_ids,
        "sparse_adagrad": baseline("sparse", args.ids, [torch.from_numpy(each - offsets) for each in rows]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(1 + args.turns):
        for name, step in contestants.items():
            for number in range(TURN):
                started = time.perf_counter()
                step(TURN * turn + number)
                if turn and number:  # the first turn warms up, the first step of a turn finds the caches of another
                    seconds[name].append(time.perf_counter() - started)

    def typical(name: str) -> float:
        return statistics.median(seconds[name])

    def undisturbed(name: str) -> float:
        return statistics.quantiles(seconds[name], n=10)[0]

    result = {
        "ids_per_field": args.ids,
        "threads": args.threads,
        "rows": len(table),
        "samples_per_second": {name: round(BATCH / undisturbed(name)) for name in contestants},
        "of_dense_part": {
            kind.__name__: {
                name: round(kind("dense_part_alone") / kind(name), 3)
                for name in contestants
                if name != "dense_part_alone"
            }
            for kind in (undisturbed, typical)
        },
        "to_reach": {"from_rows": 0.8, "from_ids": 0.7},
    }
    if importlib.util.find_spec("torch_rechub") is not None:
        command = [
            sys.executable,
            str(BASELINES / "rechub_esmm.py"),
            "--ids",
            str(args.ids),
            "--threads",
            str(args.threads),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result["rechub_samples_per_second"] = json.loads(said.splitlines()[-1])["samples_per_second"]
    print(json.dumps(result))


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
    return Batch(inputs, events, converted)


def baseline(how: str, ids: int, inputs: list[torch.Tensor]) -> Callable[[int], None]:
    """The training step of `baselines/esmm_limit.py`, as a thing to run in turn with others."""
    net = esmm_limit.Net(ids, how)
    dense = [weight for name, weight in net.named_parameters() if not name.startswith("rows")]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, 1e-3, fused=True)]
    if how == "sparse":
        optimizers.append(torch.optim.Adagrad(net.rows.parameters(), 1e-2))
    clicked = (torch.rand(BATCH) < 0.05).float()
    converted = clicked * (torch.rand(BATCH) < 0.1).float()

    def step(turn: int) -> None:
        ctr_logit, cvr_logit = net(inputs[turn % len(inputs)])
        pctr, pcvr = torch.sigmoid(ctr_logit), torch.sigmoid(cvr_logit)
        loss = esmm_limit.bce(pctr, clicked) + esmm_limit.bce(pctr * pcvr, converted)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


if __name__ == "__main__":
    main()
