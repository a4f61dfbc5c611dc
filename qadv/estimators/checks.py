"""What is asked of images and labels at the boundary."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qadv.errors import InvalidInputError, PixelRangeWarning
from qadv.estimators.forms import as_torch_takes_it, images_as_array, labels_as_array, outermost
from qadv.estimators.protocol import Classifier
from qadv.modes import nb_labels
from qadv.sources import check_labels_of, is_source, read
from qadv.units import width

if TYPE_CHECKING:
    from torch import Tensor

_STANDARDISED = 10.0  # no pixel of a photograph is so far from 0 after (x - mean) / std
_SUM_TOLERANCE = 1e-2  # of float16
_WARNED = "_warned_of_range"


def check_images(
    x: Any, input_shape: Sequence[int], clip_values: Any, name: str = "x", strict: bool = True
) -> NDArray[Any]:
    """Returns `x` if it is a batch of images that a classifier can take.

    Args:
        x: expected: floating array, or lists of that, (N, *input_shape), N >= 1, finite, within `clip_values`; what
            torch does not take (float16, longdouble, another byte order, reversed axes) is returned as it does. Or a
            few hundred images from a source, see `qadv.sources`.
        input_shape, clip_values, name: of the classifier, `None` for no limit; and the argument's, for the message.
        strict: `False` lets values leave the range by up to ten times its width, as the queries of some attacks do
            (ZOO's coordinate steps); data on another scale (0 to 255) are refused all the same.

    Raises:
        InvalidInputError: says what was expected, what came, and what to do.
    """
    expected = f"expected float images of shape (N, {', '.join(map(str, input_shape))})"
    images = images_as_array(x, expected, name)
    if images.ndim == len(input_shape) and images.shape == tuple(input_shape):
        raise InvalidInputError(f"{name}: {expected}, got one image of shape {images.shape}; use {name}[None]")
    if images.shape[1:] != tuple(input_shape):
        hint = ""
        if images.ndim == 4 and len(input_shape) == 3 and images.transpose(0, 3, 1, 2).shape[1:] == tuple(input_shape):
            hint = f"; channels come first here: {name}.transpose(0, 3, 1, 2)"
        raise InvalidInputError(f"{name}: {expected}, got shape {images.shape}{hint}")
    if images.shape[0] == 0:
        raise InvalidInputError(f"{name}: {expected} with N >= 1, got an empty array")
    if not np.issubdtype(images.dtype, np.floating):
        hint = f": ({name} / 255).astype('float32')" if np.issubdtype(images.dtype, np.integer) else ""
        raise InvalidInputError(f"{name}: {expected}, got dtype {images.dtype}; convert to float32{hint}")
    images = as_torch_takes_it(images)
    # one pass decides in the usual case: a NaN makes both comparisons false
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(images)).any(axis=tuple(range(1, images.ndim))).sum())
        raise InvalidInputError(f"{name}: {bad} of {len(images)} images have NaN or infinite values; remove them")
    clip_values = outermost(clip_values)
    if clip_values is not None:
        # a millionth, of the largest number too, since that is how float32 rounds
        slack = 1e-6 * max(width(clip_values), *map(abs, clip_values)) if strict else 10 * width(clip_values)
        if low < clip_values[0] - slack or high > clip_values[1] + slack:
            raise InvalidInputError(
                f"{name}: expected values from {clip_values[0]:g} to {clip_values[1]:g} (clip_values), got "
                f"{low:g} to {high:g}{_scale_hint(name, low, high, clip_values)}"
            )
    return images


def check_tensor(x: "Tensor", input_shape: Sequence[int]) -> tuple[float, float]:
    """Returns the smallest and the largest value of a tensor, which has to be a batch of finite images."""
    expected = f"expected float images of shape (N, {', '.join(map(str, input_shape))})"
    if tuple(x.shape[1:]) != tuple(input_shape) or x.shape[0] == 0 or not x.is_floating_point():
        raise InvalidInputError(f"x: {expected}, got {x.dtype} {tuple(x.shape)}")
    low, high = (end.item() for end in x.detach().aminmax())  # a NaN makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~x.detach().isfinite()).flatten(1).any(dim=1).sum())
        raise InvalidInputError(f"x: {bad} of {len(x)} images have NaN or infinite values; remove them")
    return low, high


def report_range(classifier: Classifier, low: float, high: float) -> None:
    """Says once for each classifier that images leave its `clip_values` by more than 1 % of their range.

    Some attacks ask for points a little outside. Standardised images are outside by more, and nothing else tells them
    from pixels. The images' values are from `low` to `high`.

    Warns:
        PixelRangeWarning: they do.
    """
    if classifier.clip_values is None or getattr(classifier, _WARNED, False):
        return
    ends = outermost(classifier.clip_values) or (-np.inf, np.inf)
    slack = (ends[1] - ends[0]) / 100
    if ends[0] - slack <= low and high <= ends[1] + slack:
        return
    setattr(classifier, _WARNED, True)
    warnings.warn(
        f"x: values from {low:g} to {high:g}, where pixels go from {ends[0]:g} to {ends[1]:g} (clip_values)"
        f"{_scale_hint('x', low, high, ends) or '; attacks may ask so, data should be within'}. Further images given "
        "to this classifier are not reported",
        PixelRangeWarning,
        stacklevel=4,
    )


@contextmanager
def attacks_may_leave_range(classifier: Classifier) -> Iterator[None]:
    """Says nothing of images outside `clip_values` while an attack asks, whose own images were checked before."""
    before = getattr(classifier, _WARNED, False)
    setattr(classifier, _WARNED, True)
    try:
        yield
    finally:
        setattr(classifier, _WARNED, before)


# of ART, without an option that says so: their labels are those that images are to be given
_TAKE_TARGETS = {"SaliencyMapMethod", "GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch", "LowProFool"}


def check_goal(name: str, attack: Any, targeted: bool = False) -> Any:
    """Returns an attack, called `name`, that goes where the labels say; one that has no such option may be either."""
    within = attack
    while hasattr(within, "attack") and hasattr(within.attack, "generate"):  # of a QueryCoalescer
        within = within.attack
    takes_targets = bool(_TAKE_TARGETS & {each.__name__ for each in type(within).__mro__})
    if (takes_targets or bool(getattr(attack, "targeted", targeted))) == targeted:
        return attack
    what = "those that images are to be given (pair)" if targeted else "those that images are not to be given any more"
    hint = "; it takes targets, and is run by itself: attack.generate(x, targets)" if takes_targets else ""
    raise InvalidInputError(
        f"{name}: the labels are {what}: expected an attack with targeted={targeted}, got {not targeted}{hint}"
    )


def _scale_hint(name: str, low: float, high: float, clip_values: tuple[float, float]) -> str:
    """Returns what images of another scale are likely to be, and what to do."""
    smallest, largest = clip_values
    if high > 2 and low >= 0 and largest <= 1:
        if (smallest, largest) == (0, 1):
            return f"; divide by 255: {name} / 255"
        return f"; pixels from 0 to 255 become {smallest:g} + {largest - smallest:g} * {name} / 255"
    if low < smallest - 0.1 and max(-low, high) <= _STANDARDISED:
        return (
            "; if they are standardised, (x - mean) / std, give pixels as they are, and the classifier "
            "preprocessing=(mean, std)"
        )
    return ""


def check_labels(y: Any, nb_samples: int, nb_classes: int, name: str = "y") -> NDArray[np.int64]:
    """Returns labels as class indices, shape (N,); `name` is the argument's, for the message.

    Args:
        y: class indices, shape (N,) or (N, 1), or one-hot rows, shape (N, nb_classes).

    Raises:
        InvalidInputError: wrong length or shape, not whole numbers, or outside 0 … nb_classes - 1.
    """
    y = labels_as_array(y, name)
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
    if y.dtype == bool or not np.equal(np.mod(y, 1), 0).all():
        raise InvalidInputError(f"{name}: {expected}, got dtype {y.dtype} with values that are no whole numbers")
    if y.min() < 0 or y.max() >= nb_classes:
        raise InvalidInputError(f"{name}: {expected}, got labels from {y.min():g} to {y.max():g}")
    return np.asarray(y, dtype=np.int64)


def check_pair(
    classifier: Classifier, x: Any, y: Any, nb_classes: int | None = None, names: tuple[str, str] = ("x", "y")
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns images and class indices, (N,), that a classifier can take, as `check_images` and `check_labels` do.

    Or `x` is a source, as `check_images` takes one, that gives both, and `y` is `None`. Without `nb_classes` it is the
    classifier's number; `names` are the arguments', for the message.
    """
    count = int(classifier.nb_classes if nb_classes is None else nb_classes)
    if is_source(x):
        check_alone(y, *names)
        check_labels_of(x, nb_labels(classifier) if nb_classes is None else count, names[0])
        x, y = read(x, names[0])
    x = check_images(x, classifier.input_shape, classifier.clip_values, names[0])
    if y is None:
        raise InvalidInputError(f"{names[1]}: expected {len(x)} labels, got none")
    return x, check_labels(y, len(x), count, names[1])


def check_alone(y: Any, x_name: str = "x", y_name: str = "y") -> None:
    """Raises an `InvalidInputError` where labels are given besides those that come with the images."""
    if y is not None:
        raise InvalidInputError(f"{y_name}: expected None, since labels come with {x_name}, batch by batch")


def check_targets(y: Any, nb_samples: int, nb_classes: int) -> NDArray[Any]:
    """Returns labels as rows, shape (N, nb_classes) float32: one-hot, or soft labels as they are.

    `y` are class indices, one-hot rows, or a probability for each class; the rest is as of `check_labels`.

    Raises:
        InvalidInputError: see `check_labels`; or rows that are no probabilities.
    """
    rows = labels_as_array(y)
    if rows.shape != (nb_samples, nb_classes):
        return np.eye(nb_classes, dtype=np.float32)[check_labels(rows, nb_samples, nb_classes)]
    # a NaN makes every comparison false
    if not (rows.min() >= 0 and rows.max() <= 1 and np.abs(rows.sum(axis=1, dtype=float) - 1).max() <= _SUM_TOLERANCE):
        raise InvalidInputError(
            f"y: expected {nb_samples} labels from 0 to {nb_classes - 1}, one-hot rows, or probabilities that sum "
            f"to 1 in each row, got rows with values from {rows.min():g} to {rows.max():g} and sums from "
            f"{rows.sum(axis=1).min():g} to {rows.sum(axis=1).max():g}"
        )
    return rows.astype(np.float32)
