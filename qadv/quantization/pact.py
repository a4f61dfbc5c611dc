"""PACT: activations with a learned clip, METHODS §1 `pact` (pipeline study)."""

from typing import Any

import torch
from torch import Tensor, nn

from qadv.quantization.clip import mask_gradient
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.scheme import Scheme


class _LearnedClipRound(torch.autograd.Function):
    """`α/n * round(n/α * clip(x, 0, α))`; `∂y/∂x = 1` on [0, α), `∂y/∂α = 1` where `x >= α`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, intervals: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        y = x.clamp(min=0).minimum(alpha.to(x.dtype))
        return y.mul_(intervals).div_(alpha).round_().div_(intervals).mul_(alpha)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        x, alpha = ctx.saved_tensors
        above = x >= alpha
        inside = mask_gradient(grad_outputs[0], x, 0.0, float("inf")).masked_fill(above, 0)
        return inside, (grad_outputs[0] * above).sum().to(alpha.dtype).reshape(alpha.shape), None


class LearnedClip(ActivationQuantizer):
    """2^k levels of [0, α], α learned for each layer and kept positive after each optimizer step.

    **Reading:** at x = α the gradient goes to α alone; α starts at 6, or where calibration puts it; the penalty is
    `λ α²` with λ = 1e-4, the weight decay of the ResNet-20 training it comes from. It is the only decay of α: qadv's
    trainers leave α out of weight decay.
    """

    takes_range = True
    alpha: nn.Parameter
    initial_alpha = 6.0
    decay = 1e-4

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.alpha = nn.Parameter(torch.tensor(self.initial_alpha))

    def set_range(self, high: float) -> None:
        with torch.no_grad():
            self.alpha.fill_(high)

    @property
    def intervals(self) -> int:
        return int(2**self.bits - 1)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self.alpha.detach() / self.intervals

    def quantize(self, x: Tensor) -> Tensor:
        return _LearnedClipRound.apply(x, self.alpha, self.intervals)  # type: ignore[no-any-return]

    def grid(self) -> tuple[float, float, int]:
        return 0.0, self.alpha.item(), self.intervals

    def levels(self) -> Tensor:
        return torch.arange(self.intervals + 1, device=self.alpha.device) / self.intervals * self.alpha.detach()

    def penalty(self) -> Tensor:
        """Returns `λ α²`, which training loops add to the loss."""
        return self.decay * self.alpha.square()

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps α positive."""
        self.alpha.clamp_(min=1e-3)


class Pact(Scheme):
    """`pact:1` … `pact:8`."""

    activations = LearnedClip
