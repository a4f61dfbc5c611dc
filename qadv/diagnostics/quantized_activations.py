"""The quantized activations of a network, and which bucket a value falls into."""

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.quantization.layers import activation_quantizers
from qadv.quantization.quantizer import ActivationQuantizer


def quantized_activations(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Returns the quantizers of activations and layer inputs, by the name of the module they stand in.

    Raises:
        UnsupportedModelError: none is quantized.
    """
    found = dict(activation_quantizers(model))
    if not found:
        raise UnsupportedModelError(
            f"no activation of {type(model).__name__} is quantized; to see what rounding alone does, quantize only "
            "those: qadv.quantize(model, weights='float', activations='relu6:3')"
        )
    return found


def clipped(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Returns what the quantizer rounds: `x` as its scheme transforms it, clipped to the lowest and highest level."""
    levels = quantizer.levels()
    return quantizer.squash(x).clamp(float(levels[0]), float(levels[-1]))


def buckets(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Returns the index of the level that each value becomes, shaped as `x`."""
    levels = quantizer.levels().to(x.device, torch.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(quantizer.quantize(x).float(), middles)
