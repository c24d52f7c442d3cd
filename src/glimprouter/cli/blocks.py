"""A document's pieces on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glimprouter.evaluate.document import Block, Grid, Heading, Paragraph, Points

PLAIN_WIDTH = 150
"""Columns of a table that goes into a file or a pipe."""


def console_for(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def show(blocks: Iterable[Block], console: Console) -> None:
    """Everything but pictures."""
    for block in blocks:
        match block:
            case Grid():
                console.print(_table(block))
            case Points(items):
                for item in items:
                    console.print(Text(f"· {item}", style="dim"))
            case Heading(text):
                console.print(Text(f"\n{text}", style="bold underline"))
            case Paragraph(text):
                console.print(Text(text + "\n"))


def _table(grid: Grid) -> Table:
    table = Table(
        title=f"\n{grid.title}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for place, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    return table
