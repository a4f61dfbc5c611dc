"""Adversarial images for a fleet that runs one network at several precisions, as the 8-bit images that devices get."""

from collections.abc import Sequence
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from qadv.attacks import Count, Eps, Found, FunctionAttack, Generators, PositiveLength, margin, uniform
from qadv.errors import InvalidInputError
from qadv.estimators import as_module
from qadv.units import Share

_LEVELS = 255
_TINY = 1e-4  # of a level, by which float32 pixels may miss theirs


def rounded_transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generators: Generators,
    eps: Eps = Share(8 / 255),
    eps_step: PositiveLength = Share(2 / 255),
    max_iter: Count = 20,
    others: Sequence[Any] = (),
    targeted: bool = False,
) -> Found:
    """White-box L∞ attack on several networks at once, whose result is an 8-bit image.

        x_k+1 = Π(x_k - η · sign ∇ Σ_i m_i(r(x_k))),
        r(x) = clip(round(255 x), ⌈255 (x₀ - ε)⌉, ⌊255 (x₀ + ε)⌋) / 255

    from a random point of the ball; m_i is the margin `z_y - max_{c≠y} z_c` of network i (its negative for a target),
    the sum is over the networks that are not fooled yet, or over all once none is left, and the rounding r to the
    nearest 8-bit image in the ball has the gradient of the identity. Of all r(x_k) the one is kept that fools most
    networks, and of those the one with the least mean margin. A pixel in whose interval there is no 8-bit level stays
    as it is. Each image is sent `max_iter + 1` times through each network.

    Args:
        eps: ε, radius of the ball, in pixel values, at least 0; default 8/255 of their range.
        eps_step: η, > 0; default 2/255.
        max_iter: steps.
        others: further ART classifiers for the same images, as the same network at other precisions.
        targeted: see `qadv.FunctionAttack`.
    """
    models = [model, *map(as_module, others)]
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    least, most = (_LEVELS * low - _TINY).ceil(), (_LEVELS * high + _TINY).floor()

    def rounded(points: Tensor) -> Tensor:
        levels = torch.minimum(torch.maximum((_LEVELS * points).round(), least), most)
        return torch.where(least <= most, levels / _LEVELS, x)

    points = (x + eps * uniform(generators, x.shape[1:])).clamp(low, high)
    best, score = x.clone(), torch.full(y.shape, -torch.inf, device=x.device)
    for step in range(max_iter + 1):
        images = rounded(points).requires_grad_()
        margins = torch.stack([margin(each(images), y, targeted) for each in models])
        mean = margins.mean(dim=0)
        now = (margins < 0).sum(dim=0) - mean.detach().sigmoid()  # the mean margin decides between equal numbers
        better = now > score
        best[better], score[better] = images.detach()[better], now[better]
        if step < max_iter:
            left = (margins >= 0) | (margins < 0).all(dim=0)
            (slope,) = torch.autograd.grad(margins[left].sum(), images)
            points = (points - eps_step * slope.sign()).clamp(low, high)
    return Found(best, torch.full_like(y, max_iter + 1))


class RoundedTransfer(FunctionAttack):
    run = rounded_transfer

    def _check_params(self) -> None:
        super()._check_params()
        for other in self.others:
            if not isinstance(other, PyTorchClassifier):
                raise InvalidInputError(f"others: expected ART PyTorchClassifiers, got {type(other).__name__}")
            as_module(other)  # refuses what it can't take
