"""A flat table, unsorted and as large as it likes, as an event log; must not know what its columns are called.

source -> facts, with what is wrong -> the log, sorted by time
   `---------- features -------------------'
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb

from streaming.lab.csv_rows import SourceError
from streaming.lab.importers import ImportSummary, no_usable_row
from streaming.lab.look import suggest_settings
from streaming.lab.new_log import NewLog
from streaming.lab.table_columns import TableColumns
from streaming.lab.table_mapping import TableMapping
from streaming.lab.table_source import PLACE, PLACE_BITS, TableSource, literal

_REFUSED_ROWS = 1_000  # fetched at a time


def import_table(source: Path, out: Path, mapping: TableMapping) -> ImportSummary:
    """Any table whose rows are impressions with, perhaps, a click and a conversion: what a warehouse gives.

    Order does not matter and memory does not bound it: DuckDB sorts on the disk of `out`, which needs room for the table twice.
    Of rows with one id the first counts, in order of files and rows.

    Args:
        source: a .parquet, .csv or .csv.gz file, or a directory of such parts.
        out: directory for the log; must not hold one.
        mapping: what the columns are.

    Raises:
        SourceError: a file or a column is not there, a column is of the wrong type, or no row can be used.
        FileExistsError: `out` already holds a log.
    """
    with NewLog(out) as log:
        try:
            text = (*mapping.text, *([] if mapping.impression_id is None else [mapping.impression_id]))
            with closing(TableSource(source, log, text=text)) as table:
                first_ms, last_ms = _write(table, TableColumns(mapping, table.types(), str(source)), log)
        except duckdb.Error as error:
            raise SourceError(f"{source} cannot be read as one table: {str(error).splitlines()[0]}") from error
        log.keep_dead_letters()
        log.write("settings.toml", suggest_settings(out))
        return ImportSummary.of(log, source, first_ms, last_ms)


def _write(table: TableSource, columns: TableColumns, log: NewLog) -> tuple[int, int]:
    """Writes the streams; the event times of the first and the last impression."""
    database, features = table.database, columns.features()
    part = f"({PLACE} >> {PLACE_BITS})" if len(table.parts) > 1 else None
    line = f"({PLACE} & {(1 << PLACE_BITS) - 1})"
    name = "'row-' || " + (f"{part} || '-' || {line}" if part else line)
    database.execute(f"CREATE MACRO row_id({PLACE}) AS {name}")
    database.execute(f"CREATE TABLE facts AS {columns.facts()}")
    database.execute(
        "CREATE TABLE refused AS SELECT place, fault, NULL::BIGINT AS before FROM facts WHERE fault IS NOT NULL"
    )
    database.execute(
        "INSERT INTO refused SELECT place, NULL, first FROM facts JOIN ("
        "SELECT id, min(place) AS first FROM facts WHERE fault IS NULL GROUP BY id HAVING count(*) > 1"
        ") USING (id) WHERE fault IS NULL AND place > first"
    )
    _refuse(table, log)
    span = database.execute(
        "SELECT min(impression_ms), max(impression_ms) FROM facts ANTI JOIN refused USING (place)"
    ).fetchone()
    if span is None or span[0] is None:
        raise SourceError(no_usable_row(table.path, log.first_refusals))
    # Apart from the facts, since a column may be called as one of them.
    shown = f"JOIN (SELECT {PLACE}, {features} AS features FROM source) ON {PLACE} = place"
    for stem, time, beside, joined in (
        ("impressions", "impression_ms", ", features", shown),
        ("clicks", "click_ms", "", ""),
        ("conversions", "conversion_ms", ", value" if columns.has_value else "", ""),
    ):
        query = (
            f"SELECT id AS impression_id, {time} AS event_time_ms{beside} FROM facts ANTI JOIN refused USING (place) {joined} "
            f"WHERE {time} IS NOT NULL ORDER BY {time}, place"
        )
        target = literal(str(log.final(f"{stem}.jsonl")))
        counted = database.execute(f"COPY ({query}) TO {target} (FORMAT json)").fetchone()
        assert counted is not None
        log.counts[stem] = counted[0]
    return span[0], span[1]


def _refuse(table: TableSource, log: NewLog) -> None:
    """Hands the rows that are no use to the log, whole and in order."""
    rows = table.database.execute(
        f"SELECT place, fault, before, record FROM refused JOIN (SELECT {PLACE}, {table.record()} AS record FROM source) "
        f"ON {PLACE} = place ORDER BY place"
    )
    while found := rows.fetchmany(_REFUSED_ROWS):
        for place, fault, before, record in found:
            reason = fault if before is None else f"its id stands in {table.at(before)} already"
            log.refuse(table.at(place), reason, record)
