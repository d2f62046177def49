"""The files that the runs of a comparison leave, and how they are refused; must not know a figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from models.batch import Float64, Int64

CLICKS, RUNS, RESULTS, PAGE = "clicks.safetensors", "runs", "compare.json", "compare.html"
_RUN = re.compile(r"(?P<method>.+)-seed(?P<seed>\d+)")


class ResultsError(ValueError):
    """A comparison's directory cannot be read, or says nothing; the message names the file, the rule and what to do."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`runs/METHOD-seedN.json`: what a run cost.

    Args:
        seconds: it took, wall clock.
        rows: taught.
        clicks: CLICKED rows among them.
        conversion_events: rows that taught conversions: with a pair of weights.
        effective_sample_size: (sum of weights)² / sum of their squares, over the rows with a pair; None where nothing was taught.
        kappa: at the end.
        ended: why it ended early; None if it did not.
    """

    method: str
    seed: int
    seconds: float
    rows: int
    clicks: int
    conversion_events: int
    effective_sample_size: float | None = None
    kappa: float = 0.0
    ended: str | None = None

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.method}-seed{self.seed}"


class Clicks(NamedTuple):
    """The clicks that all runs of a comparison predict, in order of time: (C,) each; `delay_ms` is -1 without a conversion."""

    click_ms: Int64
    label: Float64
    delay_ms: Int64


def read_clicks(directory: Path) -> Clicks:
    """The clicks of a comparison.

    Raises:
        ResultsError: they are not there, damaged, or not in order.
    """
    path = directory / CLICKS
    if not path.exists():
        raise ResultsError(f"{path} does not exist: name the directory that `afterclick compare LOG --out DIR` wrote")
    columns = _columns(path, {"click_ms": "i", "label": "f", "delay_ms": "i"})
    found = Clicks(
        columns["click_ms"].astype(np.int64), columns["label"].astype(np.float64), columns["delay_ms"].astype(np.int64)
    )
    if (np.diff(found.click_ms) < 0).any():
        raise ResultsError(
            f"{path} must hold clicks in order of click_ms, and does not: it was not written by `afterclick compare`"
        )
    return found


def read_records(directory: Path) -> tuple[list[RunRecord], list[tuple[str, str]]]:
    """The runs that have both files, by method and seed; and the names of those that lack one, each with what it lacks.

    Raises:
        ResultsError: a record is damaged, or is not of the run that its name says.
    """
    folder = directory / RUNS
    stems = sorted({path.stem for path in folder.glob("*") if path.suffix in (".json", ".safetensors")})
    found, unfinished = [], []
    for stem in stems:
        lacks = [ending for ending in (".json", ".safetensors") if not (folder / f"{stem}{ending}").exists()]
        if lacks:
            unfinished.append((stem, f"it did not finish: {stem}{lacks[0]} is not there"))
            continue
        path = folder / f"{stem}.json"
        try:
            record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
        except (OSError, msgspec.DecodeError) as error:
            raise _damaged(path, str(error)) from error
        name = _RUN.fullmatch(stem)
        if name is None or (record.method, record.seed) != (name["method"], int(name["seed"])):
            raise ResultsError(
                f"{path} must be called {record.name}.json by the method and seed it holds: somebody renamed it"
            )
        found.append(record)
    return sorted(found, key=lambda record: (record.method, record.seed)), unfinished


def read_predictions(directory: Path, record: RunRecord, clicks: int) -> Float64:
    """What a run predicted for each click, (C,); NaN where it did not.

    Raises:
        ResultsError: the file is damaged, of other clicks, or holds what is no probability.
    """
    path = directory / RUNS / f"{record.name}.safetensors"
    p: Float64 = _columns(path, {"p": "f"})["p"].astype(np.float64)
    if len(p) != clicks:
        raise ResultsError(
            f"{path} holds {len(p):,} predictions for the {clicks:,} clicks of {CLICKS}: it is of another log; "
            "remove it and compare again"
        )
    outside = (p < 0.0) | (p > 1.0)  # NaN is neither: not scored
    if outside.any():
        row = int(outside.argmax())
        raise ResultsError(f"{path}: p[{row}] must be a probability, 0 to 1, or NaN where none was made (got {p[row]})")
    return p


def _columns(path: Path, kinds: dict[str, str]) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of one length that a file must hold; a kind is numpy's letter: "i" whole numbers, "f" others."""
    try:
        columns: dict[str, npt.NDArray[np.generic]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    for name, kind in kinds.items():
        column = columns.get(name)
        if column is None or column.ndim != 1 or column.dtype.kind != kind:
            got = "nothing" if column is None else f"{column.dtype} of shape {column.shape}"
            raise _damaged(path, f"{name} must be a row of {'whole numbers' if kind == 'i' else 'floats'}, got {got}")
    lengths = {name: len(columns[name]) for name in kinds}
    if len(set(lengths.values())) > 1:
        raise _damaged(path, f"its columns must be of one length, got {lengths}")
    return columns


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Says which file cannot be read as what it was written as, and what to do."""
    try:
        yield
    except (OSError, SafetensorError, msgspec.MsgspecError, TypeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> ResultsError:
    return ResultsError(f"{path} is damaged ({why}): remove it and compare again, what is whole is not computed twice")
