"""Clipped and uniformly quantized activations, docs/methods.md §1 `relu6`, `relu1` (DQ §2.1, §5.3)."""

import math
from typing import Any

import torch
from torch import Tensor

from qadv.derivatives import is_recorded
from qadv.quantization.clip import mask_gradient, round_to_steps
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.scheme import Scheme

_LEAST_BOUND = 1e-36  # of a smaller one the inverse of a step is no float32


def _clip_round(x: Tensor, low: float, high: float, intervals: int) -> Tensor:
    return round_to_steps(x.clamp(low, high), intervals, high - low, signed=low < 0)


class _ClipRound(torch.autograd.Function):
    """`step * round(clip(x, low, high) / step)`; gradient 1 on [low, high], else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, intervals: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return _clip_round(x, low, high, intervals)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        low, high = ctx.bounds
        return mask_gradient(grad_outputs[0], ctx.saved_tensors[0], low, high), None, None, None


class UniformActivation(ActivationQuantizer):
    """2^k levels of [0, c], both ends included: `c/n * round(n/c * clip(a, 0, c))`, `n = 2^k - 1`, ties to even.

    With signs there are 2^k - 1 levels of [-c, c] with zero among them (at 1 bit the two levels -c and c).
    **Reading:** the papers quantize ReLUs only. The input of a layer that reads a sum or a linear bottleneck, or stands
    in a network without ReLU, has both signs, so the clip is mirrored.
    """

    bound: float

    @property
    def low(self) -> float:
        return -self.bound if self.signed else 0.0

    @property
    def intervals(self) -> int:
        steps = int(2**self.bits - 1)  # a property of `super()` is none for torch.compile
        return max(steps - 1, 1) if self.signed else steps

    def grid(self) -> tuple[float, float, int]:
        return self.low, self.bound, self.intervals

    def levels(self) -> Tensor:
        steps = torch.arange(self.intervals + 1) - (self.intervals / 2 if self.signed else 0)
        return steps * ((self.bound - self.low) / self.intervals)


class ClippedUniform(UniformActivation):
    """Uniform levels with the bound c as a number; gradient 1 on the range, both ends included, else 0."""

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.register_buffer("scale", torch.tensor((self.bound - self.low) / self.intervals), persistent=False)

    def cap(self, ceiling: float) -> None:
        """Ends the range at `ceiling` where it would go beyond; see `ActivationQuantizer.cap`."""
        self.ceiling = ceiling
        if self.bound > ceiling:
            self._clip_at(ceiling)

    def _clip_at(self, bound: float) -> None:
        self.bound = _LEAST_BOUND if 0 < bound < _LEAST_BOUND else bound
        self.scale.fill_((self.bound - self.low) / self.intervals)

    def quantize(self, x: Tensor) -> Tensor:
        recorded = is_recorded(x) or torch._C._get_tracing_state()
        rounded = _ClipRound.apply if recorded else _clip_round
        return rounded(x, self.low, self.bound, self.intervals)


class _ReLU6(ClippedUniform):
    bound = 6.0


class _SignedReLU6(_ReLU6):
    signed = True


class _ReLU1(ClippedUniform):
    bound = 1.0


class _SignedReLU1(_ReLU1):
    signed = True


class _ReLU(ClippedUniform):
    """The bound c is a buffer, unknown until calibration sets it or a state dict brings it."""

    takes_range = True
    bound = math.nan
    limit: Tensor

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.register_buffer("limit", torch.tensor(math.nan))

    def set_range(self, high: float) -> None:
        self.limit.fill_(high)
        self._clip_at(self.limit.item())

    @property
    def has_range(self) -> bool:
        return math.isfinite(self.bound)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.set_range(self.limit.item())


class _SignedReLU(_ReLU):
    signed = True


class ReLU(Scheme):
    """`relu:1` … `relu:8`: clip to [0, c], 2^k levels, c of each layer from data (`quantize(..., calibration=x)`)."""

    activations = _ReLU
    inputs = _SignedReLU


class ReLU6(Scheme):
    """`relu6:1` … `relu6:8`: clip to [0, 6], 2^k levels."""

    activations = _ReLU6
    inputs = _SignedReLU6
    from_data = ReLU


class ReLU1(Scheme):
    """`relu1:1` … `relu1:8`: clip to [0, 1], 2^k levels."""

    activations = _ReLU1
    inputs = _SignedReLU1
    from_data = ReLU
