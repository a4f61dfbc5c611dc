"""Random numbers that belong to single images, so that what one image draws does not depend on its batch."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

Generators = Sequence[torch.Generator]


def image_generators(seed: int, indices: Iterable[int], device: torch.device) -> list[torch.Generator]:
    """Returns one generator for each image, decided by the seed and the image's index alone."""
    seeds = (np.random.SeedSequence((seed, index)).generate_state(1, np.uint32)[0] for index in indices)
    return [torch.Generator(device).manual_seed(int(own)) for own in seeds]


def _draw(generators: Generators, one: Callable[[torch.Generator], Tensor]) -> Tensor:
    return torch.stack([one(generator) for generator in generators])


def normal(generators: Generators, shape: Sequence[int]) -> Tensor:
    """Returns standard normal numbers, (len(generators), *shape), float32."""
    return _draw(generators, lambda own: torch.randn(*shape, generator=own, device=own.device))


def uniform(generators: Generators, shape: Sequence[int]) -> Tensor:
    """Returns numbers uniform in [-1, 1), (len(generators), *shape), float32."""
    return _draw(generators, lambda own: torch.rand(*shape, generator=own, device=own.device) * 2 - 1)


def signs(generators: Generators, shape: Sequence[int]) -> Tensor:
    """Returns -1 and +1 with equal probability, (len(generators), *shape), float32."""
    return _draw(generators, lambda own: torch.randint(2, tuple(shape), generator=own, device=own.device) * 2.0 - 1)
