"""Tables on a screen of any width. A name is never cut or broken, so that it can be copied whole."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from sarsteer.cli.output import console

GAP = 2
"""Spaces between columns."""


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names on the left, and beside them texts that wrap between words only."""
    left = max(len(name) for name, _ in facts) + GAP
    for name, text in facts:
        lines = textwrap.wrap(text, max(console.width - left, 20), break_long_words=False, break_on_hyphens=False) or [
            ""
        ]
        for number, line in enumerate(lines):
            label = Text((name if number == 0 else "").ljust(left), style="dim")
            console.print(label + Text(line), soft_wrap=True)


def print_named(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """A row of right-aligned cells for each name.

    If the longest name does not fit beside the cells, each name is on a line of its own, above its cells.

    Args:
        title: the header of the names.
        columns: the headers; they may have several lines.
        rows: a name and its cells. Names and cells have markup; cells may have several lines.

    """
    widths = [
        max(_width(text) for text in (header, *cells))
        for header, *cells in zip(columns, *(c for _, c in rows), strict=True)
    ]
    numbers = sum(widths) + GAP * len(widths)
    longest = max(_width(text) for text in (title, *(name for name, _ in rows)))
    beside = longest + numbers <= console.width
    left = longest if beside else _width(title)
    header = _grid(left, widths, vertical="bottom")
    header.add_row(*(f"[bold]{text}[/]" for text in (title, *columns)))
    print_table(header, left + numbers)
    for name, cells in rows:
        if not beside:
            console.print(name, highlight=False, soft_wrap=True)
        grid = _grid(left, widths)
        grid.add_row(name if beside else "", *cells)
        print_table(grid, left + numbers)


def _grid(left: int, widths: Sequence[int], vertical: Literal["top", "bottom"] = "top") -> Table:
    table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    table.add_column(width=left, no_wrap=True, vertical=vertical)
    for width in widths:
        table.add_column(width=width, no_wrap=True, justify="right", vertical=vertical)
    return table


def print_table(table: Table, width: int) -> None:
    """Print ``table`` in at least ``width`` columns.

    On a screen that is too narrow even for the numbers, lines are longer than the screen, instead of cut.
    """
    before, console.width = console.width, max(console.width, width)
    console.print(table, highlight=False)
    console.width = before


def _width(text: str) -> int:
    return max(cell_len(Text.from_markup(line).plain) for line in text.split("\n"))
