"""PACT: activations with a learned clip, docs/methods.md §1 `pact` (pipeline study)."""

from typing import Any

import torch
from torch import Tensor, nn

from qadv.quantization.clip import round_to_steps
from qadv.quantization.clipped_relu import UniformActivation
from qadv.quantization.scheme import Scheme


class _LearnedClipRound(torch.autograd.Function):
    """`α/n * round(n/α * clip(x, 0, α))`; `∂y/∂x = 1` on [0, α), `∂y/∂α = 1` where `x >= α`.

    With signs, the n steps are those of [-α, α], `∂y/∂x = 1` on (-α, α), and `∂y/∂α = -1` where `x <= -α`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, intervals: int, signed: bool) -> Tensor:
        ctx.save_for_backward(x, alpha)
        ctx.signed = signed
        high = alpha.to(x.dtype)
        y = (x.maximum(-high) if signed else x.clamp(min=0)).minimum(high)
        return round_to_steps(y, intervals, alpha * 2 if signed else alpha, signed=signed)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, alpha = ctx.saved_tensors
        above, below = x >= alpha, x <= -alpha if ctx.signed else x < 0
        inside = grad_outputs[0].masked_fill(above | below, 0)
        to_alpha = grad_outputs[0] * above
        if ctx.signed:
            to_alpha = to_alpha - grad_outputs[0] * below
        return inside, to_alpha.sum().to(alpha.dtype).reshape(alpha.shape), None, None


class LearnedClip(UniformActivation):
    """Uniform levels of [0, α], α learned for each layer, kept positive and below the replaced activation's own bound.

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
    def bound(self) -> float:  # type: ignore[override]
        return self.alpha.item()

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return (self.alpha.detach() * (2 if self.signed else 1)) / self.intervals

    def quantize(self, x: Tensor) -> Tensor:
        return _LearnedClipRound.apply(x, self.alpha, self.intervals, self.signed)  # type: ignore[no-any-return]

    def penalty(self) -> Tensor:
        """Returns `λ α²`, which training loops add to the loss."""
        return self.decay * self.alpha.square()

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps α positive, and at most the bound of the activation that was replaced."""
        self.alpha.clamp_(min=1e-3, max=self.ceiling)


class SignedLearnedClip(LearnedClip):
    """The same for inputs of both signs, levels of [-α, α]."""

    signed = True


class Pact(Scheme):
    """`pact:1` … `pact:8`."""

    activations = LearnedClip
    inputs = SignedLearnedClip
