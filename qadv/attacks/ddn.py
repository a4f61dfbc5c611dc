"""DDN: the smallest L2 perturbation, direction and norm apart."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from qadv.attacks import Count, Found, FunctionAttack, Generators, Length, Part, Radius, normal, wins
from qadv.units import Share

_LEAST_STEP = 0.01  # as all steps, in shares of the range
_STEPS_OF_8_BITS = 255


def ddn(
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    clip_values: tuple[float, float],
    generators: Generators,
    init_eps: Annotated[Length, Field(gt=0), Radius(2)] = Share(1.0),
    gamma: Part = 0.05,
    max_iter: Count = 100,
    quantize: bool = False,
    targeted: bool = False,
) -> Iterator[Found]:
    """White-box attack for the smallest L2 perturbation that is adversarial; docs/attacks/ddn.md has the equations.

    In each step δ goes along the gradient of the cross-entropy, or in a random direction where that is zero, and its
    norm is made smaller where x + δ was adversarial, else larger. The result is the nearest adversarial image, the
    original itself if it is adversarial; **where none was found, it is the original**. All steps are made for all
    images: one query and one gradient each.

    Source: Rony et al., CVPR 2019, arXiv:1811.09600, algorithm 1.

    Args:
        init_eps: ε₀, first L2 norm, in pixel values, above 0; default the width of the pixels' range.
        gamma: γ, by which the norm changes, above 0 and below 1.
        max_iter: steps, at least 1; the first sees the original image.
        quantize: round to the 256 levels of 8-bit images in each step, so that the result can be stored as one.
        others: see `FunctionAttack`.
    """
    low, high = clip_values
    by_image = (-1, *[1] * (x.ndim - 1))
    farthest = _norm(torch.maximum(x - low, high - x))
    eps = torch.full_like(farthest, init_eps)
    current, best, best_norm = x, x, torch.full_like(farthest, torch.inf)
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    no_gradient = None
    for step in range(max_iter):
        logits, direction = gradient(current, y)
        queries += 1
        won = wins(logits, y, targeted)
        change = current - x
        distance = _norm(change)
        better = won & (distance < best_norm)
        best = torch.where(better.view(by_image), current, best)
        best_norm = torch.where(better, distance, best_norm)
        flat = _norm(direction) == 0
        no_gradient = flat if no_gradient is None else no_gradient
        yield Found(best, queries, no_gradient)

        if flat.any():
            direction[flat] = normal([generators[i] for i in flat.nonzero()[:, 0].tolist()], x.shape[1:])
        share = _LEAST_STEP + (1 - _LEAST_STEP) * (1 + math.cos(math.pi * step / max_iter)) / 2
        size = (high - low) * share
        change = change + (-size if targeted else size) * _unit(direction)
        eps = torch.minimum(eps * torch.where(won, 1 - gamma, 1 + gamma), farthest)
        current = (x + eps.view(by_image) * _unit(change)).clamp(low, high)
        if quantize:
            levels = (current - low) / (high - low) * _STEPS_OF_8_BITS
            current = low + (high - low) * (levels.round() / _STEPS_OF_8_BITS)


def _norm(batch: Tensor) -> Tensor:
    """Returns the L2 norm of each image, (N,)."""
    norm: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return norm


def _unit(batch: Tensor) -> Tensor:
    """Returns each image divided by its L2 norm; zeros stay zeros."""
    length = _norm(batch).view(-1, *[1] * (batch.ndim - 1))
    return batch / torch.where(length > 0, length, 1)


class DDN(FunctionAttack):
    run = ddn
