"""What a replay finds of a planted truth: calibration, AUC beside the oracle method's, and that it finds nothing where nothing is.

    planted_truth.py OUT [--impressions N] [--seeds K] [--config-dial section.key=value ...]

For each seed: a world with every dial on and no drift, replayed under `mature` and `oracle`; and the same with the signal off,
replayed under `mature`. Prints a JSON line a seed and one with the means. Logs and runs stay in OUT and are not made twice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path

from streaming.lab.against_truth import compare_with_truth
from streaming.lab.verify import verify
from streaming.lab.world import World, generate
from streaming.replay import Replay
from streaming.settings import load

FROM_DAY, TO_DAY = 7.0, 14.0


def run_of(out: Path, name: str, log: Path, method: str, dials: dict[str, str]) -> Path:
    run = out / name
    if not (run / "metrics.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        environ = {"AFTERCLICK_LABELS__METHOD": f'"{method}"'} | dials
        replay = Replay(log, run, load(log / "settings.toml", environ))
        for _ in replay.run():
            pass
    return run


def study(out: Path, seed: int, impressions: int, dials: dict[str, str], *, check: bool) -> dict[str, float | None]:
    logs: dict[float, Path] = {}
    for signal in (1.0, 0.0):
        logs[signal] = out / f"log-{seed}-{signal:.0f}"
        if not (logs[signal] / "truth.parquet").exists():
            shutil.rmtree(logs[signal], ignore_errors=True)
            world = World(impressions=impressions, seed=seed, signal=signal, drift_degrees_per_day=0.0)
            generate(logs[signal], world)
    mature = run_of(out, f"mature-{seed}", logs[1.0], "mature", dials)
    oracle = run_of(out, f"oracle-{seed}", logs[1.0], "oracle", dials)
    nothing = run_of(out, f"nothing-{seed}", logs[0.0], "mature", dials)
    m, o, n = (
        compare_with_truth(log, run, from_day=FROM_DAY, to_day=TO_DAY)
        for log, run in ((logs[1.0], mature), (logs[1.0], oracle), (logs[0.0], nothing))
    )
    assert m.cvr.auc is not None
    assert o.cvr.auc is not None
    assert m.cvr.truth_auc is not None
    found: dict[str, float | None] = {
        "seed": seed,
        "ctr_bias": m.ctr.bias,
        "cvr_bias": m.cvr.bias,
        "ctr_auc": m.ctr.auc,
        "ctr_truth_auc": m.ctr.truth_auc,
        "cvr_auc": m.cvr.auc,
        "cvr_oracle_auc": o.cvr.auc,
        "cvr_truth_auc": m.cvr.truth_auc,
        "cvr_share_of_oracle": (m.cvr.auc - 0.5) / (o.cvr.auc - 0.5),
        "cvr_share_of_truth": m.cvr.share,
        "ctr_share_of_truth": m.ctr.share,
        "signal_off_ctr_ne": n.ctr.normalized_entropy,
        "signal_off_cvr_ne": n.cvr.normalized_entropy,
    }
    if check:
        found["verify_agreed"] = all(verify(logs[1.0], run).agreed for run in (mature, oracle))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dial", action="append", default=[], help="SECTION.KEY=VALUE of the settings")
    parser.add_argument("--verify", action="store_true")
    args = parser.parse_args()
    dials = {}
    for dial in args.dial:
        key, _, value = dial.partition("=")
        dials["AFTERCLICK_" + key.replace(".", "__").upper()] = value
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(args.seeds):
        rows.append(study(args.out, seed, args.impressions, dials, check=args.verify))
        print(json.dumps(rows[-1]), flush=True)
    means = {key: statistics.mean(row[key] or 0.0 for row in rows) for key in rows[0] if key != "seed"}
    print(json.dumps({"mean of seeds": args.seeds, "dials": dials} | means))


if __name__ == "__main__":
    main()
