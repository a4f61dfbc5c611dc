"""Binary weights with a scale, docs/methods.md §1 `bwn` (EQ eq. 1)."""

import torch
from torch import Tensor

from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scheme import Scheme


class BinaryWeights(WeightQuantizer):
    """Per filter `W_q = α * sign(W)`, `α = mean|W|`, `sign(0) = +1`; gradient 1 everywhere."""

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        alpha = weight.abs().mean(dim=tuple(range(1, weight.ndim)), keepdim=True)
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype), alpha

    def code_values(self) -> Tensor:
        return torch.tensor([-1, 1])


class BWN(Scheme):
    """`bwn`: one bit per weight and one scale per filter."""

    takes_bits = False
    bits_choices = (1,)
    weights = BinaryWeights
