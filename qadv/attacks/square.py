"""Square: random squares, one query a step."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from qadv.attacks import Count, Eps, Found, FunctionAttack, Generators, Part, margin, signs, uniform, wins
from qadv.errors import InvalidInputError
from qadv.units import Share

# the share of pixels in a square is halved after each of these steps, of 10,000
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    clip_values: tuple[float, float],
    generators: Generators,
    eps: Eps = Share(8 / 255),
    max_iter: Count = 5000,
    p_init: Part = 0.8,
    targeted: bool = False,
) -> Iterator[Found]:
    """Black-box L∞ attack that tries squares at the edge of the ball and keeps what lowers the margin.

    Starts at vertical stripes of ±ε; each step changes one square of the image's own, of random place and sign, and the
    squares get smaller. One query a step, and none after the first success. docs/attacks/square.md says it in full.

    Source: Andriushchenko et al., ECCV 2020, arXiv:1912.00049, algorithms 1 and 2, with the authors' schedule.
    **Reading:** the margin is the loss of a targeted attack too, where the authors' code takes the cross-entropy.

    Args:
        eps: radius of the L∞ ball, in pixel values, at least 0; default 8/255 of their range.
        max_iter: queries for one image, at least 1.
        p_init: share of the pixels in the first squares, above 0 and below 1.
        others: see `FunctionAttack`; images are (C, H, W).
    """
    _, channels, height, width = x.shape
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)

    def in_ball(images: Tensor, centre: Tensor) -> Tensor:
        return images.clamp(centre - eps, centre + eps).clamp(*clip_values)

    # all draws of an image come first, so that an image that is done takes none of another's
    best = in_ball(x + eps * signs(generators, (channels, 1, width)), x)
    places = (uniform(generators, (max_iter, 2)) + 1) / 2
    colours = signs(generators, (max_iter, channels, 1, 1))

    answers = logits(best)
    least = margin(answers, y, targeted)
    queries = torch.ones(len(x), dtype=torch.int64, device=x.device)
    active = torch.nonzero(~wins(answers, y, targeted))[:, 0]
    yield Found(best, queries)
    for step in range(1, max_iter):
        if len(active) == 0:
            return
        side = _side(step, max_iter, p_init, height, width)
        top = (places[active, step, 0] * (height - side + 1)).long()[:, None]
        left = (places[active, step, 1] * (width - side + 1)).long()[:, None]
        in_rows, in_columns = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
        inside = in_rows[:, :, None] & in_columns[:, None]
        tried = in_ball(best[active] + 2 * eps * inside[:, None] * colours[active, step], x[active])
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


class Square(FunctionAttack):
    run = square

    def _check_params(self) -> None:
        super()._check_params()
        shape = tuple(self.estimator.input_shape)
        if len(shape) != 3:
            raise InvalidInputError(f"estimator: squares need images of shape (C, H, W), got input_shape {shape}")
