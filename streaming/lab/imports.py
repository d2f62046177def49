"""The importers by name; must not know what any of them does."""

from __future__ import annotations

from pathlib import Path

from streaming.lab.criteo_import import import_criteo_delayed
from streaming.lab.importers import ImportSummary, import_open_bandit, import_talkingdata
from streaming.lab.table_import import import_table
from streaming.lab.table_mapping import load_mapping
from streaming.settings import SettingsError

DATA_SETS = {
    "criteo-delayed": import_criteo_delayed,
    "talkingdata": import_talkingdata,
    "open-bandit": import_open_bandit,
}
TABLE = "table"


def import_named(name: str, source: Path, out: Path, mapping: Path | None = None) -> ImportSummary:
    """A data set, or any other table, as a log.

    Args:
        name: which. source: its file or directory. out: directory for the log.
        mapping: what the columns of a table are (TOML); of a table alone.

    Raises:
        SettingsError: no such name, or a mapping that is missing, out of place or wrong.
        SourceError: the source cannot be used.
        FileExistsError: `out` already holds a log.
    """
    if name not in (*DATA_SETS, TABLE):
        raise SettingsError(f"NAME must be one of {', '.join(DATA_SETS)}, {TABLE} (got {name!r})")
    if name != TABLE and mapping is not None:
        raise SettingsError(f"--mapping is for {TABLE} (got {name!r}, whose columns are known): leave it out")
    if name != TABLE:
        return DATA_SETS[name](source, out)
    if mapping is None:
        raise SettingsError(f"{TABLE} needs --mapping FILE: it says what the columns are (docs/formats.md)")
    return import_table(source, out, load_mapping(mapping))
