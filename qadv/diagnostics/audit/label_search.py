"""RayS: an attack that asks for nothing but predicted classes."""

import torch
from torch import Tensor

from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.target import Images, Labels, Target

_HALVINGS = 7
_NEARER = 1 - 2.0**-_HALVINGS


def rays(target: Target, x: Images, y: Labels, ball: Ball, steps: int) -> Images:
    """Searches the corners' directions for the one in which the other class is nearest.

    From all pixels brighter, each step turns the direction round in one part of the image, and keeps it if the image
    is adversarial there at a little less than the best distance so far; how near it can be is then found by halving.
    Parts are the whole image, then halves, quarters, … of its values in order. An image that is adversarial within the
    ball is done. Nothing is random.

    Source: Chen, Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", KDD 2020, arXiv:2006.12792,
    algorithm 3.

    Args:
        target: whose classes are asked.
        x, y: images, (N, *input_shape), and labels, (N,), or the target's classes.
        ball: what results keep to.
        steps: directions tried, one query each, and 7 more for each that is kept.

    Returns:
        The nearest adversarial image of each, projected on the ball; where none was found, the image.
    """
    images, values = torch.from_numpy(x), x[0].size
    direction = torch.ones(len(x), values)
    distance = torch.full((len(x),), ball.high - ball.low)
    found, done = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.bool)

    def at(rows: Tensor, size: Tensor, towards: Tensor) -> Tensor:
        moved = images[rows].flatten(1) + size[:, None] * towards
        return moved.view(-1, *images.shape[1:]).clamp(ball.low, ball.high)

    def wins(rows: Tensor, size: Tensor, towards: Tensor) -> Tensor:
        return torch.from_numpy(target.broken(at(rows, size, towards).numpy(), y[rows.numpy()]))

    parts, part = 1, 0
    for number in range(steps):
        rows = torch.nonzero(~done)[:, 0]
        if not len(rows):
            break
        turned = direction[rows].clone()
        if number:
            ends = torch.linspace(0, values, parts + 1).long()
            turned[:, ends[part] : ends[part + 1]] *= -1
            part += 1
            if part == parts:
                parts, part = min(2 * parts, values), 0
        better = wins(rows, distance[rows] * _NEARER, turned)
        rows, turned = rows[better], turned[better]
        if not len(rows):
            continue
        direction[rows], found[rows] = turned, True
        low, high = torch.zeros(len(rows)), distance[rows] * _NEARER
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            nearer = wins(rows, middle, turned)
            low, high = torch.where(nearer, low, middle), torch.where(nearer, middle, high)
        distance[rows] = high
        done[rows] = high <= ball.side(values)
    everything = torch.arange(len(x))
    nearest = ball.project(at(everything, distance, direction), images)
    return torch.where(found.view(-1, *[1] * (images.ndim - 1)), nearest, images).numpy()
