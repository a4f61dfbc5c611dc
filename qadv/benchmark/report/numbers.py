"""Numbers as texts: means over seeds, percentages, strengths, and what stands where there is none."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qadv.benchmark.report.content import Value
from qadv.benchmark.report.results import CellResult

ABSENT = Value("–", tone="muted")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns mean ± standard deviation (that of the sample, n - 1), or the value where there is one; `–` of NaN."""
    if np.isnan(values).any():
        return ABSENT.text
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def mean_value(values: Sequence[float | None], digits: int = 3) -> str:
    """Returns the mean of the values that there are, in so many significant digits."""
    there = [value for value in values if value is not None and np.isfinite(value)]
    return f"{np.mean(there):.{digits}g}" if there else "–"


def over_seeds(
    cells: Sequence[CellResult], figure: Callable[[CellResult], float], published: str = "", digits: int = 1
) -> Value:
    """Returns the mean of a figure over seeds, and over how many of them where some are missing."""
    there = [figure(cell) for cell in cells if cell.there]
    if not cells:
        return Value(ABSENT.text, published, "muted")
    if not there:
        return Value(cells[0].state, published, "bad")
    text = spread(there, digits)
    if len(there) < len(cells):
        text += f" ({len(there)} of {len(cells)} seeds)"
    return Value(text, published)


def accuracy(cell: CellResult) -> float:
    """Returns a cell's accuracy in %."""
    return 100 * float(cell.record["accuracy"])


def percent(share: float) -> str:
    """Returns a part as a percentage."""
    return f"{100 * share:.1f}"


def plain_options(options: Any) -> str:
    """Returns options as a short text."""
    return ", ".join(f"{key} = {_plain(value)}" for key, value in options.items()) or "–"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_plain(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, float):
        return plain_eps(value)
    return str(value)


def plain_eps(eps: float) -> str:
    """Returns a strength as people write it: 0.1, 8/255."""
    parts = round(eps * 255)
    if round(eps, 4) != eps and abs(eps * 255 - parts) < 1e-4 and parts > 0:
        return f"{parts}/255"
    return f"{eps:.6g}"
