"""Columns of a table as the SQL that makes facts, features and faults of them; must not know where the rows stand or go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streaming.events import MICROSECONDS_ABOVE_MS, SECONDS_BELOW_MS
from streaming.lab.csv_rows import SourceError
from streaming.lab.table_mapping import TableMapping
from streaming.lab.table_source import PLACE, identifier, literal
from streaming.settings import Settings

# DuckDB's types by what a log makes of them.
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
_REAL = ("FLOAT", "DOUBLE", "DECIMAL")
_TIMES = ("TIMESTAMP", "DATE")  # with what follows: a zone, a precision
_NAMES = ("UBIGINT", "HUGEINT", "UHUGEINT", "UUID", "ENUM", "TIME", *_TIMES)  # no JSON number holds the first three
_AS_THEY_ARE = ("VARCHAR", "BOOLEAN", *_WHOLE)

_TO_MS = {"s": "* 1000", "ms": "* 1", "us": "/ 1000"}
_SKEW_MS = Settings().event_time.clock_skew_ms  # the join forgives as much, unless it is told otherwise


class TableColumns:
    """What a mapping makes of the columns that a table has.

    Args:
        mapping: what they are.
        types: DuckDB's type of each.
        source: how errors call the table.

    Raises:
        SourceError: a column is not there, or of a type that cannot be what the mapping says.
    """

    def __init__(self, mapping: TableMapping, types: Mapping[str, str], source: str) -> None:
        self._mapping, self._types, self._source = mapping, types, source
        self.has_value = mapping.value is not None
        for column in (*mapping.named(), *(mapping.features or ()), *mapping.text):
            if column not in types:
                raise SourceError(f"{source} has no column {column!r} (it has {', '.join(types)}): mend the mapping")

    def facts(self) -> str:
        """A query on `source` for each row's `place`, `id`, `impression_ms`, `click_ms`, `conversion_ms`, `value` and `fault`.

        NULL is a fact that did not happen, and a row without fault.
        """
        mapping = self._mapping
        impression_ms, conversion_ms = self._time_ms(mapping.impression_time), self._time_ms(mapping.conversion_time)
        click_ms = self._time_ms(mapping.click_time)
        if mapping.click_time is None and mapping.clicked is not None:
            click_ms = f"CASE WHEN {_label(mapping.clicked)} THEN {impression_ms} END"
        value = "NULL::DOUBLE" if mapping.value is None else f"TRY_CAST({identifier(mapping.value)} AS DOUBLE)"
        faults = " ".join(f"WHEN {condition} THEN {reason}" for condition, reason in self._faults())
        return (
            f"SELECT {PLACE} AS place, __id AS id, __impression_ms AS impression_ms, __click_ms AS click_ms, "
            f"__conversion_ms AS conversion_ms, __value AS value, CASE {faults} END AS fault FROM ("
            f"SELECT *, {self._id()} AS __id, {impression_ms} AS __impression_ms, {click_ms} AS __click_ms, "
            f"{conversion_ms} AS __conversion_ms, {value} AS __value FROM source)"
        )

    def features(self) -> str:
        """SQL for the object of the features of a row of `source`.

        Raises:
            SourceError: there are none, a column cannot be one, or two would have one name.
        """
        mapping = self._mapping
        taken = {*mapping.named(), *mapping.text} if mapping.features is None else set()
        columns = [name for name in mapping.features or self._types if name not in taken]
        columns += [name for name in mapping.text if name not in columns]
        # A dot in the settings' path of a feature goes down into an object, and a table is flat.
        names = [column.replace(".", "_") for column in columns]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SourceError(
                f"{self._source} has two columns for the feature {twice[0]!r}: name the `features` without one"
            )
        if not columns:
            raise SourceError(f"{self._source} has no column left for a feature: there is nothing to learn from")
        members = [
            f"{identifier(name)} := {self._feature(column)}" for name, column in zip(names, columns, strict=True)
        ]
        return f"struct_pack({', '.join(members)})"

    def _id(self) -> str:
        column = self._mapping.impression_id
        if column is None:
            return f"row_id({PLACE})"
        kind = self._types[column]
        if kind not in (*_WHOLE, "VARCHAR", "UUID", "UBIGINT", "HUGEINT", "UHUGEINT"):
            raise SourceError(
                f"{self._source} has {column!r} of type {kind}, which is no id: text or whole numbers are"
            )
        return f"{identifier(column)}::VARCHAR"

    def _feature(self, column: str) -> str:
        kind, cell = self._types[column], identifier(column)
        if column in self._mapping.text or kind.startswith(_NAMES):
            return f"{cell}::VARCHAR"
        if kind in _AS_THEY_ARE or kind.removesuffix("[]") in _AS_THEY_ARE:
            return cell
        if kind.startswith(_REAL) and not kind.endswith("]"):
            return f"CASE WHEN isfinite({cell}::DOUBLE) THEN {cell}::DOUBLE END"  # JSON has no word for the others
        raise SourceError(
            f"{self._source} has {column!r} of type {kind}, which no feature can be: name the `features` without it"
        )

    def _time_ms(self, column: str | None) -> str:
        """SQL for a time in UTC epoch milliseconds, rounded down; NULL where there is none or it cannot be read."""
        if column is None:
            return "NULL::BIGINT"
        kind, cell, unit = self._types[column], identifier(column), self._mapping.time_unit
        if kind.startswith(_TIMES):
            return f"CASE WHEN isfinite({cell}) THEN epoch_us({cell}::TIMESTAMPTZ) // 1000 END"
        is_number = kind in _WHOLE or kind.startswith((*_REAL, "UBIGINT"))
        if kind != "VARCHAR" and not is_number:
            raise SourceError(f"{self._source} has {column!r} of type {kind}, which is no time: mend the mapping")
        if is_number and unit not in _TO_MS:
            raise SourceError(
                f'{column!r} holds numbers: set time_unit = "s", "ms" or "us" in the mapping (got {unit})'
            )
        if unit not in _TO_MS:
            return f"epoch_us(TRY_CAST({cell} AS TIMESTAMPTZ)) // 1000"
        # In decimal: as binary fractions, seconds with three digits would lose a millisecond now and then.
        number = f"TRY_CAST({cell}::VARCHAR AS DECIMAL(28, 9))"
        return f"TRY_CAST(floor({number} {_TO_MS[unit]}) AS BIGINT)"

    def _faults(self) -> Iterator[tuple[str, str]]:
        """What can be wrong with a row, as (condition, reason), the first that holds counts."""
        mapping = self._mapping
        for column in (mapping.impression_id, mapping.impression_time):
            if column is not None:
                yield f"{identifier(column)} IS NULL", literal(f"{column} must not be empty")
        for column, ms in (
            (mapping.impression_time, "__impression_ms"),
            (mapping.click_time, "__click_ms"),
            (mapping.conversion_time, "__conversion_ms"),
        ):
            if column is not None:
                yield f"{identifier(column)} IS NOT NULL AND {ms} IS NULL", self._got(column, self._rule_of_times())
                for condition, looks, unit in (
                    (f"{ms} < {SECONDS_BELOW_MS}", "seconds", "s"),
                    (f"{ms} > {MICROSECONDS_ABOVE_MS}", "microseconds", "us"),
                ):
                    yield condition, self._got(column, f'looks like {looks}: set time_unit = "{unit}" if it is')
        for column, ms, time in (
            (mapping.clicked, "__click_ms", mapping.click_time),
            (mapping.converted, "__conversion_ms", mapping.conversion_time),
        ):
            if column is not None:
                yield f"{_label(column)} IS NULL", self._got(column, "must be 0 or 1")
                rule = literal(f"{column} must be 1 with a {time} and 0 without")
                yield f"{_label(column)} != ({ms} IS NOT NULL)", rule
        if mapping.value is not None:
            unusable = f"{identifier(mapping.value)} IS NOT NULL AND NOT coalesce(isfinite(__value), false)"
            yield unusable, self._got(mapping.value, "must be a finite number")
        yield f"__click_ms < __impression_ms - {_SKEW_MS}", literal("the click came before its impression")
        yield f"__conversion_ms < __click_ms - {_SKEW_MS}", literal("the conversion came before its click")

    def _rule_of_times(self) -> str:
        unit = self._mapping.time_unit
        if unit in _TO_MS:
            return f"must be a number of {unit}"
        return "must be a time such as 2017-11-07 09:30:38 (numbers need time_unit in the mapping)"

    @staticmethod
    def _got(column: str, rule: str) -> str:
        return f"{literal(f'{column} {rule} (got ')} || coalesce(left({identifier(column)}::VARCHAR, 40), 'nothing') || ')'"


def _label(column: str) -> str:
    text = f"lower({identifier(column)}::VARCHAR)"
    return f"CASE WHEN {text} IN ('1', 'true', '1.0') THEN true WHEN {text} IN ('0', 'false', '0.0') THEN false END"
