"""What the columns of somebody's flat table are; must not know what becomes of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from streaming.settings import SettingsError, TimeUnit


class TableMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which column of a table says what. A row is an impression, perhaps its click, perhaps its conversion.

    Args:
        impression_time, click_time, conversion_time: when each happened; an empty cell is a fact that did not.
        impression_id: what names the row; None names it `row-N` by its place.
        time_unit: of times that are numbers (s, ms, us) or text (iso8601). None is iso8601 for text; timestamps need none.
        clicked, converted: labels, 0 or 1. With a time they must agree with it; a click without one is stamped at its impression.
        value: what the conversion was worth.
        features: columns that are features; None is all that are named nowhere else.
        text: those of them whose values are names although they look like numbers ("007").

    Raises:
        SettingsError: columns that make no sense without another, or a column that has two roles.

    Example:
        >>> mapping = TableMapping(impression_time="shown_at", clicked="is_click")
        >>> mapping.named()
        ['shown_at', 'is_click']
        >>> TableMapping(impression_time="shown_at")
        Traceback (most recent call last):
        ...
        streaming.settings.SettingsError: click_time or clicked must be named: without clicks there is nothing to learn
    """

    impression_time: str
    impression_id: str | None = None
    click_time: str | None = None
    conversion_time: str | None = None
    time_unit: TimeUnit | None = None
    clicked: str | None = None
    converted: str | None = None
    value: str | None = None
    features: tuple[str, ...] | None = None
    text: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.click_time is None and self.clicked is None:
            raise SettingsError("click_time or clicked must be named: without clicks there is nothing to learn")
        if self.conversion_time is None and (self.converted is not None or self.value is not None):
            name = "converted" if self.converted is not None else "value"
            raise SettingsError(f"{name} needs conversion_time: when a conversion came decides what it teaches")
        facts = set(self.named())
        for name, columns in (("features", self.features or ()), ("text", self.text)):
            # Otherwise the answer is among the questions.
            if twice := [column for column in columns if column in facts]:
                raise SettingsError(f"{name} must not hold {twice[0]!r}, which the mapping names as something else")

    def named(self) -> list[str]:
        """The columns with a role of their own, each once."""
        roles = (
            self.impression_id, self.impression_time, self.click_time, self.conversion_time,
            self.clicked, self.converted, self.value,
        )  # fmt: skip
        return list(dict.fromkeys(column for column in roles if column is not None))


def load_mapping(path: Path) -> TableMapping:
    """The mapping in a TOML file.

    Raises:
        SettingsError: no such file, no TOML, an unknown key, a wrong type or a broken rule.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(tables, TableMapping)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--mapping {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--mapping {path} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        keys = ", ".join(TableMapping.__struct_fields__)
        raise SettingsError(f"--mapping {path}: {error.__cause__ or error} (keys: {keys})") from error
