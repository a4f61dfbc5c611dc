"""What is asked of images and labels at the boundary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.errors import InvalidInputError
from qadv.units import width


def check_images(
    x: Any, input_shape: Sequence[int], clip_values: tuple[float, float] | None, name: str = "x", strict: bool = True
) -> NDArray[Any]:
    """Returns `x` if it is a batch of images that a classifier can take.

    Args:
        x: expected: floating array, (N, *input_shape), N >= 1, finite, within `clip_values`.
        input_shape: shape of one image.
        clip_values: smallest and largest value, or `None` for no limit.
        name: the argument's name, for the message.
        strict: `False` lets values leave the range by up to ten times its width, as the queries of some attacks do
            (ZOO's coordinate steps); data on another scale (0 to 255) are refused all the same.

    Raises:
        InvalidInputError: says what was expected, what came, and what to do.
    """
    expected = f"expected float images of shape (N, {', '.join(map(str, input_shape))})"
    if not isinstance(x, np.ndarray):
        raise InvalidInputError(f"{name}: {expected} as a numpy array, got {type(x).__name__}")
    if x.ndim == len(input_shape) and x.shape == tuple(input_shape):
        raise InvalidInputError(f"{name}: {expected}, got one image of shape {x.shape}; use {name}[None]")
    if x.shape[1:] != tuple(input_shape):
        hint = ""
        if x.ndim == 4 and len(input_shape) == 3 and x.transpose(0, 3, 1, 2).shape[1:] == tuple(input_shape):
            hint = f"; channels come first here: {name}.transpose(0, 3, 1, 2)"
        raise InvalidInputError(f"{name}: {expected}, got shape {x.shape}{hint}")
    if x.shape[0] == 0:
        raise InvalidInputError(f"{name}: {expected} with N >= 1, got an empty array")
    if not np.issubdtype(x.dtype, np.floating):
        hint = f": ({name} / 255).astype('float32')" if np.issubdtype(x.dtype, np.integer) else ""
        raise InvalidInputError(f"{name}: {expected}, got dtype {x.dtype}; convert to float32{hint}")
    # one pass decides in the usual case: a NaN makes both comparisons false
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(x)).any(axis=tuple(range(1, x.ndim))).sum())
        raise InvalidInputError(f"{name}: {bad} of {len(x)} images have NaN or infinite values; remove them")
    if clip_values is not None:
        # a millionth, of the largest number too, since that is how float32 rounds
        slack = 1e-6 * max(width(clip_values), *map(abs, clip_values)) if strict else 10 * width(clip_values)
        if low < clip_values[0] - slack or high > clip_values[1] + slack:
            hint = f"; divide by 255: {name} / 255" if high > 2 and clip_values[1] <= 1 else ""
            raise InvalidInputError(
                f"{name}: expected values from {clip_values[0]:g} to {clip_values[1]:g} (clip_values), got "
                f"{low:g} to {high:g}{hint}"
            )
    return x


def check_labels(y: Any, nb_samples: int, nb_classes: int, name: str = "y") -> NDArray[np.int64]:
    """Returns labels as class indices, shape (N,).

    Args:
        y: class indices, shape (N,) or (N, 1), or one-hot rows, shape (N, nb_classes).
        nb_samples: N, the number of images.
        nb_classes: number of classes.
        name: the argument's name, for the message.

    Raises:
        InvalidInputError: wrong length or shape, not whole numbers, or outside 0 … nb_classes - 1.
    """
    y = np.asarray(y)
    expected = f"expected {nb_samples} labels from 0 to {nb_classes - 1}, or one-hot rows of {nb_classes}"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] != nb_classes):
        raise InvalidInputError(f"{name}: {expected}, got shape {y.shape}")
    if len(y) != nb_samples:
        raise InvalidInputError(f"{name}: {expected} (one for each image), got {len(y)}")
    if y.ndim == 2:
        if not (((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
            raise InvalidInputError(f"{name}: {expected}, got rows that are not one-hot")
        return np.asarray(y.argmax(axis=1), dtype=np.int64)
    if y.dtype == bool or not np.issubdtype(y.dtype, np.number) or not np.equal(np.mod(y, 1), 0).all():
        raise InvalidInputError(f"{name}: {expected}, got dtype {y.dtype} with values that are no whole numbers")
    if y.min() < 0 or y.max() >= nb_classes:
        raise InvalidInputError(f"{name}: {expected}, got labels from {y.min():g} to {y.max():g}")
    return np.asarray(y, dtype=np.int64)
