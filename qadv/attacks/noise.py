"""Random noise, which every attack has to beat: uniform ("Random" in Defensive Quantization) and normal."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.attacks.batched import BatchedAttack, Found
from qadv.attacks.draws import Generators, normal, uniform
from qadv.attacks.goal import wins
from qadv.checks import check_number, check_whole
from qadv.estimators.oracle import Oracle
from qadv.units import Length, Share


def noise(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    draw: Callable[[Generators], Tensor],
    max_iter: int,
    clip_values: tuple[float, float],
    generators: Generators,
) -> Iterator[Found]:
    """Adds noise to images (N, *shape) until they are no longer classified as `y`, (N,); yields after each draw.

    The last draw is kept in any case and so needs no query.
    """
    adversarial = x.clone()
    queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    active = torch.arange(len(x), device=x.device)
    for left in reversed(range(max_iter)):
        adversarial[active] = (x[active] + draw([generators[i] for i in active.tolist()])).clamp(*clip_values)
        yield Found(adversarial, queries)
        if left:
            won = wins(logits(adversarial[active]), y[active], targeted=False)
            queries[active] += 1
            active = active[~won]
            if len(active) == 0:
                return


class NoiseAttack(BatchedAttack):
    """What both kinds of noise share: `max_iter` draws at most, the first that changes the prediction is kept."""

    def __init__(self, estimator: Any, max_iter: int, batch_size: int, seed: int | None, verbose: bool) -> None:
        super().__init__(estimator, False, batch_size, seed, verbose)
        self.max_iter = max_iter

    @abstractmethod
    def _draw(self, generators: Generators, shape: torch.Size) -> Tensor:
        """Returns noise for each generator, (len(generators), *shape)."""

    def _search(self, oracle: Oracle, x: Tensor, y: Tensor, generators: Generators) -> Iterator[Found]:
        return noise(
            oracle.logits,
            x,
            y,
            draw=lambda own: self._draw(own, x.shape[1:]),
            max_iter=self.max_iter,
            clip_values=self._limits(),
            generators=generators,
        )

    def _given_labels(self, y: NDArray[Any] | None, nb_images: int) -> NDArray[np.int64] | None:
        if y is None and self.max_iter == 1:
            return np.zeros(nb_images, dtype=np.int64)  # nobody looks at them
        return super()._given_labels(y, nb_images)

    def _check_params(self) -> None:
        super()._check_params()
        check_whole("max_iter", self.max_iter)


class UniformNoise(NoiseAttack):
    """Uniform noise in [-eps, eps] on each pixel, clipped to `clip_values`: "Random" in Defensive Quantization.

    Args:
        estimator: an ART classifier.
        eps: largest change of a pixel, at least 0; default 8/255 of the pixels' range.
        max_iter: draws at most; the first that changes the prediction is kept, and the last if none does. With 1, the
            default, the network is not asked.
        batch_size: images at once.
        seed, verbose: see `BatchedAttack`.

    Raises:
        InvalidInputError: a parameter is out of its range.
    """

    attack_params = [*BatchedAttack.attack_params, "eps", "max_iter"]

    def __init__(
        self,
        estimator: Any,
        eps: Length = Share(8 / 255),
        max_iter: int = 1,
        batch_size: int = 128,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, max_iter, batch_size, seed, verbose)
        self.eps = self.in_pixels("eps", eps)
        self._check_params()

    def _draw(self, generators: Generators, shape: torch.Size) -> Tensor:
        return self.eps * uniform(generators, shape)

    def _check_params(self) -> None:
        super()._check_params()
        self.eps = self.checked_eps("eps", self.eps)


class GaussianNoise(NoiseAttack):
    """Normal noise on each pixel, clipped to `clip_values`: "normal noise" in the μ-law study.

    Args:
        estimator: an ART classifier.
        std: standard deviation, in pixel values, at least 0; default 8/255 of their range.
        max_iter, batch_size, seed, verbose: as of `UniformNoise`.

    Raises:
        InvalidInputError: a parameter is out of its range.
    """

    attack_params = [*BatchedAttack.attack_params, "std", "max_iter"]

    def __init__(
        self,
        estimator: Any,
        std: Length = Share(8 / 255),
        max_iter: int = 1,
        batch_size: int = 128,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, max_iter, batch_size, seed, verbose)
        self.std = self.in_pixels("std", std)
        self._check_params()

    def _draw(self, generators: Generators, shape: torch.Size) -> Tensor:
        return self.std * normal(generators, shape)

    def _check_params(self) -> None:
        super()._check_params()
        check_number("std", self.std, zero=True)
