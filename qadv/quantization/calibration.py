"""Fits a network that was not trained with quantizers to data: ranges, BatchNorm statistics, biases."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from qadv.checks import check_choice, check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError, some
from qadv.modes import evaluation_mode
from qadv.quantization.corrections import correct
from qadv.quantization.layers import activation_quantizers
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.ranges import Histogram, mse_range, percentile_range
from qadv.sources import is_source, read

CalibrationImages = NDArray[Any] | Tensor | DataLoader[Any] | Dataset[Any]
_RANGES = ("mse", "percentile")


@dataclass(frozen=True)
class Calibration:
    """Calibration images, and what they are used for.

    Attributes:
        images: as the network takes them (after any standardisation), (N, …) floating, N >= 2; a few hundred training
            images are enough. A `DataLoader` or `Dataset` of torch's, or ART's `PyTorchDataGenerator`, is read at once.
        ranges: how the clipping range [0, c] of each activation is chosen: `"mse"` minimises the squared error of the
            quantized activations, `"percentile"` takes a percentile of the activations behind the ReLU.
        percentile: for `"percentile"`, 0 to 100.
        batch_norm: re-estimates each BatchNorm's statistics, so that it normalises the input it has in the quantized
            network as it did the float network's.
        bias_correction: makes the mean output of each convolution and linear layer, per channel, what it is in the
            float network (Nagel et al. 2019, with data), by its bias; and the mean input of each BatchNorm, by its
            running mean. A layer without bias that no BatchNorm follows keeps its shift.
        batch_size: images in one pass.
        verbose: show progress.
    """

    images: Any  # once made, an array or a tensor
    ranges: Literal["mse", "percentile"] = "mse"
    percentile: float = 99.9
    batch_norm: bool = True
    bias_correction: bool = True
    batch_size: int = 128
    verbose: bool = False

    def __post_init__(self) -> None:
        if is_source(self.images):
            object.__setattr__(self, "images", read(self.images, "calibration")[0])
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
        check_fields(self, check_flag, "batch_norm", "bias_correction", "verbose", prefix="calibration: ")

    def _tensor(self) -> Tensor:
        images = self.images
        return images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images, np.float32))

    @classmethod
    def of(cls, given: "Calibration | CalibrationImages") -> "Calibration":
        """Returns `given`, or the default calibration with these images."""
        return given if isinstance(given, cls) else cls(given)

    def shown(self, batches: list[Tensor], what: str) -> Iterable[Tensor]:
        """Returns the batches, which show how far they are where that is wanted."""
        return tqdm(batches, desc=what, unit="batch") if self.verbose else batches

    def batches(self, device: torch.device) -> list[Tensor]:
        """Returns the images in batches of nearly equal size, float32."""
        images = self._tensor().to(torch.float32)
        parts = images.tensor_split(-(-len(images) // self.batch_size))
        return [part.to(device) for part in parts]


@torch.no_grad()
def calibrate(model: nn.Module, original: nn.Module, calibration: Calibration) -> None:
    """Fits a quantized network to data, in place; `original` is the float network it was made from.

    Ranges are chosen on activations that are not quantized yet, behind weights that are, after corrections for those;
    then comes the correction for both.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batches = calibration.batches(device)
    with evaluation_mode(model), evaluation_mode(original):
        if free := {name: quantizer for name, quantizer in activation_quantizers(model) if quantizer.takes_range}:
            with _quantizing_with(model, lambda quantizer: quantizer.unquantized):
                _correct(model, original, batches, calibration)
            _choose_ranges(model, free, batches, calibration)
        _correct(model, original, batches, calibration)


def _correct(model: nn.Module, original: nn.Module, batches: list[Tensor], calibration: Calibration) -> None:
    if calibration.batch_norm or calibration.bias_correction:
        shown = calibration.shown(batches, "correcting layers")
        correct(model, original, shown, calibration.batch_norm, calibration.bias_correction)


@contextmanager
def _quantizing_with(
    model: nn.Module, make: Callable[[ActivationQuantizer], Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Puts what `make` gives for each activation quantizer in the place of its `quantize`."""
    changed = {quantizer: make(quantizer) for _, quantizer in activation_quantizers(model)}
    for quantizer, quantize in changed.items():
        vars(quantizer)["quantize"] = quantize
    try:
        yield
    finally:
        for quantizer in changed:
            del vars(quantizer)["quantize"]


def _choose_ranges(
    model: nn.Module, free: dict[str, ActivationQuantizer], batches: list[Tensor], calibration: Calibration
) -> None:
    histograms = {quantizer: Histogram() for quantizer in free.values()}

    def counting(quantizer: ActivationQuantizer) -> Callable[[Tensor], Tensor]:
        def quantize(x: Tensor) -> Tensor:
            y = quantizer.unquantized(x)
            if quantizer in histograms:
                histograms[quantizer].add(y)
            return y

        return quantize

    with _quantizing_with(model, counting):
        for what in ("extremes", "counts between them"):
            for batch in calibration.shown(batches, f"ranges: {what}"):
                model(batch)
            if empty := [name for name, quantizer in free.items() if histograms[quantizer].is_empty]:
                raise InvalidInputError(
                    f"calibration: {some(empty)} saw no activation, or none that is finite: the network overflows on "
                    "the images, or they never reach it. Leave what is not used float: "
                    f"activations={{'*': …, {empty[0]!r}: 'float'}}"
                )
            for histogram in histograms.values():
                histogram.finish_pass()
    for quantizer, histogram in histograms.items():
        if calibration.ranges == "percentile":
            high = percentile_range(histogram, calibration.percentile)
        else:
            high = mse_range(histogram, quantizer)
        quantizer.set_range(min(high, quantizer.ceiling))
