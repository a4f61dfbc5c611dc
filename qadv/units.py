"""Lengths in pixels: numbers are in the units of the images, defaults are shares of their range.

A length that a user gives as a number (`eps`, `eps_step`, `delta`, …) is in the units of `clip_values`, as in ART. A
default is a `Share` of the range, so that it means the same whatever the units: 8/255 of pixels in [0, 1] is 8 of those
in [0, 255]. Constants inside an algorithm are shares too; `width` is what they are multiplied by.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_fields, check_number
from qadv.errors import InvalidInputError


@dataclass(frozen=True)
class Share:
    """A length as a share of the pixels' range; wherever a length is asked for, it may be given so.

    Args:
        of_range: 8 / 255 is 8/255 with `clip_values=(0, 1)`, and 8 with (0, 255). At least 0; norms may exceed 1.
    """

    of_range: float

    def __post_init__(self) -> None:
        check_fields(self, check_number, "of_range", zero=True)


Length = float | Share
NORMS = {1.0: "L1", 2.0: "L2", math.inf: "L∞"}
ClipValues = tuple[Any, Any]  # numbers, or arrays of an image's shape


def check_clip_values(clip_values: Any, input_shape: tuple[int, ...] | None = None) -> ClipValues | None:
    """Returns (min, max), or `None` for no limit.

    Two arrays, one value for each channel or pixel, become numbers where all values are the same; different values need
    the `input_shape` of one image.
    """
    if clip_values is None:
        return None
    try:
        low, high = (np.asarray(value, dtype=np.float64) for value in clip_values)
    except (TypeError, ValueError):
        low, high = np.ones(1), np.zeros(1)
    arrays = "" if input_shape is None else f", or two arrays that broadcast to an image, {input_shape},"
    expected = f"clip_values: expected two numbers (min, max){arrays} with min < max"
    try:
        if not (low.size and high.size and (low < high).all()):
            raise InvalidInputError(f"{expected}, got {clip_values!r}")
        if (low == low.flat[0]).all() and (high == high.flat[0]).all():
            return float(low.flat[0]), float(high.flat[0])
        if input_shape is None:
            raise InvalidInputError(f"{expected}, got arrays of different values")
        low, high = (np.broadcast_to(_by_channel(end, input_shape), input_shape) for end in (low, high))
    except InvalidInputError:  # which is a ValueError
        raise
    except ValueError as error:
        raise InvalidInputError(f"{expected}, got arrays of shapes {low.shape} and {high.shape}") from error
    return low.astype(np.float32), high.astype(np.float32)


def _by_channel(values: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    """Returns one value for each channel as numpy broadcasts it, unless it might be one for each column."""
    if values.shape == input_shape[:1] != input_shape[-1:]:
        return values.reshape(-1, *[1] * (len(input_shape) - 1))
    if values.ndim == 1 and len(input_shape) > 1 and values.size > 1:
        raise ValueError
    return values


def limits(clip_values: Any) -> tuple[float, float]:
    """Returns the smallest and largest pixel value of ART's `clip_values`; infinite ones for `None`.

    Arrays, one value for each channel or pixel, which only a classifier takes, are refused.
    """
    if clip_values is None:
        return -math.inf, math.inf
    if any(np.ndim(end) for end in clip_values):
        raise InvalidInputError(
            "clip_values: expected one range for all pixels, got arrays, which ART's own attacks take, as PGD does. Or "
            "bring all pixels to one range, and let the classifier's preprocessing=(mean, std) undo it"
        )
    low, high = clip_values
    return float(low), float(high)


def width(clip_values: Any) -> float:
    """Returns the width of the pixels' range; 1 where there is none."""
    low, high = limits(clip_values)
    return high - low if high < math.inf else 1.0


def in_pixels(name: str, length: Length, clip_values: Any) -> float:
    """Returns a length in the units of the images; what is no `Share` as it is. A share needs `clip_values`."""
    if not isinstance(length, Share):
        return length
    if clip_values is None:
        raise InvalidInputError(
            f"{name}: a share of the pixels' range ({length.of_range:.4g}), and the classifier has none; give a number "
            "in the units of the images, or give the classifier clip_values"
        )
    return length.of_range * width(clip_values)


def to_range(x: Any, clip_values: Any) -> Any:
    """Returns a data set's images, pixels in [0, 1], in the range of `clip_values`; `None` is [0, 1]."""
    low, high = (0.0, 1.0) if clip_values is None else limits(clip_values)
    return x if (low, high) == (0.0, 1.0) else (low + (high - low) * x).astype(x.dtype)
