"""The ball that attacks keep to, L∞ or L2, and PGD's way in it."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qadv.attacks.draws import Generators, normal, uniform
from qadv.attacks.pgd import ball, between, step

_TINY = 1e-30
_LEVELS = 255
_ROUNDING = 1e-4  # of a level, by which float32 pixels may miss theirs


@dataclass(frozen=True)
class Ball:
    """Images within a distance of an image.

    Args:
        eps: radius.
        norm: infinity or 2.
        low, high: smallest and largest pixel.
    """

    eps: float
    norm: float
    low: float
    high: float

    def scaled(self, size: float) -> "Ball":
        """Returns the ball with `size` times the radius."""
        return replace(self, eps=size * self.eps)

    def without_bound(self, nb_values: int) -> "Ball":
        """Returns the ball that holds all images of so many values."""
        return replace(self, eps=(self.high - self.low) * nb_values ** (1 / self.norm))

    def side(self, nb_values: int) -> float:
        """Returns by how much all pixels of an image of so many values can move at once."""
        return float(self.eps / nb_values ** (1 / self.norm))

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        """Returns points projected on the ball round each of `x`, (N, *input_shape)."""
        if self.norm == math.inf:
            return between(points, *ball(x, self.eps, (self.low, self.high)))
        change = points - x
        return (x + change * (self.eps / _length(change)).clamp(max=1)).clamp(self.low, self.high)

    def random(self, x: Tensor, generators: Generators) -> Tensor:
        """Returns a point of the ball round each image: any of the L∞ ball, any at the edge of the L2 ball."""
        if self.norm == math.inf:
            return self.project(x + self.eps * uniform(generators, x.shape[1:]), x)
        direction = normal(generators, x.shape[1:])
        return self.project(x + self.eps * direction / _length(direction), x)

    def step(self, points: Tensor, slope: Tensor, size: float, x: Tensor) -> Tensor:
        """Returns points moved by `size`, in the ball's norm, up a slope, and projected on the ball round `x`."""
        if self.norm == math.inf:
            return step(points, slope, size, *ball(x, self.eps, (self.low, self.high)))
        return self.project(points + size * slope / _length(slope), x)

    def as_8_bit(self, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rounds points of the ball round each of `x` to the nearest 8-bit images in it: 255 steps from low to high.

        What rounding carries out of an L2 ball is brought back pixel by pixel, to the next level towards `x`, first
        where that costs least for the room it makes: about the nearest.

        Returns:
            Images, as `points`, and whether there is one in the ball, (N,) bool.
        """
        step = (self.high - self.low) / _LEVELS
        here, at = ((images.flatten(1).double() - self.low) / step for images in (points, x))
        nearest, reach = here.round(), self.eps / step + _ROUNDING
        if self.norm == math.inf:
            least, most = (at - reach).ceil(), (at + reach).floor()
            codes, inside = nearest.clamp(least, most), (least <= most).all(dim=1)
        else:
            least, most = (torch.minimum(here, at) - _ROUNDING).ceil(), (torch.maximum(here, at) + _ROUNDING).floor()
            inward = torch.where(least <= most, nearest.clamp(least, most), at.round())
            saved = ((nearest - at) ** 2 - (inward - at) ** 2).clamp(min=0)
            lost = (inward - here) ** 2 - (nearest - here) ** 2
            order = torch.where(saved > 0, lost / saved, math.inf).argsort(dim=1, stable=True)
            made = saved.gather(1, order).cumsum(dim=1) - saved.gather(1, order)
            missing = ((nearest - at) ** 2).sum(dim=1, keepdim=True) - reach**2
            turned = torch.zeros_like(saved, dtype=torch.bool).scatter(1, order, made < missing) & (saved > 0)
            codes = torch.where(turned, inward, nearest)
            inside = ((codes - at) ** 2).sum(dim=1) <= reach**2
        return (self.low + codes * step).to(points.dtype).view_as(points), inside


def _length(change: Tensor) -> Tensor:
    """Returns the L2 norm of each image, (N, 1, …), above 0."""
    length: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1).clamp(min=_TINY)
    return length.view(-1, *[1] * (change.ndim - 1))
