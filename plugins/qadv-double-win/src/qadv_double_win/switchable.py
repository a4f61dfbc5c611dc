"""`switchable:k`: weights and activations at any precision from 2 to k bits, chosen while the network runs."""

from typing import Any

import torch
from torch import Tensor

from qadv.quantization import ActivationQuantizer, Scheme, WeightQuantizer
from qadv_double_win.precision import HasPrecision


class SwitchableWeights(HasPrecision, WeightQuantizer):
    """At q bits `W_q = s * round(W / s)`, `s = max|W| / (2^(q-1) - 1)` per filter, which is qadv's `int:q`.

    Ties to even, gradient 1 everywhere. Codes are stored in k bits, of which a lower precision uses few.

    **Reading:** the authors' code rounds to 2^q levels between each filter's smallest and largest weight. Here levels
    are symmetric, with zero among them, so that each precision is what integer kernels run.
    """

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.start_with(range(2, bits + 1))

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = 2 ** (self.precision - 1) - 1
        scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / largest
        scale = torch.where(scale > 0, scale, 1.0)  # a filter of zeros has only the code 0
        return (weight / scale).round().clamp(-largest, largest), scale

    def code_values(self) -> Tensor:
        largest = 2 ** (self.bits - 1) - 1
        return torch.arange(-largest, largest + 1)


class _ClipRound(torch.autograd.Function):
    """`step * round(clip(x) / step)`, `step = (high - low) / n`; gradient 1 on [low, high], else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, steps: int) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        y = x.clamp(low, high).mul_(steps / (high - low))
        if low and steps % 2:  # no level at 0, but one half a step to each side of it
            y.add_(0.5).round_().sub_(0.5)
        else:
            y.round_()
        return y.mul_((high - low) / steps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return grad_outputs[0] * ctx.saved_tensors[0], None, None, None


class SwitchableActivations(HasPrecision, ActivationQuantizer):
    """At q bits 2^q levels of [0, 6], both ends included: qadv's `relu6:q`.

    **Reading:** the authors' code takes the range from a running mean of each layer's largest activation, shared by all
    precisions; here it is fixed, DQ's ReLU6, so that the precision is all that changes.
    """

    bound = 6.0

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.register_buffer("scale", torch.tensor(0.0), persistent=False)
        self.start_with(range(2, bits + 1))
        self.set_precision(bits)

    def set_precision(self, bits: int) -> None:
        super().set_precision(bits)
        low, high, steps = self.grid()
        self.scale.fill_((high - low) / steps)
        self.bit_width.fill_(bits)

    def grid(self) -> tuple[float, float, int]:
        return 0.0, self.bound, 2**self.precision - 1

    def levels(self) -> Tensor:
        low, high, steps = self.grid()
        return (torch.arange(steps + 1) - (steps / 2 if low else 0)) * ((high - low) / steps)

    def quantize(self, x: Tensor) -> Tensor:
        return _ClipRound.apply(x, *self.grid())  # type: ignore[no-any-return]


class SwitchableInputs(SwitchableActivations):
    """At q bits 2^q - 1 levels of [-6, 6] with zero among them: for layer inputs in networks without ReLU."""

    signed = True

    def grid(self) -> tuple[float, float, int]:
        return -self.bound, self.bound, 2**self.precision - 2


class Switchable(Scheme):
    """`switchable:2` … `switchable:16`; it starts at k bits, and `set_precision` goes anywhere from 2 to k."""

    bits_choices = range(2, 17)
    weights = SwitchableWeights
    activations = SwitchableActivations
    inputs = SwitchableInputs
