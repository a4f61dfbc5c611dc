"""How diagnostics print and what they give to JSON."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


def text_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as text; all but the first column are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=1000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def number(value: float, digits: int = 3) -> str:
    """Returns a number with so many significant digits; `–` for NaN."""
    return "–" if np.isnan(value) else f"{value:.{digits}g}"


def percent(value: float) -> str:
    """Returns a share in per cent, one decimal; `–` for NaN."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}%"


def plain_list(array: NDArray[Any]) -> list[Any]:
    """Returns nested lists for JSON, which knows no NaN: `None` in its place."""
    entries = array.astype(object)
    entries[np.isnan(array)] = None
    nested: list[Any] = entries.tolist()
    return nested


def array_of(nested: Any) -> NDArray[np.float64]:
    """Returns the array that `plain_list` was given: `None` becomes NaN."""
    return np.array(nested, dtype=np.float64)
