"""Random noise, which every attack has to beat: uniform ("Random" in Defensive Quantization) and normal."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from qadv.attacks import Count, Eps, Found, FunctionAttack, Generators, Length, normal, uniform, wins
from qadv.units import Share


def uniform_noise(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor | None,
    limits: tuple[float, float],
    generators: Generators,
    eps: Eps = Share(8 / 255),
    max_iter: Count = 1,
) -> Iterator[Found]:
    """Uniform noise in [-eps, eps] on each pixel, clipped to `clip_values`: "Random" in Defensive Quantization.

    Args:
        eps: largest change of a pixel, at least 0; default 8/255 of the pixels' range.
        max_iter: draws at most; the first that changes the prediction is kept, and the last if none does. With 1, the
            default, the network is not asked.
        others: see `FunctionAttack`.
    """
    return _noise(logits, x, y, limits, generators, lambda own: eps * uniform(own, x.shape[1:]), max_iter)


def gaussian_noise(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor | None,
    limits: tuple[float, float],
    generators: Generators,
    std: Length = Share(8 / 255),
    max_iter: Count = 1,
) -> Iterator[Found]:
    """Normal noise on each pixel, clipped to `clip_values`: "normal noise" in the μ-law study.

    Args:
        std: standard deviation, in pixel values, at least 0; default 8/255 of their range.
        max_iter: as of `uniform_noise`.
    """
    return _noise(logits, x, y, limits, generators, lambda own: std * normal(own, x.shape[1:]), max_iter)


def _noise(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor | None,
    limits: tuple[float, float],
    generators: Generators,
    draw: Callable[[Generators], Tensor],
    max_iter: int,
) -> Iterator[Found]:
    """Draws until images are no longer classified as `y`; the last draw is kept in any case and so needs no query."""
    adversarial = x.clone()
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if y is None and max_iter > 1:
        y = logits(x).argmax(dim=1)
        queries += 1
    active = torch.arange(len(x), device=x.device)
    for left in reversed(range(max_iter)):
        adversarial[active] = (x[active] + draw([generators[i] for i in active.tolist()])).clamp(*limits)
        yield Found(adversarial, queries)
        if left and y is not None:
            won = wins(logits(adversarial[active]), y[active], targeted=False)
            queries[active] += 1
            active = active[~won]
            if len(active) == 0:
                return


class UniformNoise(FunctionAttack):
    run = uniform_noise


class GaussianNoise(FunctionAttack):
    run = gaussian_noise
