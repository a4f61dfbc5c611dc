"""Gradients by autograd against central differences."""

from collections.abc import Callable

import torch
from torch import Tensor

_DIRECTIONS = 8


def disagreement(
    function: Callable[[Tensor], Tensor], x: Tensor, reference: Callable[[Tensor], Tensor] | None = None
) -> str | None:
    """Returns where the gradient of a function is not its slope, in words, or `None` where it is.

    The outputs are summed with random weights, and the slope is taken along random directions at `x`, (N, …) float64
    and away from kinks. One direction of eight may disagree: it may have met a kink. The slope expected is that of
    `reference`, if there is one.
    """
    generator = torch.Generator().manual_seed(0)
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    if not output.requires_grad:
        return "the output does not depend on the input as far as autograd knows"
    (gradient,) = torch.autograd.grad((output.double() * weights).sum(), leaf)
    if not bool(gradient.isfinite().all()):
        return "the gradient is NaN or infinite"
    exact = output.dtype == torch.float64
    step, tolerance = (1e-6, 1e-4) if exact else (1e-2, 5e-2)
    of = function if reference is None else reference
    wrong = []
    for _ in range(_DIRECTIONS):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            change = of(x + step * direction).double() - of(x - step * direction).double()
        slope = float((change * weights).sum() / (2 * step))
        given = float((gradient * direction).sum())
        scale = float(((gradient * direction) ** 2).sum().sqrt()) + abs(slope)
        if abs(slope - given) > tolerance * scale + 1e-9:
            wrong.append(f"{given:.4g} by autograd, {slope:.4g} by differences")
    return f"{len(wrong)} of {_DIRECTIONS} slopes differ, as {wrong[0]}" if len(wrong) > 1 else None
