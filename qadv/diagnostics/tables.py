"""Numbers as diagnostics print them."""

import numpy as np


def number(value: float, digits: int = 3) -> str:
    """Returns a number with so many significant digits; `–` for NaN."""
    return "–" if np.isnan(value) else f"{value:.{digits}g}"


def percent(value: float) -> str:
    """Returns a share in per cent, one decimal; `–` for NaN."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}%"
