"""Checks of arguments, with one rule for all of them: numpy's numbers are numbers, True and text are none.

Each returns the value as Python's own, so that what is stored, compared and written to JSON is the same whichever came;
everything else is an `InvalidInputError`, whose message names the argument, what was expected and what came.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from qadv.errors import InvalidInputError, closest


def is_whole(value: Any) -> bool:
    """Whether a value is an `int` or one of numpy's; 3.0 and `True` are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def plain_number(value: Any) -> float | None:
    """Returns a finite number as an `int` or `float`, `None` for everything else: flags, text, NaN, infinity."""
    if is_whole(value):
        return int(value)
    if isinstance(value, float | np.floating) and math.isfinite(value):
        return float(value)
    return None


def check_number(
    name: str, value: Any, below: float = math.inf, zero: bool = False, most: float = math.inf, least: float = 0
) -> float:
    """Returns a finite number above `least`, or with `zero` of at least that, below `below` and of at most `most`."""
    number = plain_number(value)
    if number is not None and least <= number <= most and number < below and (zero or number > least):
        return number
    ends = [f"{'of at least' if zero else 'above'} {least:g}"] if least > -math.inf else []
    ends += [f"below {below:g}"] if below < math.inf else [f"at most {most:g}"] if most < math.inf else []
    raise InvalidInputError(f"{name}: expected a finite number {' and '.join(ends)}".rstrip() + f", got {value!r}")


def check_whole(name: str, value: Any, least: float = 1, most: int | None = None) -> int:
    """Returns a whole number of at least `least`, and at most `most`."""
    if is_whole(value) and least <= value and (most is None or value <= most):
        return int(value)
    expected = f" from {least} to {most}" if most is not None else f" of at least {least}" if least > -math.inf else ""
    raise InvalidInputError(f"{name}: expected a whole number{expected}, got {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """Returns `True` or `False`; 0 and 1 are none."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidInputError(f"{name}: expected True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Returns a value that is one of `choices`, texts or numbers; `True` is not 1."""
    known = list(choices)
    if isinstance(value, str | int | float | np.number) and not isinstance(value, bool) and value in known:
        return value
    hint = closest(value, filter(lambda each: isinstance(each, str), known)) if isinstance(value, str) else ""
    shown = ", ".join(dict.fromkeys(map(str, known)))
    raise InvalidInputError(f"{name}: expected one of {shown}, got {value!r}{hint}")


def check_fields(settings: Any, check: Any, *names: str, prefix: str = "", **bounds: Any) -> None:
    """Sets attributes of an object, also a frozen one, to what `check` returns; in messages after a prefix."""
    for name in names:
        object.__setattr__(settings, name, check(prefix + name, getattr(settings, name), **bounds))
