"""Square: random squares, one query a step."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from qadv.attacks import (
    Count,
    Found,
    FunctionAttack,
    Generators,
    Length,
    OneOf,
    Part,
    Radius,
    margin,
    signs,
    uniform,
    wins,
)
from qadv.errors import InvalidInputError
from qadv.units import Share

# the share of pixels in a square is halved after each of these steps, of 10,000
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TILES = 5
_LEAST_SIDE_OF_L2 = 3
_TINY = 1e-12


def square(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    clip_values: tuple[float, float],
    generators: Generators,
    eps: Annotated[Length, Field(ge=0), Radius("norm")] = Share(8 / 255),
    max_iter: Count = 5000,
    p_init: Part = 0.8,
    targeted: bool = False,
    norm: Annotated[float, OneOf(2, math.inf)] = math.inf,
) -> Iterator[Found]:
    """Black-box attack that tries squares at the edge of the ball and keeps what lowers the margin, L∞ or L2.

    L∞ starts at vertical stripes of ±ε; each step changes one square of the image's own, of random place and sign, and
    the squares get smaller. L2 starts at 5 × 5 bumps; a step empties one square and puts a bump in another. One query a
    step, and none after the first success. docs/attacks/square.md says it in full.

    Source: Andriushchenko et al., ECCV 2020, arXiv:1912.00049, algorithms 1 to 3, with the authors' schedule.
    **Reading:** the margin is the loss of a targeted attack too, where the authors' code takes the cross-entropy.

    Args:
        eps: radius of the ball, in pixel values, at least 0; default 8/255 of their range.
        max_iter: queries for one image, at least 1.
        p_init: share of the pixels in the first squares, above 0 and below 1.
        norm: infinity or 2.
        others: see `FunctionAttack`; images are (C, H, W).
    """
    _, channels, height, width = x.shape
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)

    def in_ball(images: Tensor, centre: Tensor) -> Tensor:
        return images.clamp(centre - eps, centre + eps).clamp(*clip_values)

    def at_edge(change: Tensor, centre: Tensor) -> Tensor:
        scaled: Tensor = eps * change / _length(change, (1, 2, 3))
        return (centre + scaled).clamp(*clip_values)

    def corner(place: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Returns the row, (n, h, 1), and the column, (n, 1, w), of each pixel in squares at places in [0, 1)."""
        top = (place[:, 0] * (height - side + 1)).long()[:, None]
        left = (place[:, 1] * (width - side + 1)).long()[:, None]
        return (rows - top)[:, :, None], (columns - left)[:, None]

    # all draws of an image come first, so that an image that is done takes none of another's
    if norm == 2:
        turned, tiles = (signs(generators, (_TILES, _TILES)) > 0, signs(generators, (channels, _TILES, _TILES)))
        best = at_edge(_tiled(turned, tiles, height, width), x)
    else:
        best = in_ball(x + eps * signs(generators, (channels, 1, width)), x)
    places = (uniform(generators, (max_iter, 2)) + 1) / 2
    colours = signs(generators, (max_iter, channels, 1, 1))
    if norm == 2:
        others = (uniform(generators, (max_iter, 2)) + 1) / 2
        upright = signs(generators, (max_iter, 1, 1)) > 0

    def moved(on: Tensor, step: int, side: int) -> Tensor:
        row, column = corner(places[on, step], side)
        inside = _inside(row, column, side)
        if norm != 2:
            return in_ball(best[on] + 2 * eps * inside * colours[on, step], x[on])
        change = best[on] - x[on]
        second = _inside(*corner(others[on, step], side), side)
        bump = _bump(side, x)
        row, column = row.clamp(0, side - 1), column.clamp(0, side - 1)
        bump = torch.where(upright[on, step], bump[row, column], bump.T[row, column])
        bump = bump[:, None] * inside * colours[on, step]
        bump = bump + change * inside / _length(change * inside, (2, 3))
        room = (eps**2 - _length(change, (1, 2, 3)) ** 2).clamp(min=0) / channels
        room = room + _length(change * (inside | second), (2, 3)) ** 2
        bump = bump / _length(bump, (2, 3)) * room.sqrt()
        return at_edge(torch.where(inside, bump, change * ~second), x[on])

    answers = logits(best)
    least = margin(answers, y, targeted)
    queries = torch.ones(len(x), dtype=torch.int64, device=x.device)
    active = torch.nonzero(~wins(answers, y, targeted))[:, 0]
    yield Found(best, queries)
    for step in range(1, max_iter):
        if len(active) == 0:
            return
        side = _side(step, max_iter, p_init, height, width)
        if norm == 2:
            side = min(max(side, _LEAST_SIDE_OF_L2), height, width)
        tried = moved(active, step, side)
        answers = logits(tried)
        queries[active] += 1
        won = wins(answers, y[active], targeted)
        score = margin(answers, y[active], targeted)
        better = won | (score < least[active])
        best[active[better]], least[active[better]] = tried[better], score[better]
        active = active[~won]
        yield Found(best, queries)


def _side(step: int, max_iter: int, p_init: float, height: int, width: int) -> int:
    """Returns the side of the squares of one step, in pixels: the published schedule, stretched to `max_iter` steps."""
    of_ten_thousand = step * 10_000 // max_iter
    share = p_init / 2 ** sum(of_ten_thousand > after for after in _HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _inside(row: Tensor, column: Tensor, side: int) -> Tensor:
    """Returns which pixels of images are in squares, (n, 1, h, w)."""
    return ((row >= 0) & (row < side) & (column >= 0) & (column < side))[:, None]


def _length(change: Tensor, axes: tuple[int, ...]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(change, dim=axes, keepdim=True)
    return length + _TINY


def _bump(side: int, like: Tensor) -> Tensor:
    """Returns a square of length 1, a peak in its upper half and a hole in its lower one, (side, side).

    At d steps along rows or columns from the middle of its half it is Σ 1/(k + 1)² over k from d to side // 2.
    """

    terms = 1 / torch.arange(1, side // 2 + 2, device=like.device, dtype=like.dtype) ** 2
    rings = terms.flip(0).cumsum(0).flip(0)

    def peak(height: int) -> Tensor:
        row, column = (torch.arange(n, device=like.device) for n in (height, side))
        found = rings[torch.maximum((row - height // 2).abs()[:, None], (column - side // 2).abs())]
        return found / _length(found, (0, 1))

    made = torch.cat([peak(side // 2), -peak(side - side // 2)])
    return made / _length(made, (0, 1))


def _tiled(turned: Tensor, tiles: Tensor, height: int, width: int) -> Tensor:
    """Returns bumps that fill images, (n, channels, height, width): which lie, (n, 5, 5), and their signs."""
    side = max(1, min(height, width) // _TILES)
    bump = _bump(side, tiles)
    bumps = torch.where(turned[:, None, :, :, None, None], bump, bump.T) * tiles[..., None, None]
    filled = bumps.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
    rest = width - filled.shape[3], height - filled.shape[2]
    return torch.nn.functional.pad(filled, (rest[0] // 2, rest[0] - rest[0] // 2, rest[1] // 2, rest[1] - rest[1] // 2))


class Square(FunctionAttack):
    run = square

    def _check_params(self) -> None:
        super()._check_params()
        shape = tuple(self.estimator.input_shape)
        if len(shape) != 3:
            raise InvalidInputError(f"estimator: squares need images of shape (C, H, W), got input_shape {shape}")
