"""Printing an answer: a table for people, JSON or YAML for programs, names for shell loops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .style import clean, coloured, is_terminal, style_of


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `wide`: only with -o wide. `state`: its words have colours. `fold`: takes several lines when narrow."""

    title: str
    right: bool = False
    wide: bool = False
    state: bool = False
    fold: bool = False


def emit(output: str, shape: Callable[[], Any], names: Callable[[], Iterable[str]], people: Callable[[bool], None]) -> None:
    """Print an answer as `output` says; only the one form is made. `people` gets whether the wide form is wanted."""
    if output == "json":
        json.dump(shape(), sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif output == "yaml":
        import yaml

        yaml.safe_dump(shape(), sys.stdout, sort_keys=False, allow_unicode=True, default_flow_style=False)
    elif output == "name":
        for name in names():
            print(name)
    else:
        people(output == "wide")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool = False, empty: str = "") -> None:
    """Print aligned columns: with rich on a terminal, plain otherwise. `empty` is said, on standard error, when there are no rows."""
    shown = [index for index, column in enumerate(columns) if wide or not column.wide]
    table = [[clean(row[index]) for index in shown] for row in rows]
    if not table and empty:
        print(empty, file=sys.stderr)
        return
    kept = [columns[index] for index in shown]
    if is_terminal():
        _print_rich(kept, table)
    else:
        _print_plain(kept, table)


def _print_plain(columns: Sequence[Column], table: Sequence[Sequence[str]]) -> None:
    lines = [[column.title for column in columns], *table]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (
            text.rjust(width) if column.right else text.ljust(width) for column, text, width in zip(columns, line, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[Column], table: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in table:
        drawn.add_row(*(Text(text, style=style_of(text) if column.state else "") for column, text in zip(columns, row, strict=True)))
    Console(highlight=False, no_color=not coloured()).print(drawn)
