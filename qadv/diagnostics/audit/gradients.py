"""Where a network's gradients lead nowhere: zero for an image, along PGD's path, or in pixels that matter."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.attacks.pgd import ball, between
from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.losses import Loss, cross_entropy, negative_margin
from qadv.diagnostics.audit.target import Images, Labels, Target

LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": negative_margin}
ROUNDING = 1e-4
MOST_IMAGES = 61  # on the path; a number that few layers have as their width
_PATH = 10
_DIRECTIONS = 16


@dataclass(frozen=True)
class Gradients:
    """What the gradients of N images are like.

    Attributes:
        zero: images at which the gradient is zero in all pixels, by loss.
        non_finite: those at which it is not finite somewhere, by loss.
        flat: images, of `walked`, whose gradient of the margin is zero at half or more of the points on PGD's path.
        hidden: pixels without a gradient at any image or point that move the logits all the same.
        walked: images that PGD's path was looked at of.
        agreement: median correlation of the margin's slope with its finite differences in random directions.
    """

    zero: dict[str, int]
    non_finite: dict[str, int]
    flat: int
    hidden: int
    walked: int
    agreement: float

    def leads(self, allowance: int) -> bool:
        """Whether attacks can follow the gradient of the margin; so many images may be without one."""
        return max(self.zero["margin"], self.flat) <= allowance and not self.hidden


def gradients_of(target: Target, x: Images, y: Labels, eps: float, seed: int) -> Gradients:
    """Looks at the gradients of images (N, *input_shape) with labels (N,) that are classified correctly."""
    if not len(x):
        return Gradients(dict.fromkeys(LOSSES, 0), dict.fromkeys(LOSSES, 0), 0, 0, 0, math.nan)
    zero, bad = dict.fromkeys(LOSSES, 0), dict.fromkeys(LOSSES, 0)
    live = np.zeros(x.shape[1:], dtype=bool)
    for start in range(0, len(x), target.batch_size):
        images, labels = (_tensor(array[start : start + target.batch_size], target) for array in (x, y))
        for name, loss in LOSSES.items():
            slope = target.gradient(images, labels, loss)[2]
            zero[name] += int((slope == 0).flatten(1).all(dim=1).sum())
            bad[name] += int((~slope.isfinite()).flatten(1).any(dim=1).sum())
            live |= (slope != 0).any(dim=0).cpu().numpy()
    few, their = x[:MOST_IMAGES], y[:MOST_IMAGES]
    path = ascend(target, few, their, loss=negative_margin, eps=eps, steps=_PATH, seed=seed, leave=False)
    images, labels = _tensor(few, target), _tensor(their, target)
    hidden = _hidden(target, images, labels, torch.from_numpy(live | path.live).to(target.device), eps, seed)
    agreement = _agreement(target, images, labels, eps, seed)
    return Gradients(zero, bad, int((path.flat >= 0.5).sum()), hidden, len(few), agreement)


def _tensor(array: NDArray[np.generic], target: Target) -> Tensor:
    return torch.from_numpy(array).to(target.device)


def _asked(target: Target, x: Tensor) -> Tensor:
    return torch.from_numpy(target.logits(x.cpu().numpy()))


def _hidden(target: Target, x: Tensor, y: Tensor, live: Tensor, eps: float, seed: int) -> int:
    """Returns how many pixels that have no gradient anywhere move the logits of some images.

    Pixels whose gradient shows once they are moved by ε, as those in front of a ReLU that was off, are none of them.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = [torch.ones(x.shape[1:]), -torch.ones(x.shape[1:])]
    signs += [torch.randint(0, 2, x.shape[1:], generator=generator) * 2.0 - 1 for _ in range(2)]
    ends = ball(x, eps, (target.low, target.high))
    clean = _asked(target, x)
    noise = (clean - _asked(target, x)).abs().max()
    least = max(ROUNDING * float(clean.abs().max()), 3 * float(noise))
    before = -1
    while before != int((~live).sum()):
        before, moved = int((~live).sum()), torch.zeros(len(x), dtype=torch.bool)
        if before == 0:
            return 0
        for sign in signs:
            there = between(x + eps * sign.to(x) * ~live, *ends)
            moved |= (_asked(target, there) - clean).abs().amax(dim=1) > least
            live = live | (target.gradient(there, y, negative_margin)[2] != 0).any(dim=0)
    return before if int(moved.sum()) > max(1, len(x) // 100) else 0


def _agreement(target: Target, x: Tensor, y: Tensor, eps: float, seed: int) -> float:
    """Returns the median over images of the correlation of slopes and differences over half of ε either way."""
    generator, limits = torch.Generator().manual_seed(seed), (target.low, target.high)
    slope = target.gradient(x, y, negative_margin)[2].flatten(1)
    differences, slopes = [], []
    for _ in range(_DIRECTIONS):
        direction = (torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1).to(x)
        ahead, behind = (between(x + sign * eps / 2 * direction, *ball(x, eps, limits)) for sign in (1, -1))
        difference = [negative_margin(_asked(target, each), y.cpu()) for each in (ahead, behind)]
        differences.append(difference[0] - difference[1])
        slopes.append((slope * (ahead - behind).flatten(1)).sum(dim=1).cpu())
    stacked = (torch.stack(each).double() for each in (differences, slopes))  # gradients may be tiny
    one, other = (nn.functional.normalize(each - each.mean(dim=0), dim=0, eps=1e-300) for each in stacked)
    return float((one * other).sum(dim=0).nan_to_num().median())
