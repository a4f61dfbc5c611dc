"""What qadv's attacks share: ART's `EvasionAttack` contract round a function on one batch of tensors."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from art.estimators import BaseEstimator
from art.estimators.classification import ClassifierMixin
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from qadv.attacks.draws import Generators, image_generators
from qadv.attacks.torch_attack import TorchAttack
from qadv.errors import InvalidInputError, MaskedGradientWarning
from qadv.estimators.masked_gradients import said_of_zeros
from qadv.estimators.oracle import Oracle, open_oracle
from qadv.units import limits


class Found(NamedTuple):
    """How far an attack has come with a batch of N images.

    Attributes:
        adversarial: the images as they are now, (N, *input_shape).
        queries: images sent through the network so far, for each of the N, (N,) int64.
        no_gradient: images whose first gradient was all zero, (N,) bool; `None` for attacks without gradients.
    """

    adversarial: Tensor
    queries: Tensor
    no_gradient: Tensor | None = None


class BatchedAttack(TorchAttack):
    """An attack whose `_search` works on one batch of tensors on the estimator's device.

    Each image draws its random numbers from a generator of its own, decided by `seed` and the image's index in `x`:
    what becomes of it depends neither on `batch_size` nor on the other images, but for rounding.

    Args:
        estimator: an ART classifier that gives logits.
        targeted: `y` are the classes wanted, not those to be left.
        batch_size: rows of one forward pass, at most.
        seed: `None` draws one from numpy's global state, at each `generate`.
        verbose: show progress.

    Attributes:
        queries: after `generate`, images sent through the network for each image, (N,) int64; where `y` is `None`, the
            prediction that takes its place counts too.
        partial: the images as far as they were found, also after an interrupted `generate`, (N, *input_shape) float32;
            those that were not reached yet are as given.
    """

    _estimator_requirements: tuple[type, ...] = (BaseEstimator, ClassifierMixin)

    queries: NDArray[np.int64]

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns adversarial images, (N, *input_shape) float32 within `clip_values`.

        Args:
            x: images, (N, *input_shape), float, within `clip_values`.
            y: labels, or targets of a targeted attack: indices (N,) or one-hot (N, nb_classes). `None` takes the
                network's own predictions.

        Raises:
            InvalidInputError: images or labels are off, targets are missing, or there is an argument besides.
            AttackError: the network's logits or gradients are not finite.
        """
        x, labels, seed = self._given(x, y, kwargs)
        self.queries = np.zeros(len(x), dtype=np.int64)
        without_gradient = 0
        step = self._images_at_once()
        with (
            open_oracle(self.estimator, self.batch_size) as oracle,
            tqdm(total=len(x), desc=type(self).__name__, disable=not self.verbose) as bar,
        ):
            for start in range(0, len(x), step):
                stop = min(start + step, len(x))
                images = torch.from_numpy(x[start:stop]).to(oracle.device)
                if labels is None:
                    y_batch = oracle.logits(images).argmax(dim=1)
                    self.queries[start:stop] += 1
                else:
                    y_batch = torch.from_numpy(labels[start:stop]).to(oracle.device)
                generators = image_generators(seed, range(start, stop), oracle.device)
                found = None
                try:
                    for found in self._search(oracle, images, y_batch, generators):  # noqa: B007
                        pass
                finally:
                    if found is not None:
                        self.partial[start:stop] = found.adversarial.cpu().numpy()
                        self.queries[start:stop] += found.queries.cpu().numpy()
                        without_gradient += int(found.no_gradient.sum()) if found.no_gradient is not None else 0
                bar.update(stop - start)
        if without_gradient:
            self._warn_of_masking(without_gradient, len(x))
        return self.partial

    @abstractmethod
    def _search(self, oracle: Oracle, x: Tensor, y: Tensor, generators: Generators) -> Iterator[Found]:
        """Attacks one batch and yields how far it has come, at least once; the last is the result."""

    def _images_at_once(self) -> int:
        """Returns how many images are attacked together."""
        return self.batch_size

    def _limits(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value, infinite where the estimator has no `clip_values`."""
        return limits(self.estimator.clip_values)

    def _require_clip_values(self) -> None:
        if self.estimator.clip_values is None:
            raise InvalidInputError(
                f"estimator: {type(self).__name__} works in the range of the pixels; give the classifier clip_values"
            )

    def _warn_of_masking(self, without_gradient: int, nb_images: int) -> None:
        warnings.warn(
            f"{type(self).__name__}: {said_of_zeros(without_gradient, nb_images)} Attack without gradients too (SPSA)",
            MaskedGradientWarning,
            stacklevel=3,
        )
