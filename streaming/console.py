"""How the command line shows things: tables, one JSON line, progress bars. Must not know what is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

OUT = Console(highlight=False, soft_wrap=True, emoji=False)
ERR = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A title and below it labels with their values."""
    OUT.print(title, style="bold underline", markup=False)
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        OUT.print(f"  {label:<{width}}  {value}", markup=False)


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A title and below it a table, numbers to the right."""
    OUT.print(title, style="bold underline", markup=False)
    table = Table(box=None, pad_edge=True)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    print_whole(table)


def print_whole(table: Table) -> None:
    """A table as wide as its figures need: a terminal that is narrower breaks lines, but no figure is cut short."""
    needed = OUT.measure(table, options=OUT.options.update(width=sys.maxsize)).maximum
    Console(highlight=False, soft_wrap=True, emoji=False, width=max(OUT.width, needed)).print(table)


def warn(text: str) -> None:
    """Something that a person should look at, on stderr."""
    ERR.print(f"afterclick: warning: {text}", style="yellow", markup=False)


def print_settings(text: str) -> None:
    """Settings on stdout, which may go into a file; on stderr that there are warnings among their comments."""
    OUT.file.write(text)
    if (count := text.count("# WARNING: ")) > 0:
        warn(f"comments of these settings begin with WARNING ({count}): read them before you use these")


def note(lines: Sequence[str]) -> None:
    """What is good to know, on stderr."""
    for line in lines:
        ERR.print(line, style="dim", markup=False)


def print_json(value: Any) -> None:
    """One line that a machine can read."""
    OUT.file.write(msgspec.json.encode(value).decode() + "\n")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, gone when done; called with how much is done. Without a total it counts."""
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
    if total is None:
        columns.append(TextColumn("{task.completed:,.0f}"))
    else:
        columns += [BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    with Progress(*columns, TimeElapsedColumn(), console=ERR, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
