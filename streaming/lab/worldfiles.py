"""The truth of a simulated log as a Parquet file, written and read; must not know where its figures come from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from streaming.lab.delays import Floats, Ints
from streaming.lab.facts import Ids
from streaming.lab.truth import Probabilities

TRUTH = "truth.parquet"


@dataclass(frozen=True, slots=True)
class TruthOfLog:
    """The rows of truth.parquet as columns, (n,) each, in the order of event time: the form is in docs/formats.md."""

    impression_id: npt.NDArray[np.str_]
    event_time_ms: Ints
    pctr: Floats
    pcvr: Floats
    short_share: Floats

    def __len__(self) -> int:
        return len(self.impression_id)


class TruthFile:
    """Takes the truth of some impressions after the other; it stands in the file once the `with` statement ends well.

    Rows wait in a database beside the file, since Parquet is written at once and a log may be larger than memory.

    Args:
        path: of the file.
        name: how an impression is called by its number, as DuckDB's `format` takes it; 16 hex digits unless given.
    """

    def __init__(self, path: Path, *, name: str = "{:016x}") -> None:
        self._path, self._name = path, name

    def __enter__(self) -> TruthFile:
        self._folder = tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".truth-")
        # One thread: more would write row groups in an order of their own, and equal worlds write equal bytes.
        self._database = duckdb.connect(str(Path(self._folder.name) / "rows.duckdb"), config={"threads": 1})
        self._database.execute(
            "CREATE TABLE rows (id UBIGINT, event_time_ms BIGINT, pctr DOUBLE, pcvr DOUBLE, short_share DOUBLE)"
        )
        return self

    def add(self, impression_id: Ids, event_time_ms: Ints, probabilities: Probabilities) -> None:
        """The truth of more impressions."""
        columns: dict[str, Any] = {
            "id": impression_id,
            "event_time_ms": event_time_ms,
            "pctr": probabilities.pctr,
            "pcvr": probabilities.pcvr,
            "short_share": probabilities.short_share,
        }
        self._database.register("chunk", columns)
        self._database.execute("INSERT INTO rows SELECT id, event_time_ms, pctr, pcvr, short_share FROM chunk")
        self._database.unregister("chunk")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                rows = f"SELECT format('{self._name}', id) AS impression_id, * EXCLUDE (id) FROM rows"
                target = str(self._path).replace("'", "''")
                self._database.execute(f"COPY ({rows}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        finally:
            self._database.close()
            self._folder.cleanup()


def truth_of(log: Path) -> TruthOfLog:
    """The truth behind a simulated log.

    Args:
        log: a directory that `generate` wrote.

    Raises:
        FileNotFoundError: `log` holds no truth.parquet: it is no simulated log.
    """
    path = log / TRUTH
    if not path.exists():
        raise FileNotFoundError(f"log {log} holds no {TRUTH}: only a log from `afterclick generate` has a known truth")
    with duckdb.connect() as database:
        columns = database.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchnumpy()
    return TruthOfLog(
        impression_id=columns["impression_id"].astype(np.str_),
        event_time_ms=columns["event_time_ms"],
        pctr=columns["pctr"],
        pcvr=columns["pcvr"],
        short_share=columns["short_share"],
    )
