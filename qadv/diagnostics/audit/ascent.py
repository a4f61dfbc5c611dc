"""PGD that tells what happened on its way, which ART's keeps to itself."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.attacks.draws import Generators, image_generators, uniform
from qadv.diagnostics.audit.losses import Loss
from qadv.diagnostics.audit.target import Flags, Images, Labels, Target

_RETURNS = (1 / 2, 3 / 4, 7 / 8)


@dataclass(frozen=True)
class Ascent:
    """What became of N images.

    Attributes:
        images: the first adversarial point of each, or else that of greatest loss, (N, *input_shape).
        highest: the point of greatest loss, as `images`.
        missed: adversarial somewhere on the path, and not at the point of greatest loss, (N,).
        losses: loss at the start and after each step, (steps + 1, N); NaN after an image has left.
    """

    images: Images
    highest: Images
    missed: Flags
    losses: NDArray[np.float32]


def ascend(
    target: Target,
    x: Images,
    y: Labels,
    *,
    loss: Loss,
    eps: float,
    steps: int,
    seed: int,
    random_start: bool = True,
    leave: bool = True,
) -> Ascent:
    """Makes steps along the sign of the gradient, projected on the L∞ ball and on `clip_values` (PGD).

    Step k of K has length `eps · (1 + cos(πk/K)) / 2`, and after a half, 3/4 and 7/8 of the steps each image goes on
    from its point of greatest loss, as in APGD: the loss of a quantized network is a staircase, on which steps of one
    length miss the narrow places. With one step and no random start it is FGSM.

    Args:
        target: whose gradients are followed.
        x: images, (N, *input_shape).
        y: labels, (N,).
        loss: what is made large.
        eps: radius.
        steps: number of steps.
        seed: decides, with an image's place in `x`, where it starts.
        random_start: start anywhere in the ball, not at the image.
        leave: an image that is adversarial makes no further steps.
    """
    parts = []
    for first in range(0, len(x), target.batch_size):
        rows = slice(first, first + target.batch_size)
        images, labels = torch.from_numpy(x[rows]).to(target.device), torch.from_numpy(y[rows]).to(target.device)
        generators = image_generators(seed, range(first, first + len(images)), target.device)
        parts.append(_ascend(target, images, labels, loss, eps, steps, generators if random_start else None, leave))
    points, highest, missed, losses = zip(*parts, strict=True)
    joined = torch.cat(points), torch.cat(highest), torch.cat(missed), torch.cat(losses, dim=1)
    return Ascent(*(tensor.cpu().numpy() for tensor in joined))


def _ascend(
    target: Target,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    eps: float,
    steps: int,
    generators: Generators | None,
    leave: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    low, high = (x - eps).clamp(min=target.low), (x + eps).clamp(max=target.high)
    current = x.clone() if generators is None else _between(x + eps * uniform(generators, x.shape[1:]), low, high)
    found, hit = current.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    highest, slopes, hit_there = current.clone(), torch.zeros_like(x), hit.clone()
    most = torch.full((len(x),), -torch.inf, device=x.device)
    losses = torch.full((steps + 1, len(x)), torch.nan, device=x.device)
    active = torch.arange(len(x), device=x.device)
    returns = {round(part * steps) for part in _RETURNS}
    for number in range(steps + 1):
        logits, values, slope = target.gradient(current[active], y[active], loss)
        losses[number, active] = values
        won = target.wins(logits, y[active])
        new = active[won & ~hit[active]]
        found[new], hit[new] = current[new], True
        better = values > most[active]
        higher = active[better]
        highest[higher], slopes[higher] = current[higher], slope[better]
        most[higher], hit_there[higher] = values[better], won[better]
        if leave:
            active, slope = active[~won], slope[~won]
        if number == steps or len(active) == 0:
            break
        if number in returns:
            current[active], slope = highest[active], slopes[active]
        step = eps * (1 + math.cos(math.pi * number / steps)) / 2
        current[active] = _between(current[active] + step * slope.nan_to_num(0.0).sign(), low[active], high[active])
    by_image = hit.view(-1, *[1] * (x.ndim - 1))
    return torch.where(by_image, found, highest), highest, hit & ~hit_there, losses


def _between(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)
