"""The quantized activations of a network, and which bucket a value falls into."""

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.frontends import find
from qadv.frontends.frontend import QuantizedActivation
from qadv.modes import held_network


def quantized_activations(model: nn.Module) -> dict[str, QuantizedActivation]:
    """Returns the quantizers of activations and layer inputs, one or more, by the module that their input enters."""
    everything = find.quantized_activations(model)
    if found := {each.at or each.layer: each for each in everything if each.at is not None}:
        return found
    name = type(held_network(model)).__name__
    if any(len(each.levels) for each in everything):
        raise UnsupportedModelError(
            f"the activations of {name} are quantized inside its kernels, where no module sees what is rounded; "
            "measure the network that it was converted from"
        )
    if any(each.role != "weights" for each in find.quantizers(model)):
        raise UnsupportedModelError(
            f"the activations of {name} are quantized by scales that each batch or filter has of its own, so there "
            "is no list of levels to count by"
        )
    raise UnsupportedModelError(
        f"no activation of {name} is quantized; to see what rounding alone does, quantize only "
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
