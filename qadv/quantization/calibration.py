"""What data can do for a network that was not trained with quantizers: ranges, BatchNorm statistics, biases."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.checks import check_choice, check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.modes import evaluation_mode
from qadv.quantization.corrections import correct
from qadv.quantization.layers import activation_quantizers
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.ranges import Histogram, mse_range, percentile_range

Images = NDArray[Any] | Tensor
_RANGES = ("mse", "percentile")


@dataclass(frozen=True)
class Calibration:
    """Images, and what to do with them.

    Attributes:
        images: as the network takes them (after any standardisation), (N, …) floating, N >= 2; a few hundred training
            images are enough.
        ranges: how the clipping range [0, c] of each activation is chosen: `"mse"` minimises the squared error of the
            quantized activations, `"percentile"` takes a percentile of the activations behind the ReLU.
        percentile: for `"percentile"`, 0 to 100.
        batch_norm: re-estimates each BatchNorm's statistics, so that it normalises the input it has in the quantized
            network as it did the float network's.
        bias_correction: makes the mean output of each convolution and linear layer, per channel, what it is in the
            float network (Nagel et al. 2019, with data), by its bias; and the mean input of each BatchNorm, by its
            running mean. A layer without bias that no BatchNorm follows keeps its shift.
        batch_size: images in one pass.
    """

    images: Images
    ranges: Literal["mse", "percentile"] = "mse"
    percentile: float = 99.9
    batch_norm: bool = True
    bias_correction: bool = True
    batch_size: int = 128

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, np.ndarray | Tensor):
            raise InvalidInputError(f"calibration: expected an array or tensor of images, got {type(images).__name__}")
        if images.ndim < 2 or len(images) < 2:
            raise InvalidInputError(f"calibration: expected 2 or more images, (N, …), got shape {tuple(images.shape)}")
        floating = images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"
        if not floating:
            raise InvalidInputError(f"calibration: expected floating images, got {images.dtype}; divide by 255")
        if not bool(self._tensor().isfinite().all()):
            raise InvalidInputError("calibration: some images have NaN or infinite values; remove them")
        check_choice("calibration: ranges", self.ranges, _RANGES)
        check_fields(self, check_number, "percentile", prefix="calibration: ", most=100)
        check_fields(self, check_whole, "batch_size", prefix="calibration: ", least=2)
        check_fields(self, check_flag, "batch_norm", "bias_correction", prefix="calibration: ")

    def _tensor(self) -> Tensor:
        images = self.images
        return images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images, np.float32))

    @classmethod
    def of(cls, given: "Calibration | Images") -> "Calibration":
        """Returns `given`, or the default calibration with these images."""
        return given if isinstance(given, cls) else cls(given)  # type: ignore[arg-type]

    def batches(self, device: torch.device) -> list[Tensor]:
        """Returns the images in batches of nearly equal size, float32."""
        images = self._tensor().to(torch.float32)
        parts = images.tensor_split(-(-len(images) // self.batch_size))
        return [part.to(device) for part in parts]


@torch.no_grad()
def calibrate(model: nn.Module, original: nn.Module, calibration: Calibration) -> None:
    """Fits a quantized network to data, in place.

    Ranges are chosen on activations that are not quantized yet, behind weights that are, after corrections for those;
    then comes the correction for both.

    Args:
        model: the quantized network.
        original: the float network it was made from, untouched.
        calibration: the images and what to do.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batches = calibration.batches(device)
    with evaluation_mode(model), evaluation_mode(original):
        free = {name: quantizer for name, quantizer in activation_quantizers(model) if quantizer.takes_range}
        if free:
            with _passing_through(model) as observers:
                _correct(model, original, batches, calibration)
                _choose_ranges(model, free, observers, batches, calibration)
        _correct(model, original, batches, calibration)


def _correct(model: nn.Module, original: nn.Module, batches: list[Tensor], calibration: Calibration) -> None:
    if calibration.batch_norm or calibration.bias_correction:
        correct(model, original, batches, calibration.batch_norm, calibration.bias_correction)


class _Observer:
    """Stands in for a quantizer's `quantize`: does what the replaced activation did, and counts what comes out."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        self.unquantized = quantizer.unquantized
        self.histogram: Histogram | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.unquantized(x)
        if self.histogram is not None:
            self.histogram.add(y)
        return y


@contextmanager
def _passing_through(model: nn.Module) -> Iterator[dict[ActivationQuantizer, _Observer]]:
    observers = {quantizer: _Observer(quantizer) for _, quantizer in activation_quantizers(model)}
    for quantizer, observer in observers.items():
        quantizer.quantize = observer  # type: ignore[method-assign]
    try:
        yield observers
    finally:
        for quantizer in observers:
            del quantizer.quantize


def _choose_ranges(
    model: nn.Module,
    free: dict[str, ActivationQuantizer],
    observers: dict[ActivationQuantizer, _Observer],
    batches: list[Tensor],
    calibration: Calibration,
) -> None:
    histograms = {name: Histogram() for name in free}
    for name, quantizer in free.items():
        observers[quantizer].histogram = histograms[name]
    for _ in range(2):  # first the extremes, then the counts between them
        for batch in batches:
            model(batch)
        if empty := [name for name, histogram in histograms.items() if histogram.is_empty]:
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            raise InvalidInputError(
                f"calibration: {', '.join(empty[:3])}{more} saw no activation, or none that is finite: the network "
                "overflows on the images, or they never reach it. What is not used is to be left float: "
                f"activations={{'*': …, {empty[0]!r}: 'float'}}"
            )
        for histogram in histograms.values():
            histogram.finish_pass()
    for name, quantizer in free.items():
        histogram = histograms[name]
        if calibration.ranges == "percentile":
            high = percentile_range(histogram, calibration.percentile)
        else:
            high = mse_range(histogram, type(quantizer).quantize, quantizer)
        quantizer.set_range(min(high, quantizer.ceiling))
