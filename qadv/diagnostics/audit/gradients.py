"""Where a network's gradients lead nowhere: zero for an image, along PGD's path, or in pixels that matter."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.logit_scale import LogitScale
from qadv.diagnostics.audit.losses import Loss, cross_entropy, negative_margin
from qadv.diagnostics.audit.target import Images, Labels, Target

LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": negative_margin}
MOST_IMAGES = 61  # on the path; a number that few layers have as their width
_PATH = 10
_LEAST_OF_A_CLASS = 4
_DIRECTIONS = 8


@dataclass(frozen=True)
class Gradients:
    """What the gradients of N images are like.

    Attributes:
        zero: images at which the gradient is zero in all pixels, by loss.
        non_finite: those at which it is not finite somewhere, by loss.
        flat: images, of `walked`, whose gradient of the margin is zero at half or more of the points on PGD's path.
        hidden: images whose logits move, against their label's, with pixels that have no gradient of it at any point of
            their path.
        walked: images that PGD's path was looked at of.
        agreement: median correlation of the margin's slope with its finite differences in random directions.
        hard: whether the logits say no more than the predicted class.
    """

    zero: dict[str, int]
    non_finite: dict[str, int]
    flat: int
    hidden: int
    walked: int
    agreement: float
    hard: bool

    def leads(self, allowance: int) -> bool:
        """Whether attacks can follow the gradient of the margin; so many images may be without one."""
        return max(self.zero["margin"], self.flat) <= allowance and not self.masked

    @property
    def masked(self) -> bool:
        """Whether pixels without a gradient move the logits of half of the images, which no honest network does."""
        return self.hidden > self.walked / 2


def gradients_of(target: Target, x: Images, y: Labels, ball: Ball, seed: int) -> Gradients:
    """Looks at the gradients of images (N, *input_shape) with labels (N,) that are classified correctly."""
    if not len(x):
        return Gradients(dict.fromkeys(LOSSES, 0), dict.fromkeys(LOSSES, 0), 0, 0, 0, math.nan, False)
    zero, bad = dict.fromkeys(LOSSES, 0), dict.fromkeys(LOSSES, 0)
    images, labels = target.tensors(x, y)
    for name, loss in LOSSES.items():
        slope = target.gradient(images, labels, loss)[2]
        zero[name] = int((slope == 0).flatten(1).all(dim=1).sum())
        bad[name] = int((~slope.isfinite()).flatten(1).any(dim=1).sum())
    few, their = x[:MOST_IMAGES], y[:MOST_IMAGES]
    path = ascend(target, few, their, loss=negative_margin, ball=ball, steps=_PATH, seed=seed, leave=False)
    images, labels, live = target.tensors(few, their, path.live)
    hidden = _hidden(target, images, labels, live, ball, seed)
    agreement, hard = _agreement(target, images, labels, ball, seed)
    return Gradients(zero, bad, int((path.flat >= 0.5).sum()), hidden, len(few), agreement, hard)


def _asked(target: Target, x: Tensor) -> Tensor:
    return torch.from_numpy(target.logits(x.cpu().numpy()))


def _hidden(target: Target, x: Tensor, y: Tensor, live: Tensor, ball: Ball, seed: int) -> int:
    """Returns of how many images those pixels move the logits that have no gradient of them on any path of the class.

    What counts is how far a competing class is from the label. Of all these distances together, each by a weight that
    no other has, the gradient is zero only where each one's is.

    Pixels whose gradient shows once they are moved, as those in front of a ReLU that was off, are none of them. Classes
    of few images are one. `live` are pixels with a gradient, as `x`.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = [torch.ones(x.shape[1:]), -torch.ones(x.shape[1:])]
    signs += [torch.randint(0, 2, x.shape[1:], generator=generator) * 2.0 - 1 for _ in range(2)]
    answers, side = _asked(target, x), ball.side(x[0].numel())
    scale = LogitScale.of(answers, y.cpu())
    competing = torch.from_numpy(scale.competing)
    weights = 0.5 + torch.rand(int(competing.sum()), generator=generator)

    def distances(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, competing.to(logits.device)] - logits.gather(1, labels.to(logits.device)[:, None])

    def together(logits: Tensor, labels: Tensor) -> Tensor:
        return (distances(logits, labels) * weights.to(logits)).sum(dim=1)

    clean = distances(answers, y)
    noise = (clean - distances(_asked(target, x), y)).abs().max()
    least = max(scale.least, 3 * float(noise))
    live |= target.gradient(x, y, together)[2] != 0
    hidden, again = torch.zeros(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.bool)
    members = [y == label for label in set(y.tolist()) if (y == label).sum() >= _LEAST_OF_A_CLASS]
    groups = [*members, ~torch.stack(members).any(dim=0)] if members else [y == y]
    _share(live, groups)
    while len(left := torch.nonzero(again & (~live).flatten(1).any(dim=1).cpu())[:, 0]):
        dark, moved = ~live[left], torch.zeros(len(left), dtype=torch.bool)
        for sign in signs:
            there = ball.project(x[left] + side * sign.to(x) * ~live[left], x[left])
            moved |= (distances(_asked(target, there), y[left]) - clean[left]).abs().amax(dim=1) > least
            live[left] |= target.gradient(there, y[left], together)[2] != 0
            _share(live, groups)
        lit = (dark & live[left]).flatten(1).any(dim=1).cpu()
        hidden[left], again[left] = moved & ~lit, lit
    return int(hidden.sum())


def _share(live: Tensor, groups: list[Tensor]) -> None:
    """Gives every image the pixels of all of its group."""
    for group in groups:
        live[group] = live[group].any(dim=0)


def _agreement(target: Target, x: Tensor, y: Tensor, ball: Ball, seed: int) -> tuple[float, bool]:
    """Looks at finite differences over half of the ball either way.

    Returns:
        The median over images of their correlation with slopes; whether the logits of all points follow from their
        classes.
    """
    generator, side = torch.Generator().manual_seed(seed), ball.side(x[0].numel()) / 2
    slope = target.gradient(x, y, negative_margin)[2].flatten(1)
    differences, slopes, answers = [], [], []
    for _ in range(_DIRECTIONS):
        direction = (torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1).to(x)
        ahead, behind = (ball.project(x + sign * side * direction, x) for sign in (1, -1))
        pair = [_asked(target, each) for each in (ahead, behind)]
        difference = [target.aimed(negative_margin)(logits, y.cpu()) for logits in pair]
        answers += pair
        differences.append(difference[0] - difference[1])
        slopes.append((slope * (ahead - behind).flatten(1)).sum(dim=1).cpu())
    stacked = (torch.stack(each).double() for each in (differences, slopes))  # gradients may be tiny
    one, other = (nn.functional.normalize(each - each.mean(dim=0), dim=0, eps=1e-300) for each in stacked)
    return float((one * other).sum(dim=0).nan_to_num().median()), _hard(torch.stack(answers))


def _hard(answers: Tensor) -> bool:
    """Whether logits, (M, N, classes) of M points of each of N images, follow from the predicted class alone."""
    predicted = answers.argmax(dim=2).numpy()
    scale = LogitScale.of(answers, predicted)
    classes = set(predicted.flatten().tolist())
    if answers.shape[1] <= len(classes):
        return False  # no two images of a class need be among them
    logits = scale.of_competing(answers)
    return max(float(np.ptp(logits[predicted == c], axis=0).max()) for c in classes) <= scale.least
