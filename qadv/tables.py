"""Tables as text: one way to draw them, with rich; and the numbers in them."""

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table

from qadv.console import Console
from qadv.errors import printable


def table(columns: Sequence[str | Column], rows: Iterable[Sequence[RenderableType]], **options: Any) -> Table:
    """Returns a table for a console; `options` as of `rich.table.Table`, e.g. `title`."""
    made = Table(*columns, **options)
    for row in rows:
        made.add_row(*(_shown(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def _shown(cell: str) -> str:
    return "\n".join(map(printable, cell.split("\n")))


def right(*columns: str) -> list[Column]:
    """Returns columns of numbers: set to the right, on one line."""
    return [Column(column, justify="right", no_wrap=True) for column in columns]


def as_text(made: Table, width: int = 1000) -> str:
    """Returns a table as plain text."""
    console = Console(width=width, markup=False, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(made)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def text_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as plain text; all but the first column are set to the right."""
    shown = [Column(columns[0], no_wrap=True), *right(*columns[1:])]
    return as_text(table(shown, rows, title=title, title_justify="left", title_style=""))


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with so many significant digits; `–` for NaN and `None`."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """Returns a share in per cent, one decimal; `–` for NaN and `None`."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Returns a time as people read it: 4.2 s, 38 s, 0:02:05."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds)))
