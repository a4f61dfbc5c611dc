"""Tanh-based activations, docs/methods.md §1 `tanh` (DQ A.1): kept to show how gradients get masked."""

import torch
from torch import Tensor

from qadv.quantization.quantizer import ActivationQuantizer, straight_through
from qadv.quantization.scheme import Scheme


class TanhUniform(ActivationQuantizer):
    """2^k uniform levels of tanh(a) over [-1, 1], both ends included; gradient `1 - tanh²(a)`, which vanishes."""

    signed = True

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.register_buffer("scale", torch.tensor(2 / self.intervals), persistent=False)

    def grid(self) -> tuple[float, float, int]:
        return -1.0, 1.0, self.intervals

    def squash(self, x: Tensor) -> Tensor:
        return x.tanh()

    def quantize(self, x: Tensor) -> Tensor:
        squashed = self.squash(x)
        steps = ((squashed.detach() + 1) / 2 * self.intervals).round_()
        return straight_through(squashed, steps.mul_(2).div_(self.intervals).sub_(1))

    def levels(self) -> Tensor:
        return torch.arange(self.intervals + 1) * 2 / self.intervals - 1


class Tanh(Scheme):
    """`tanh:1` … `tanh:8`: never a defense; white-box accuracy above black-box shows the masking."""

    activations = TanhUniform
    inputs = TanhUniform
