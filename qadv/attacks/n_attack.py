"""N-Attack: learns a distribution of adversarial images."""

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from qadv.attacks import Count, Found, FunctionAttack, Generators, Length, OneOf, Positive, Radius, margin, normal, wins
from qadv.units import Share

_INSIDE = 1 - 1e-6  # atanh is infinite at the ends of the range


def n_attack(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    clip_values: tuple[float, float],
    generators: Generators,
    norm: Annotated[float | str, OneOf(np.inf, "inf", 2)] = np.inf,
    eps: Annotated[Length, Field(ge=0), Radius("norm")] = Share(8 / 255),
    sigma: Positive = 0.1,
    learning_rate: Positive = 0.02,
    max_iter: Count = 500,
    nb_samples: Annotated[int, Field(ge=2)] = 300,
    early_stop: bool = True,
    targeted: bool = False,
) -> Iterator[Found]:
    """Black-box L∞ or L2 attack that moves the mean of a population of images to where the margin is small.

    The population is normal before a tanh that keeps it in the range; docs/attacks/n-attack.md has the equations. The
    mean is tried with each population. The first adversarial one, the mean before the others, ends the search for an
    image, as in the authors' code; where there is none, the result is the last mean. An image that holds out costs
    `max_iter · (nb_samples + 1)` queries. Pixels at the ends of the range hardly move: tanh is flat there.

    Source: Li et al., ICML 2019, arXiv:1905.00441, algorithm 1. The mean starts at 0, in the authors' code near it.

    Args:
        norm: `inf`, `numpy.inf`, or 2.
        eps: radius of the ball, in pixel values, at least 0; default 8/255 of their range.
        sigma: σ, spread of the population, above 0.
        learning_rate: lr, above 0.
        max_iter: steps, at least 1.
        nb_samples: n, images of one population, at least 2.
        early_stop: `False` makes all steps for all images and returns the last mean, as algorithm 1 is printed.
        others: see `FunctionAttack`. The images attacked together are as many as have their populations in `batch_size`
            rows, and at least one.
    """
    low, high = clip_values
    start = torch.atanh((2 * (x - low) / (high - low) - 1) * _INSIDE)
    mu = torch.zeros_like(x)

    def images(z: Tensor, rows: Tensor) -> Tensor:
        """Returns the images of z, (M, k, *shape), in the balls round the images `rows`, (M,)."""
        centre = x[rows][:, None]
        moved = low + (high - low) * (torch.tanh(start[rows][:, None] + z) + 1) / 2
        return (centre + _in_ball(moved - centre, float(norm), eps)).clamp(low, high)

    adversarial = x.clone()
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    active = torch.arange(len(x), device=x.device)
    for _ in range(max_iter):
        u = normal([generators[i] for i in active.tolist()], (nb_samples, *x.shape[1:]))
        z = torch.cat([mu[active][:, None], mu[active][:, None] + sigma * u], dim=1)
        tried = images(z, active)
        labels = y[active].repeat_interleave(1 + nb_samples)
        answers = logits(tried.flatten(0, 1))
        queries[active] += 1 + nb_samples
        won = wins(answers, labels, targeted).view(len(active), -1)
        first = won.int().argmax(dim=1)  # 0, the mean, where none won
        adversarial[active] = tried[torch.arange(len(active), device=x.device), first]
        loss = margin(answers, labels, targeted).view(len(active), -1)[:, 1:].clamp(min=0)
        score = (loss - loss.mean(dim=1, keepdim=True)) / (loss.std(dim=1, correction=0, keepdim=True) + 1e-7)
        step = torch.einsum("nk,nkd->nd", score, u.flatten(2)).view_as(mu[active])
        mu[active] -= learning_rate / (nb_samples * sigma) * step
        if early_stop:
            active = active[~won.any(dim=1)]
        yield Found(adversarial, queries)
        if len(active) == 0:
            return
    adversarial[active] = images(mu[active][:, None], active)[:, 0]
    yield Found(adversarial, queries)


def _in_ball(change: Tensor, norm: float, eps: float) -> Tensor:
    """Projects changes (M, k, *shape) on the ball of radius `eps` in L∞ or L2."""
    if norm == np.inf:
        return change.clamp(-eps, eps)
    length: Tensor = torch.linalg.vector_norm(change.flatten(2), dim=2).clamp(min=torch.finfo(change.dtype).tiny)
    return change * (eps / length).clamp(max=1).view(*length.shape, *[1] * (change.ndim - 2))


class NAttack(FunctionAttack):
    run = n_attack
    batch_size = 512

    def images_at_once(self) -> int:
        return max(1, int(self.batch_size // (self.nb_samples + 1)))
