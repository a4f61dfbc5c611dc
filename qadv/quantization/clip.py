"""Clips whose gradient is the papers' mask: exactly 1 inside the range, both ends included, and 0 outside."""

import bisect
import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return mask_gradient(grad_outputs[0], ctx.saved_tensors[0], *ctx.bounds), None, None


def inclusive_clip(x: Tensor, low: float, high: float) -> Tensor:
    """Returns `x` clipped to [low, high].

    torch's own `clamp` gives 0, ½ or 1 at the ends, depending on its version and on the type of the bounds.
    """
    return _Clip.apply(x, low, high)  # type: ignore[no-any-return]


def mask_gradient(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Returns `gradient` where `low <= x <= high`, and 0 elsewhere, in one fused kernel."""
    if x.ndim == 4 and not x.is_contiguous():  # channels last: the kernel is slow where the two lie otherwise in memory
        gradient = gradient.movedim(1, -1).contiguous().movedim(-1, 1)
    # the kernel masks out the ends themselves, so they are moved outwards by one float
    low, high = _next_float(low, -1, x.dtype), _next_float(high, 1, x.dtype)
    return torch.ops.aten.hardtanh_backward(gradient, x, low, high)  # type: ignore[no-any-return]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _next_float(bound: float, direction: int, dtype: torch.dtype) -> float:
    return _computed_next_float(bound, direction, dtype)


@cache
def _computed_next_float(bound: float, direction: int, dtype: torch.dtype) -> float:
    towards = torch.tensor(direction * math.inf, dtype=dtype)
    return torch.nextafter(torch.tensor(bound, dtype=dtype), towards).item()


def round_to_steps(y: Tensor, intervals: int, width: float | Tensor, *, signed: bool) -> Tensor:
    """Rounds `y` in place to multiples of `width / intervals`, ties to even; returns it.

    With signs and an odd number of intervals there is no level at 0, but one half a step to each side of it.
    """
    inverse, step = intervals / width, width / intervals
    if not isinstance(width, Tensor) and _is_plain(y):
        inverse, step = _constant(inverse), _constant(step)  # a number would be made a tensor, anew each time
    y.mul_(inverse)
    if signed and intervals % 2:
        y.add_(0.5).round_().sub_(0.5)
    else:
        y.round_()
    return y.mul_(step)


def _is_plain(y: Tensor) -> bool:
    """Whether float32 values are computed now, and nothing traces that: what is made under a trace is part of it."""
    traced = type(y) is not Tensor or torch.compiler.is_compiling() or torch._C._get_tracing_state()
    return y.dtype == torch.float32 and not traced


@lru_cache(maxsize=4096)
def _constant(value: float) -> Tensor:
    return torch.from_numpy(np.asarray(value, dtype=np.float32))  # on the processor, whatever torch's default device


def last_float(passes: Callable[[Any], Any]) -> Any:
    """Returns the largest float32 that passes; with one all smaller ones do."""

    def number(key: int) -> Any:
        return np.float32(math.copysign(1, key)) * np.uint32(abs(key)).view(np.float32)

    infinity = int(np.float32(math.inf).view(np.uint32))
    keys = range(-infinity, infinity + 1)
    with np.errstate(all="ignore"):
        return number(keys[bisect.bisect_left(keys, True, key=lambda key: not passes(number(key))) - 1])
