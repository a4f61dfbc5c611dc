"""The radius of an attack, a number or a fraction such as 8/255, within the pixels' range."""

import math
import re
from contextlib import suppress
from typing import Any

from qadv.checks import plain_number
from qadv.errors import InvalidInputError
from qadv.units import in_pixels, limits

_FRACTION = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*/\s*\d+(\.\d+)?\s*")
_OF_BYTES = re.compile(r"/\s*25[56]\s*$")
_ROUNDING = 1e-6


def is_fraction(value: Any) -> bool:
    """Whether a value is a text such as `"8/255"`."""
    return isinstance(value, str) and bool(_FRACTION.fullmatch(value))


def number(name: str, value: Any) -> float:
    """Returns a finite number that was given as one, or as text: `0.03`, `"0.03"`, `"8/255"`."""
    found = _parsed(value)
    if found is None:
        raise InvalidInputError(f"{name}: expected a finite number, or a fraction such as 8/255, got {value!r}")
    return found


def _parsed(value: Any) -> float | None:
    with suppress(ValueError, ZeroDivisionError, OverflowError):  # of an int that no float can be
        if isinstance(value, str):
            above, _, below = value.partition("/") if is_fraction(value) else (value, "", "1")
            value = float(above) / float(below)
        found = plain_number(value)
        return None if found is None else float(found)
    return None


def check_eps(
    name: str,
    eps: Any,
    clip_values: Any = None,
    norm: float = math.inf,
    nb_values: int = 1,
    zero: bool = False,
) -> float:
    """Returns an attack's radius as a number above 0, or with `zero` 0, of at most the largest distance that there is.

    `eps` is in the units of `clip_values`, a number, a text, or a `Share` of their range; without these there is no
    limit. How far apart two images of `nb_values` can be depends on the `norm`, at least 1.
    """
    radius = _parsed(in_pixels(name, eps, clip_values))
    if radius is None or radius < 0 or (radius == 0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise InvalidInputError(f"{name}: expected a finite number {least}, or a fraction such as 8/255, got {eps!r}")
    if clip_values is None:
        return radius
    low, high = limits(clip_values)
    largest = (high - low) * nb_values ** (1 / norm)
    if isinstance(eps, str) and _OF_BYTES.search(eps) and high - low > 200 and 0 < radius < 1:
        raise InvalidInputError(
            f"{name}: {eps.strip()} of pixels from {low:g} to {high:g} is {radius:.2g}, no level of a picture; for "
            f"that share of their range say {radius * (high - low):.4g}, else {radius:.4g}"
        )
    if radius <= largest * (1 + _ROUNDING):
        return radius
    if norm < math.inf:
        raise InvalidInputError(
            f"{name}: expected at most {largest:.4g}, the largest L{norm:g} distance of two images of pixels from "
            f"{low:g} to {high:g}, got {eps!r}"
        )
    of_range = "" if (low, high) == (0, 1) else f" of it, {radius / 255 * (high - low):.4g}"
    hint = f"; did you mean {radius:g}/255{of_range}?" if radius <= 255 else ""
    raise InvalidInputError(
        f"{name}: expected at most {largest:g}, the range of the pixels ({low:g} to {high:g}), got {eps!r}{hint}"
    )
