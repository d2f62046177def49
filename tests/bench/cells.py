"""The cells of a study, each run in a process of its own and kept in a file of its own; must not know what a cell does.

    OUT/cells/NAME.json   {"seconds": .., "cpu_seconds": .., "peak_gib": .., "lines": [..]}

A cell whose file stands is not run again, so a study that was stopped goes on where it was. Remove a file to run its cell anew.
"""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Cell(NamedTuple):
    """A part of a study that can be run by itself.

    Args:
        name: of its file. run: gives its lines, one by one; found at the top of a module, as it goes to another process.
        args: of `run`.
    """

    name: str
    run: Callable[..., Iterable[Line]]
    args: Mapping[str, Any]


def path_of(out: Path, name: str) -> Path:
    """Where a cell's lines are kept."""
    return out / "cells" / f"{name}.json"


def lines_of(out: Path, name: str) -> list[Line] | None:
    """What a cell gave; None if it has not been run."""
    path = path_of(out, name)
    return json.loads(path.read_text())["lines"] if path.exists() else None


def run_cells(cells: Iterable[Cell], out: Path, *, processes: int) -> list[str]:
    """Runs the cells that have not been run, so many at a time, and says how far it has come.

    Returns:
        The names of the cells that failed; why, their processes have printed.
    """
    cells = list(cells)
    todo = [cell for cell in cells if not path_of(out, cell.name).exists()]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them there already", flush=True)
    if not todo:
        return []
    (out / "cells").mkdir(parents=True, exist_ok=True)
    began, failed = time.perf_counter(), []
    # A process a cell: what one leaves in memory another need not have, and a peak is the cell's own.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(_run, cell, out): cell for cell in todo}
        for done, future in enumerate(as_completed(running), start=1):
            cell = running[future]
            try:
                told = future.result()
            except Exception as error:  # one cell's fault is no reason to lose the others
                told, failed = f"failed: {error!r}", [*failed, cell.name]
            left = (time.perf_counter() - began) / done * (len(todo) - done)
            print(f"[{done} of {len(todo)}] {cell.name}: {told}; about {left / 60:.0f} min left", flush=True)
    return failed


def _run(cell: Cell, out: Path) -> str:
    began, cpu = time.perf_counter(), time.process_time()
    lines = []
    try:
        for line in cell.run(**cell.args):
            lines.append(line)
            print(json.dumps({"cell": cell.name} | line), flush=True)
    except Exception:
        traceback.print_exc()
        raise
    cost = {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    partial = path_of(out, cell.name).with_suffix(".partial")
    partial.write_text(json.dumps(cost | {"lines": lines}))
    partial.replace(path_of(out, cell.name))  # last: where it stands, the cell is whole
    return f"{cost['seconds']:.0f} s, {cost['cpu_seconds']:.0f} s of a processor, {cost['peak_gib']} GiB"
