"""Checks of arguments; each message names the argument, what was expected and what came."""

import math
from typing import Any

import numpy as np

from qadv.errors import InvalidInputError


def check_number(name: str, value: Any, below: float = math.inf, zero: bool = False) -> None:
    """Refuses what is no finite number above 0 (`zero=True`: or 0) and below `below`."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if number and (0 < value < below or (zero and value == 0)):
        return
    lower = "of at least 0" if zero else "above 0"
    upper = f" and below {below:g}" if below < math.inf else ""
    raise InvalidInputError(f"{name}: expected a finite number {lower}{upper}, got {value!r}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is no whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither `True` nor `False`."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidInputError(f"{name}: expected True or False, got {value!r}")
