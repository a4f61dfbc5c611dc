"""Weights that are powers of two, so that a multiplication is a shift."""

import torch

from qadv.quantization import Scheme, WeightQuantizer


class PowerOfTwoWeights(WeightQuantizer):
    """Per filter: `sign(W) * m * 2^-e`, m the largest magnitude, e = 0 … 2^(k-1) - 2, and 0 below the smallest."""

    def exponents(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def encode(self, weight):
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        scale = largest * 2.0 ** (1 - self.exponents())  # the smallest magnitude; codes are powers of two times it
        safe = torch.where(scale > 0, scale, 1.0)
        power = (weight.abs() / safe).clamp(min=1e-30).log2().round().clamp(max=self.exponents() - 1)
        return weight.sign() * torch.where(power >= 0, 2.0**power, 0.0), scale

    def code_values(self):
        powers = 2.0 ** torch.arange(self.exponents())
        return torch.cat([-powers.flip(0), torch.zeros(1), powers])


class PowerOfTwo(Scheme):
    bits_choices = range(3, 6)
    weights = PowerOfTwoWeights
