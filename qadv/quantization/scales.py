"""Checks of the scales in a file against those that its scheme can have."""

import copy

import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError
from qadv.quantization.layers import activation_quantizers, weight_quantizers
from qadv.quantization.quantizer import WeightQuantizer


@torch.no_grad()
def check_scale(quantizer: WeightQuantizer, scale: Tensor, weight: Tensor) -> None:
    """Raises a `FileFormatError` for scales that are negative, not finite, or zero where the scheme gives none.

    They are as `encode` gives them; `weight` are any weights of the layer.
    """
    fresh, zeros = copy.deepcopy(quantizer), torch.zeros_like(weight)
    fresh.fit(zeros)
    may_be_zero = fresh.encode(fresh.latent(zeros))[1].to(scale) == 0  # of a filter of zeros
    allowed = scale.isfinite() & ((scale > 0) | ((scale == 0) & may_be_zero))
    if not bool(allowed.all()):
        raise FileFormatError(f"expected finite scales above 0, found {scale[~allowed].flatten()[0].item():g}")


def check_scales(model: nn.Module, origin: str) -> None:
    """Raises a `FileFormatError` that names the layer for a stored scale or range that its scheme can't have."""
    for name, layer, quantizer in weight_quantizers(model):
        for part in quantizer.modules():
            if isinstance(part, WeightQuantizer) and isinstance(scale := part.state_dict().get("scale"), Tensor):
                try:
                    check_scale(part, scale, layer.weight)
                except FileFormatError as error:
                    raise FileFormatError(f"{origin}: layer {name!r}: {error}") from error
    for name, found in activation_quantizers(model):
        if found.takes_range and not bool(found.scale.isfinite() & (found.scale > 0)):
            step = found.scale.item()
            raise FileFormatError(f"{origin}: layer {name!r}: expected a range above 0, found steps of {step:g}")
