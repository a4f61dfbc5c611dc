"""Symmetric uniform weights, docs/methods.md §1 `int`."""

import torch
from torch import Tensor

from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer, straight_through
from qadv.quantization.scheme import Scheme


class IntWeights(WeightQuantizer):
    """`W_q = s * round(W / s)`, `s = max|W| / (2^(k-1) - 1)` per filter; ties to even, gradient 1 everywhere."""

    per_tensor = False

    @property
    def max_code(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        dims = tuple(range(weight.ndim)) if self.per_tensor else tuple(range(1, weight.ndim))
        scale = weight.abs().amax(dim=dims, keepdim=True) / self.max_code
        scale = torch.where(scale > 0, scale, 1.0)  # a filter of zeros has only the code 0
        return (weight / scale).round().clamp(-self.max_code, self.max_code), scale

    def code_values(self) -> Tensor:
        return torch.arange(-self.max_code, self.max_code + 1)


class IntOperands(ActivationQuantizer):
    """`s * round(x / s)`, `s = max|x| / (2^(k-1) - 1)`, without signs `max x / (2^k - 1)`, of each image.

    What is first in memory counts as image, so that none has a scale that depends on another. The gradient is 1
    everywhere, since nothing is clipped.
    """

    signed = True

    def quantize(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            largest = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x.abs()
            scale = largest / (2 ** (self.bits - self.signed) - 1)
            value = (x / torch.where(scale > 0, scale, 1.0)).round() * scale
        return straight_through(x, value)


class IntGates(IntOperands):
    """The same of values that are not negative."""

    signed = False


class Int(Scheme):
    """`int:2` … `int:8`: 2^k - 1 levels, the same number on both sides of zero, one scale per filter."""

    bits_choices = range(2, 9)
    weights = IntWeights
    operands, gates = IntOperands, IntGates


class _PerTensorIntWeights(IntWeights):
    per_tensor = True


class IntPerTensor(Scheme):
    """`int-per-tensor:2` … `int-per-tensor:8`: as `int`, with one scale for the whole layer."""

    bits_choices = range(2, 9)
    weights = _PerTensorIntWeights
