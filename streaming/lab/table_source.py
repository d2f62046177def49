"""A flat table in files as one relation that DuckDB can ask more than once; must not know what its columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np

from streaming.lab.csv_rows import CSV_SUFFIXES, Row, SourceError, rows_of
from streaming.lab.new_log import NewLog

PLACE = "__place"
"""A column added to each row: the number of its file, from 0, << 40 | its line (CSV) or row (Parquet), from 1."""

PLACE_BITS = 40
_CHUNK_ROWS = 16_384  # of a CSV file handed to DuckDB at a time
_MEMORY = "1GB"  # DuckDB's; what it sorts or groups goes to disk beyond it

# What a CSV cell must look like for its column to be one of numbers. "007" is a name, and so is what a double cannot hold.
_WHOLE = "-?(0|[1-9][0-9]{0,17})"
_NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?"


class TableSource:
    """The rows of a table as the relation `source`, with the columns of the files and `PLACE`.

    Parquet is read where it stands; CSV is copied into the database, an empty cell as NULL, and each column gets the type that all
    of its cells allow. Rows that are no rows of the table are refused.

    Args:
        source: a .parquet, .csv or .csv.gz file, or a directory of such parts, all of one sort.
        log: the log that the table becomes; its folder holds what does not fit into memory.
        text: columns that are text whatever they look like.

    Raises:
        SourceError: no such file, files of two sorts, or a CSV file that cannot be read or has other columns than the first.
        duckdb.Error: a Parquet file that cannot be read, or has other columns than the first.
    """

    def __init__(self, source: Path, log: NewLog, *, text: Sequence[str] = ()) -> None:
        self.path, self._log = source, log
        self.parts = parts_of(source)
        self.database = duckdb.connect(
            str(log.folder / "table.duckdb"),
            config={"memory_limit": _MEMORY, "temp_directory": str(log.folder / "spilled")},
        )
        # Times without a zone are UTC, whatever this machine's zone is.
        self.database.execute("SET TimeZone = 'UTC'")
        try:
            self._read_parquet() if self.parts[0].suffix == ".parquet" else self._read_csv(text)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the database; `source` is gone."""
        self.database.close()

    def types(self) -> dict[str, str]:
        """DuckDB's type of each column, in order."""
        described = self.database.execute("DESCRIBE source").fetchall()
        return {name: kind for name, kind, *_ in described if name != PLACE}

    def record(self) -> str:
        """SQL for a row of `source` as the text of a JSON object."""
        return (
            f"to_json(struct_pack({', '.join(f'{identifier(n)} := {identifier(n)}' for n in self.types())}))::VARCHAR"
        )

    def at(self, place: int) -> str:
        """A place as people read it: `file:line`."""
        return f"{self.parts[place >> PLACE_BITS].name}:{place & (1 << PLACE_BITS) - 1}"

    def _read_parquet(self) -> None:
        files = ", ".join(literal(str(path)) for path in self.parts)
        self.database.execute(
            f"CREATE VIEW source AS SELECT ((list_position([{files}], filename) - 1)::BIGINT << {PLACE_BITS}) + file_row_number + 1 "
            f"AS {PLACE}, * EXCLUDE (filename, file_row_number) FROM read_parquet([{files}], filename = true, file_row_number = true)"
        )

    def _read_csv(self, text: Sequence[str]) -> None:
        header: list[str] = []
        for part, path in enumerate(self.parts):
            rows = (row for row in rows_of(path, header) if self._is_usable(path, row))
            while chunk := list(islice(rows, _CHUNK_ROWS)):
                names = list(chunk[0].cells)
                if header and names != header:
                    raise SourceError(
                        f"{path} has other columns than {self.parts[0]} ({', '.join(names[:10])}): the parts of a table are alike"
                    )
                columns = {name: np.array([row.cells[name] for row in chunk], dtype=object) for name in names}
                places = {PLACE: np.array([(part << PLACE_BITS) + row.number for row in chunk], dtype=np.int64)}
                self.database.register("chunk", places | columns)
                cells = ", ".join(f"nullif({identifier(name)}, '') AS {identifier(name)}" for name in names)
                rows_in = f"SELECT {PLACE}, {cells} FROM chunk"
                verb = "INSERT INTO cells" if header else "CREATE TABLE cells AS"
                self.database.execute(f"{verb} {rows_in}")
                self.database.unregister("chunk")
                header = names
        if not header:
            raise SourceError(
                f"{self.path} has no rows: a table is a header and lines below it, each with a line end, as UTF-8 text"
            )
        typed = ", ".join(
            f"{identifier(name)}::{kind} AS {identifier(name)}" for name, kind in self._types_of_cells(header, text)
        )
        self.database.execute(f"CREATE VIEW source AS SELECT {PLACE}, {typed} FROM cells")

    def _is_usable(self, path: Path, row: Row) -> bool:
        if row.fault is not None:
            self._log.refuse(f"{path.name}:{row.number}", row.fault, row.text)
        return row.fault is None

    def _types_of_cells(self, header: Sequence[str], text: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(column, type) of CSV columns, NULL (no cell at all) counted as text."""
        tests = ", ".join(
            f"bool_and(regexp_full_match({identifier(name)}, '{pattern}'))"
            for name in header
            for pattern in (_WHOLE, _NUMBER)
        )
        found = self.database.execute(f"SELECT {tests} FROM cells").fetchone()
        assert found is not None
        for name, whole, number in zip(header, found[::2], found[1::2], strict=True):
            kind = "BIGINT" if whole else "DOUBLE" if number else "VARCHAR"
            yield name, "VARCHAR" if name in text else kind


def identifier(column: str) -> str:
    """A column as SQL names it.

    Example:
        >>> identifier('a"b')
        '"a""b"'
    """
    return '"' + column.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL writes it.

    Example:
        >>> literal("it's")
        "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def parts_of(source: Path) -> list[Path]:
    """The files of a table, in order of their names.

    Raises:
        SourceError: there are none, or they are of two sorts.
    """
    known = (".parquet", *CSV_SUFFIXES)
    if source.is_file():
        if not source.name.endswith(known):
            raise SourceError(f"SRC {source} must end in {', '.join(known)}")
        return [source]
    if not source.is_dir():
        raise SourceError(
            f"SRC {source} does not exist: give a table ({', '.join(known)}), or a directory of its parts"
        )
    parts = [entry for entry in sorted(source.iterdir()) if entry.name.endswith(known)]
    if not parts:
        raise SourceError(f"SRC {source} holds no {', '.join(known)}: give a table, or a directory of its parts")
    if len({part.suffix == ".parquet" for part in parts}) > 1:
        raise SourceError(
            f"SRC {source} holds Parquet and CSV: which of them is the table cannot be told; give one file"
        )
    return parts
