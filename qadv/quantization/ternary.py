"""Ternary weights, docs/methods.md §1 `twn` (EQ eq. 2)."""

from torch import Tensor, arange

from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scheme import Scheme


class TernaryWeights(WeightQuantizer):
    """Per filter `Δ = 0.7 * mean|W|`; 0 where `|W| <= Δ`, else `α * sign(W)`, `α` the mean of those `|W|`."""

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        dims = tuple(range(1, weight.ndim))
        magnitude = weight.abs()
        kept = magnitude > 0.7 * magnitude.mean(dim=dims, keepdim=True)
        count = kept.sum(dim=dims, keepdim=True).clamp(min=1)  # a filter of zeros keeps none
        alpha = (magnitude * kept).sum(dim=dims, keepdim=True) / count
        return weight.sign() * kept, alpha

    def code_values(self) -> Tensor:
        return arange(-1, 2)


class TWN(Scheme):
    """`twn`: three levels, stored in two bits per weight, and one scale per filter."""

    takes_bits = False
    bits_choices = (2,)
    weights = TernaryWeights
