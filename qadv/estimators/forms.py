"""The forms that images, labels and ranges of pixels come in, brought to one."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.errors import InvalidInputError
from qadv.sources import is_source, read


def images_as_array(x: Any, expected: str, name: str) -> NDArray[Any]:
    """Returns arrays as they are, lists of floats, or what a loader or dataset gives, as one; refuses all else."""
    if is_source(x):
        return read(x, name)[0]
    if isinstance(x, list | tuple):
        with suppress(TypeError, ValueError):  # not all of one shape
            x = np.asarray(x)
    if isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray):
        return x
    hint = ""
    if isinstance(x, np.ma.MaskedArray):
        hint = f"; fill what is masked: {name}.filled(0)"
    elif type(x).__module__.partition(".")[0] == "torch":
        hint = f"; write {name}.numpy(force=True)"
    raise InvalidInputError(f"{name}: {expected} as a numpy array, got {type(x).__name__}{hint}")


def as_torch_takes_it(x: NDArray[Any]) -> NDArray[Any]:
    """Returns floats as float64 or float32 of this machine's byte order, in an array without negative strides."""
    if x.dtype not in (np.float32, np.float64):
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            x = x.astype(np.float64 if x.dtype == np.dtype(np.float64).newbyteorder() else np.float32)
    return np.ascontiguousarray(x) if min(x.strides) < 0 else x


def labels_as_array(y: Any, name: str = "y") -> NDArray[Any]:
    """Returns labels as an array of numbers, of whatever shape and type; refuses lists of different lengths."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise InvalidInputError(f"{name}: expected labels, or rows of one length, got lists of several") from error
    if labels.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{name}: expected labels, or one-hot rows, got dtype {labels.dtype} with values that are no whole numbers"
        )
    return labels


def outermost(clip_values: Any) -> tuple[float, float] | None:
    """Returns the smallest and largest of all values of `clip_values`, which may be arrays."""
    return None if clip_values is None else (float(np.min(clip_values[0])), float(np.max(clip_values[1])))
