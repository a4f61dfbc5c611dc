"""One step of projected gradient ascent (PGD), L∞, shared by training and audit."""

import torch
from torch import Tensor


def ball(x: Tensor, eps: Tensor | float, clip_values: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Returns the least and the greatest pixels within `eps` of images `x` and within `clip_values`, each as `x`."""
    low, high = x - eps, x + eps
    return (low, high) if clip_values is None else (low.clamp(min=clip_values[0]), high.clamp(max=clip_values[1]))


def between(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns images `x` projected on a `ball`."""
    return torch.minimum(torch.maximum(x, low), high)


def step(x: Tensor, slope: Tensor, size: Tensor | float, low: Tensor, high: Tensor) -> Tensor:
    """Returns images moved by `size` along the sign of `slope`, projected on a `ball`."""
    return between(x + size * slope.sign(), low, high)
