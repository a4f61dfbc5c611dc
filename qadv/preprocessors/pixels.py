"""What qadv's preprocessors share: their checks, and pixels as shares of the range."""

import math
from typing import Any

import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import Tensor

from qadv.checks import check_flag
from qadv.errors import InvalidInputError
from qadv.units import check_clip_values

MOST_BITS = 16  # of a pixel


class TensorPreprocessor(PreprocessorPyTorch):
    """A step on tensors that is not fitted; `apply_fit`, `apply_predict` and `device_type` are as in ART."""

    def __init__(self, apply_fit: bool, apply_predict: bool, device_type: str) -> None:
        apply_fit, apply_predict = check_flag("apply_fit", apply_fit), check_flag("apply_predict", apply_predict)
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.params)})"


class PixelPreprocessor(TensorPreprocessor):
    """A step on each pixel u = (x - low) / (high - low), gradients included; a subclass says which, in `_apply`.

    Nothing is clipped: values outside `clip_values`, which some attacks ask for, are continued, and pixels at the very
    ends keep their gradient.
    """

    params = ["clip_values"]

    def __init__(
        self, clip_values: tuple[float, float], apply_fit: bool, apply_predict: bool, device_type: str
    ) -> None:
        super().__init__(apply_fit, apply_predict, device_type)
        self.clip_values = clip_values

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Returns the images, shaped as `x`, any shape, in the same range; and `y` as it is."""
        low, high = self.clip_values
        check_pixels(x, type(self).__name__, (low, high))
        return low + (high - low) * self._apply((x - low) / (high - low)), y

    def _apply(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def _check_params(self) -> None:
        limits = check_clip_values(self.clip_values)
        if limits is None:
            raise InvalidInputError("clip_values: expected the range of the pixels, e.g. (0.0, 1.0), got None")
        self.clip_values = limits


def check_pixels(x: Tensor, name: str, clip_values: tuple[float, float] | None = None) -> None:
    """Refuses anything but float pixels in a range: whole numbers, as of 8-bit images, NaN, and other scales.

    As classifiers do it leaves room round the range, ten times as wide, for the queries of attacks.
    """
    if not x.is_floating_point():
        raise InvalidInputError(f"{name}: expected float pixels, got {x.dtype}; convert 8-bit images: x / 255")
    if x.numel() == 0 or torch.compiler.is_compiling():
        return
    smallest, largest = (end.item() for end in x.detach().aminmax())
    if math.isnan(smallest):
        raise InvalidInputError(f"{name}: expected pixels, got NaN among them")  # a median would hide it
    if clip_values is None:
        return
    low, high = clip_values
    room = 10 * (high - low)
    if smallest < low - room or largest > high + room:
        hint = "; divide by 255: x / 255" if (low, high) == (0, 1) and smallest >= 0 else ""
        raise InvalidInputError(
            f"{name}: expected pixels from {low:g} to {high:g} (clip_values), got {smallest:g} to {largest:g}{hint}"
        )


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, steps: int) -> Tensor:
        return (pixels * steps).round() / steps

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def rounded(pixels: Tensor, bits: int) -> Tensor:
    """Returns the nearest of the 2^bits levels i / (2^bits - 1), ties to even; the gradient is the identity's (BPDA).

    A rounding that stands in `forward` as it is would give attacks a gradient of zero, in silence: ART does not call
    `estimate_forward` where all preprocessors work on tensors.
    """
    return _Round.apply(pixels, 2**bits - 1)  # type: ignore[no-any-return]
