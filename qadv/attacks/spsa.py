"""SPSA: Adam on gradients estimated from pairs of queries."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from qadv.attacks import Count, Eps, Found, FunctionAttack, Generators, PositiveLength, margin, signs, wins
from qadv.units import Share, width

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8  # Adam's, whose tiny number is for pixels in [0, 1]


def spsa_gradient(loss: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, delta: float) -> Tensor:
    """Estimates gradients by finite differences along random signs: `mean_v (L(x + δv) - L(x - δv)) / (2δ) · v`.

    `loss` takes images (M, *shape) to losses (M,); `v` are n directions for each image, -1 and +1, (N, n, *shape).
    """
    probes = torch.cat([x[:, None] + delta * v, x[:, None] - delta * v], dim=1)
    plus, minus = loss(probes.flatten(0, 1)).view(len(x), 2, -1).unbind(dim=1)
    slopes = (plus - minus) / (2 * delta)
    return torch.einsum("nk,nkd->nd", slopes, v.flatten(2)).view_as(x) / v.shape[1]


def spsa(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    limits: tuple[float, float],
    generators: Generators,
    eps: Eps = Share(0.03),
    delta: PositiveLength = Share(0.01),
    learning_rate: PositiveLength = Share(0.01),
    max_iter: Count = 100,
    nb_samples: Count = 128,
    early_stop: bool = False,
    targeted: bool = False,
) -> Iterator[Found]:
    """Black-box L∞ attack that minimises the margin of the logits along estimated gradients.

    Each step takes `spsa_gradient` at the current image, a step of Adam, and projects on ε-ball and `clip_values`. All
    steps are made for all images, `max_iter · 2 · nb_samples` queries each, and the result is where they end: far
    beyond the boundary, so that it fools other networks too. Defaults are those of the low-bitwidth study, table 13.

    Source: Uesato et al. 2018, arXiv:1802.05666; docs/attacks/spsa.md.

    Args:
        eps: radius of the L∞ ball, in pixel values, at least 0; default 0.03 of their range.
        delta: how far the probes are from the image in each pixel, above 0, default 0.01 of the range; probes are not
            clipped. A network with few activation levels is a staircase: probes that are too near see no slope.
        learning_rate: Adam's step in each pixel, above 0, default 0.01 of the range.
        max_iter: steps, at least 1.
        nb_samples: directions per step, at least 1; each costs two queries.
        early_stop: try the image itself before each step, one query more, and leave it as it is once it is adversarial:
            fewer queries where only success counts, and changes that are just large enough.
        others: see `FunctionAttack`. The images attacked together are as many as have their probes in `batch_size`
            rows, and at least one.
    """
    adversarial = x.clone()
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    active = torch.arange(len(x), device=x.device)
    tiny = _TINY / width(limits)
    for step in range(1, max_iter + 1):
        if early_stop:
            won = wins(logits(adversarial[active]), y[active], targeted)
            queries[active] += 1
            active = active[~won]
        yield Found(adversarial, queries)
        if len(active) == 0:
            return
        labels = y[active].repeat_interleave(2 * nb_samples)
        v = signs([generators[i] for i in active.tolist()], (nb_samples, *x.shape[1:]))
        gradient = spsa_gradient(lambda probes: margin(logits(probes), labels, targeted), adversarial[active], v, delta)  # noqa: B023
        queries[active] += 2 * nb_samples
        mean[active] = _BETA1 * mean[active] + (1 - _BETA1) * gradient
        square[active] = _BETA2 * square[active] + (1 - _BETA2) * gradient**2
        change = mean[active] / (1 - _BETA1**step) / ((square[active] / (1 - _BETA2**step)).sqrt() + tiny)
        moved = adversarial[active] - learning_rate * change
        moved = moved.clamp(x[active] - eps, x[active] + eps)
        adversarial[active] = moved.clamp(*limits)
    yield Found(adversarial, queries)


class SPSA(FunctionAttack):
    run = spsa
    batch_size = 256

    def images_at_once(self) -> int:
        return max(1, int(self.batch_size // (2 * self.nb_samples)))
