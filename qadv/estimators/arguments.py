"""The arguments of a classifier, checked and brought into the form that ART's attacks rely on."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from qadv.checks import is_whole
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images
from qadv.estimators.forms import outermost
from qadv.quantization.calibration import Calibration
from qadv.units import ClipValues, check_clip_values, limits


def check_input_shape(input_shape: Any) -> tuple[int, ...]:
    """Returns the shape of one image as positive whole numbers."""
    shape = tuple(input_shape) if isinstance(input_shape, Iterable) else ()
    if not shape or not all(is_whole(side) and side >= 1 for side in shape):
        raise InvalidInputError(f"input_shape: expected positive sizes such as (3, 32, 32), got {input_shape!r}")
    return tuple(int(side) for side in shape)


def check_loss(loss: Any) -> Any:
    """Returns a loss that is one number for a batch."""
    if not callable(loss):
        raise InvalidInputError(f"loss: expected e.g. torch.nn.CrossEntropyLoss(), got {loss!r}")
    if getattr(loss, "reduction", None) == "none":
        raise InvalidInputError(
            f"loss: expected one number for a batch, reduction='mean' or 'sum', got {type(loss).__name__}(reduction="
            f"'none'); write {type(loss).__name__}(). compute_loss(x, y, reduction='none') gives one for each image"
        )
    return loss


def check_defences(defences: Any, clip_values: ClipValues | None) -> Any:
    """Returns preprocessing defences, a list or a single one, if those for pixels of some range are for this one."""
    by_pixel = clip_values is not None and np.ndim(clip_values[0]) > 0
    clip_values = outermost(clip_values)
    for defence in defences if isinstance(defences, list | tuple) else [defences]:
        own = getattr(defence, "clip_values", None)
        if own is not None and by_pixel:
            raise InvalidInputError(
                f"preprocessing_defences: {type(defence).__name__} takes one range for all pixels, and clip_values has "
                "ranges of their own; leave the defence out, or give images in one range and let preprocessing=(mean, "
                "std) move the channels"
            )
        if own is not None and clip_values is not None and not np.allclose(limits(own), clip_values, rtol=1e-6, atol=0):
            name = type(defence).__name__
            raise InvalidInputError(
                f"preprocessing_defences: {name} is for pixels from {limits(own)[0]:g} to {limits(own)[1]:g}, the "
                f"classifier's are from {clip_values[0]:g} to {clip_values[1]:g}; make it with "
                f"{name}(clip_values={clip_values})"
            )
    return defences


def check_preprocessing(preprocessing: Any, nb_channels: int) -> Any:
    """Returns (mean, std) as arrays, each of one value or one per channel.

    Anything else than a pair, as ART's own preprocessors, stays as it is.
    """
    if not (isinstance(preprocessing, tuple | list) and len(preprocessing) == 2):
        return preprocessing
    try:
        mean, std = (np.asarray(value, dtype=np.float32) for value in preprocessing)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"preprocessing: expected (mean, std) as numbers, got {preprocessing!r}") from error
    for name, value in (("mean", mean), ("std", std)):
        if value.ndim and value.size not in (1, nb_channels):
            raise InvalidInputError(f"preprocessing: {name} has {value.size} values for {nb_channels} channels")
    if not ((std > 0).all() and np.isfinite(std).all() and np.isfinite(mean).all()):
        raise InvalidInputError(f"preprocessing: expected finite (mean, std) with std > 0, got {preprocessing!r}")
    return mean, std


def standardised(
    calibration: Calibration, preprocessing: Any, input_shape: Any, clip_values: ClipValues | None
) -> Calibration:
    """Returns a calibration whose images are as the network takes them, from one with images in `clip_values`."""
    shape = check_input_shape(input_shape)
    pair = check_preprocessing(preprocessing, shape[0])
    if not isinstance(pair, tuple):
        raise InvalidInputError(
            f"calibration: images can't be standardised with preprocessing={preprocessing!r}; give (mean, std), or "
            "quantize(model, calibration=...) the network first"
        )
    images = calibration.images.numpy(force=True) if isinstance(calibration.images, Tensor) else calibration.images
    images = check_images(images, shape, check_clip_values(clip_values, shape), "calibration").astype(np.float32)
    mean, std = (value.reshape(-1, *[1] * (len(shape) - 1)) for value in pair)
    return replace(calibration, images=(images - mean) / std)
