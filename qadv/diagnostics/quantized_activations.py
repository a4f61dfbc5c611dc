"""The quantized activations of a network, and which bucket a value falls into."""

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.frontends import find
from qadv.frontends.frontend import QuantizedActivation


def quantized_activations(model: nn.Module) -> dict[str, QuantizedActivation]:
    """Returns the quantizers of activations and layer inputs, one or more, by the module that their input enters."""
    if found := {quantizer.at or quantizer.layer: quantizer for quantizer in find.quantized_activations(model)}:
        return found
    raise UnsupportedModelError(
        f"no activation of {type(model).__name__} is quantized; to see what rounding alone does, quantize only "
        "those: qadv.quantize(model, weights='float', activations='relu6:3')"
    )


def clipped(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """Returns what the quantizer rounds: `x` as its scheme transforms it, clipped to the lowest and highest level."""
    return quantizer.squash(x).clamp(float(quantizer.levels[0]), float(quantizer.levels[-1]))


def buckets(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """Returns the index of the level that each value becomes, shaped as `x`."""
    levels = quantizer.levels.to(x.device, torch.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(quantizer.function()(x).float(), middles)
