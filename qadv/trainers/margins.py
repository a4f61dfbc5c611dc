"""How far images are from the decision boundary along given directions: doubling, then bisection, all rows at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qadv.attacks.draws import image_generators, normal
from qadv.units import limits

_FIRST, _LEAST = 1 / 16, 1 / 1024  # of max_distance


@torch.no_grad()
def margins(
    predict_classes: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    directions: Tensor,
    max_distance: float,
    *,
    clip_values: tuple[float, float] | None = None,
    tolerance: float = 0.05,
    nearest: int | None = None,
    batch_size: int = 512,
) -> Tensor:
    """Returns for each image and direction the distance at which the predicted class first differs from the label.

    Distances are tried from `max_distance`/16 on, each twice the last, until the class has changed; then the interval
    that it changed in is bisected. Of several changes along a direction the first that was seen counts.

    Args:
        predict_classes: up to `batch_size` images → classes.
        x, y: images, (N, *shape), and labels, (N,).
        directions: (N, K, *shape), of length 1 for margins in L2.
        clip_values: what x + t·direction is clipped to, if anything; t is measured before that.
        tolerance: width of the last interval as a part of the distance (of `max_distance`/1024, if that is more).
        nearest: only this many of an image's smallest margins are wanted; of others, upper bounds.

    Returns:
        (N, K) float32: the upper ends of the last intervals, where the class differs for certain; 0 for an image that
        is not classified as its label, inf where no change was seen up to `max_distance`.
    """
    nb_directions = directions.shape[1]
    steps = directions.flatten(0, 1)
    pixels = [1] * (x.ndim - 1)
    end = torch.tensor(max_distance, dtype=torch.float32).item()  # rounded, so that distances reach it exactly

    def differs(rows: Tensor, distances: Tensor) -> Tensor:
        """Whether the class has changed at these distances, (M,); rows count images and directions."""
        found = []
        for own, t in zip(torch.split(rows, batch_size), torch.split(distances, batch_size), strict=True):
            moved = (x[own // nb_directions] + t.view(-1, *pixels) * steps[own]).clamp(*limits(clip_values))
            found.append(predict_classes(moved) != y[own // nb_directions])
        return torch.cat(found)

    below = torch.zeros(len(steps), device=x.device)  # the last distance without a change
    above = torch.full_like(below, torch.inf)  # the smallest with one
    wrong = torch.cat([predict_classes(part) for part in torch.split(x, batch_size)]) != y
    above[wrong.repeat_interleave(nb_directions)] = 0
    active = (above > 0).nonzero()[:, 0]
    while len(active):
        low, high = below[active], above[active]
        doubled = (2 * low).clamp(min=_FIRST * end, max=end)
        middle = torch.where(high.isinf(), doubled, (low + high) / 2)
        changed = differs(active, middle)
        above[active] = high = torch.where(changed, middle, high)
        below[active] = low = torch.where(changed, low, middle)
        wide = high - low > tolerance * high.clamp(min=_LEAST * end)
        going_on = torch.where(high.isinf(), low < end, wide)
        if nearest is not None and nearest < nb_directions:
            limit = above.view(-1, nb_directions).kthvalue(nearest, dim=1).values
            going_on &= low < limit[active // nb_directions]
        active = active[going_on]
    return above.view(-1, nb_directions)


def unit_directions(seed: int, indices: Sequence[int], number: int, shape: Sequence[int]) -> Tensor:
    """Returns random directions of length 1, uniform on the sphere, (len(indices), number, *shape), on the CPU.

    What an image gets is decided by the seed and its own index alone, on every device.
    """
    drawn = normal(image_generators(seed, indices, torch.device("cpu")), (number, math.prod(shape)))
    return drawn.div_(drawn.norm(dim=2, keepdim=True)).view(len(indices), number, *shape)
