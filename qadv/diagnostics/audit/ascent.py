"""PGD that tells what happened on its way, which ART's keeps to itself."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.attacks.draws import Generators, image_generators
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.losses import Loss, margin_towards
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
        flat: share of the points on its path at which an image's gradient was zero in all pixels, 0 to 1, (N,).
        live: pixels in which an image's gradient was not zero somewhere on its path, (N, *input_shape) bool.
    """

    images: Images
    highest: Images
    missed: Flags
    losses: NDArray[np.float32]
    flat: NDArray[np.float32]
    live: NDArray[np.bool_]


def ascend(
    target: Target,
    x: Images,
    y: Labels,
    *,
    loss: Loss,
    ball: Ball,
    steps: int,
    seed: int,
    goals: Labels | None = None,
    random_start: bool = True,
    leave: bool = True,
) -> Ascent:
    """Makes steps along the gradient, or in an L∞ ball its sign, projected on the ball (PGD).

    Step k of K has length `eps · (1 + cos(πk/K)) / 2`, and after a half, 3/4 and 7/8 of the steps each image goes on
    from its point of greatest loss, as in APGD: the loss of a quantized network is a staircase, on which steps of one
    length miss the narrow places. With one step and no random start it is FGSM.

    Args:
        target: whose gradients are followed.
        x, y: images, (N, *input_shape), and labels, (N,).
        loss: what is made large, where there are no `goals`.
        goals: classes, (N,), of which each image's logit is made large against that of its label.
        ball: what the steps keep to.
        seed: decides, with an image's place in `x`, where it starts.
        random_start: start anywhere in the ball, not at the image.
        leave: an image that is adversarial makes no further steps.
    """
    if not len(x):
        none = np.zeros(0, dtype=np.float32)
        return Ascent(x, x, none > 0, none.reshape(0, steps + 1).T, none, x > 0)
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, len(x), target.batch_size):
        rows = slice(first, first + target.batch_size)
        images, labels, *aims = target.tensors(x[rows], y[rows], *([] if goals is None else [goals[rows]]))
        generators = image_generators(seed, range(first, first + len(images)), target.device)
        starts = generators if random_start else None
        parts.append(_ascend(target, images, labels, loss, aims[0] if aims else None, ball, steps, starts, leave))
    points, highest, missed, losses, flat, live = zip(*parts, strict=True)
    joined = [*map(torch.cat, (points, highest, missed)), torch.cat(losses, dim=1), torch.cat(flat), torch.cat(live)]
    return Ascent(*(tensor.cpu().numpy() for tensor in joined))


def _ascend(
    target: Target,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    goals: Tensor | None,
    ball: Ball,
    steps: int,
    generators: Generators | None,
    leave: bool,
) -> tuple[Tensor, ...]:
    current = x.clone() if generators is None else ball.random(x, generators)
    found, hit = current.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    highest, slopes, hit_there = current.clone(), torch.zeros_like(x), hit.clone()
    most = torch.full((len(x),), -torch.inf, device=x.device)
    losses = torch.full((steps + 1, len(x)), torch.nan, device=x.device)
    active = torch.arange(len(x), device=x.device)
    flat, seen, live = torch.zeros_like(most), torch.zeros_like(most), torch.zeros_like(x, dtype=torch.bool)
    returns = {round(part * steps) for part in _RETURNS}
    for number in range(steps + 1):
        aimed = loss if goals is None else margin_towards(goals[active])
        logits, values, slope = target.gradient(current[active], y[active], aimed)
        flat[active] += (slope == 0).flatten(1).all(dim=1)
        seen[active] += 1
        live[active] |= slope != 0
        losses[number, active] = values
        won = target.wins(logits, y[active])
        new = active[won & ~hit[active]]
        found[new], hit[new] = current[new], True
        better = values >= most[active]  # on a plateau it goes on
        higher = active[better]
        highest[higher], slopes[higher] = current[higher], slope[better]
        most[higher], hit_there[higher] = values[better], won[better]
        if leave:
            active, slope = active[~won], slope[~won]
        if number == steps or len(active) == 0:
            break
        if number in returns:
            current[active], slope = highest[active], slopes[active]
        size = ball.eps * (1 + math.cos(math.pi * number / steps)) / 2
        current[active] = ball.step(current[active], slope.nan_to_num(0.0), size, x[active])
    by_image = hit.view(-1, *[1] * (x.ndim - 1))
    return torch.where(by_image, found, highest), highest, hit & ~hit_there, losses, flat / seen, live
