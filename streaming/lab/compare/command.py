"""A comparison from end to end: planned, pre-trained, run in as many processes as there are cores. Must not know a figure or a page."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from models.delay import METHODS, check_combination, method_of
from streaming.lab.compare.files import RUNS, ResultsError
from streaming.lab.compare.protocol import Plan, plan_of
from streaming.lab.compare.runs import INITIAL, ORACLE, PRETRAINED, WINDOW, Task, initial_of, pretrain, run
from streaming.settings import Settings, SettingsError

Progress = Callable[[str, float], object]
"""Called with what is being done, and how much of all of it is done, 0 to 1."""

DEFAULT_METHODS = ("window", "fnw", "es_dfm", "defer", "defuse", "ddfm", "survival", "mature")
_TELL_SECONDS = 0.5
_shares: Queue[tuple[str, float]] | None = None  # of a worker process: where it tells how far it has come


def compare(
    log: Path,
    settings: Settings,
    out: Path,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    pretrain_days: float | None = None,
    close_at_end: bool = False,
    processes: int | None = None,
    progress: Progress = lambda what, share: None,
) -> Plan:
    """Runs the methods, `pretrained`, `window` and `oracle` on one log; runs that `out` holds whole are not run again.

    Args:
        log: directory of the log. out: directory of the comparison.
        settings: of all runs; the method in them does not matter.
        methods: names, or `module:NAME`.
        seeds: of the networks' random starts; every method runs with each.
        pretrain_days, close_at_end: as in `protocol.plan_of`.
        processes: at a time; None is one for each core.
        progress: told of what goes on.

    Raises:
        SettingsError: there is no such method, or it cannot be had with the objective of the settings.
        ResultsError: `out` holds another comparison, or there is nothing to compare.
    """
    if not methods or not seeds:
        raise SettingsError("--methods and --seeds must name at least one each")
    names = list(dict.fromkeys([PRETRAINED, WINDOW, *methods, ORACLE]))
    for name in names:
        if name != PRETRAINED:
            _check(name, settings)
    progress("reading the log", 0.0)
    plan = plan_of(log, settings, out, pretrain_days=pretrain_days, close_at_end=close_at_end)
    initial = [Task(name, seed) for seed in seeds for name in dict.fromkeys(map(initial_of, names))]
    tasks = [Task(name, seed) for seed in seeds for name in names]
    jobs = [
        [partial(work, log, out, plan, settings, task) for task in some if not _is_done(out / folder, task)]
        for work, folder, some in ((pretrain, INITIAL, initial), (run, RUNS, tasks))
    ]
    # A share of the whole is told by what has been streamed; pre-training is as long a walk as a run.
    _in_processes(jobs, processes or os.cpu_count() or 1, progress)
    progress("compared", 1.0)
    return plan


def _check(name: str, settings: Settings) -> None:
    try:
        method_of(name)
        check_combination(
            name,
            objective=settings.network.objective,
            normalization=settings.labels.normalization,
            delay_model=settings.labels.delay_model,
        )
    except ValueError as error:
        raise SettingsError(
            f'--methods {name}: {error} (known are {", ".join(METHODS)}; AFTERCLICK_NETWORK__OBJECTIVE="composed" sets the objective)'
        ) from error


def _is_done(folder: Path, task: Task) -> bool:
    return (folder / f"{task.name}.json").exists() and (folder / f"{task.name}.safetensors").exists()


def _in_processes(stages: Sequence[Sequence[partial[None]]], processes: int, progress: Progress) -> None:
    """Does all jobs of a stage before the next one begins; in this process if there is to be no other."""
    everything = [job for stage in stages for job in stage]
    if processes == 1 or not everything:
        for number, job in enumerate(everything):
            job(_share_of(number, len(everything), _name(job), progress))
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    shares: Queue[tuple[str, float]] = context.Queue()
    total = sum(map(len, stages))
    done: dict[str, float] = {}
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(shares,)) as pool:
        for jobs in stages:
            waiting: set[Future[None]] = {pool.submit(_work, job, _name(job)) for job in jobs}
            while waiting:
                finished, waiting = wait(waiting, timeout=_TELL_SECONDS, return_when=FIRST_EXCEPTION)
                while not shares.empty():
                    name, share = shares.get()
                    done[name] = share
                    progress(name, sum(done.values()) / total)
                for future in finished:
                    if error := future.exception():
                        pool.shutdown(cancel_futures=True)
                        raise error


def _share_of(number: int, total: int, name: str, progress: Progress) -> Callable[[float], object]:
    """How far one job's share is of the whole."""
    return lambda share: progress(name, (number + share) / total)


def _name(job: partial[None]) -> str:
    return f"{job.func.__name__} {job.args[-1].name}"


def _start(shares: Queue[tuple[str, float]]) -> None:
    global _shares
    _shares = shares
    torch.set_num_threads(1)


def _work(job: partial[None], name: str) -> None:
    assert _shares is not None
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if share - told >= 0.01:
            told = share
            _shares.put((name, share))

    job(tell)
    _shares.put((name, 1.0))


__all__ = ["DEFAULT_METHODS", "ResultsError", "compare"]
