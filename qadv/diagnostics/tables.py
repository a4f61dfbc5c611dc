"""Numbers as diagnostics print them and as they give them to JSON."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
