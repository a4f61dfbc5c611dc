"""One batch as an attack's function sees it: pixels with logits and gradients, or [0, 1] with one torch module."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.attacks.draws import Generators, image_generators
from qadv.estimators.module import ClassifierModule, as_module
from qadv.estimators.oracle import Oracle, open_oracle
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode
from qadv.random_states import seeded
from qadv.units import limits

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
NewBatch = Callable[[Images, Labels | None, int, int], "Batch"]


class Batch(ABC):
    """N images, the first of them number `first` of all; its public attributes are what a function may ask for.

    `predicted` says whether the network's predictions had to take the place of labels.
    """

    x: Tensor
    device: torch.device

    def __init__(self, images: Images, labels: Labels | None, first: int, seed: int) -> None:
        self._given, self._labels, self._first, self._seed = images, labels, first, seed
        self.labelled, self.predicted = labels is not None, False

    @property
    def y(self) -> Tensor:
        """The labels or targets, (N,) int64."""
        if self._labels is not None:
            return torch.from_numpy(self._labels).to(self.device)
        self.predicted = True
        return self._logits().argmax(dim=1)

    @property
    def generators(self) -> Generators:
        """One for each image, decided by the seed and the image's index alone."""
        return image_generators(self._seed, range(self._first, self._first + len(self._given)), self.device)

    def start(self) -> None:
        """Seeds the global random states for each batch, so that its result depends on its own images alone."""
        words = np.random.SeedSequence([self._seed, self._first]).generate_state(3)
        np.random.seed(int(words[0]))
        random.seed(int(words[1]))
        torch.manual_seed(int(words[2]))

    @abstractmethod
    def images(self, found: Tensor) -> Images:
        """Returns what a function has made of `x`, as the images were given."""

    @abstractmethod
    def _logits(self) -> Tensor: ...


class PixelBatch(Batch):
    """Images in the units of `clip_values`, with the classifier's logits and gradients."""

    def __init__(self, estimator: Classifier, oracle: Oracle, *given: Any) -> None:
        super().__init__(*given)
        self.device, self.logits, self.gradient = oracle.device, oracle.logits, oracle.gradient
        self.x = torch.from_numpy(self._given).to(self.device)
        self.clip_values = self.limits = limits(estimator.clip_values)

    def images(self, found: Tensor) -> Images:
        return found.cpu().numpy()

    def _logits(self) -> Tensor:
        return self.logits(self.x)


class UnitBatch(Batch):
    """Images in [0, 1], with the classifier as one torch module."""

    clip_values = limits = (0.0, 1.0)

    def __init__(self, estimator: Classifier, model: ClassifierModule, *given: Any) -> None:
        super().__init__(*given)
        self.device, self.model = estimator.device, model
        self._low, self._high = estimator.clip_values
        unit = torch.from_numpy((self._given - self._low) / (self._high - self._low))
        self.x = unit.float().clamp(0, 1).to(self.device)
        self._unit = self.x.clone()

    def images(self, found: Tensor) -> Images:
        changed = self._low + (self._high - self._low) * found.detach().float().cpu().clamp(0, 1).numpy()
        return np.where((found == self._unit).cpu().numpy(), self._given, changed)

    @torch.no_grad()
    def _logits(self) -> Tensor:
        logits: Tensor = self.model(self.x)
        return logits


@contextmanager
def pixel_batches(estimator: Classifier, batch_size: int) -> Iterator[NewBatch]:
    """Yields a function that makes batches in pixels, `batch_size` rows to a pass, of a network in evaluation mode.

    Random states are afterwards as before.
    """
    with open_oracle(estimator, batch_size) as oracle, seeded(0):
        yield lambda *given: PixelBatch(estimator, oracle, *given)


@contextmanager
def unit_batches(estimator: Classifier, batch_size: int) -> Iterator[NewBatch]:
    """Yields a function that makes batches in [0, 1], as `pixel_batches`."""
    with evaluation_mode(estimator.model), seeded(0):
        model = as_module(estimator)
        yield lambda *given: UnitBatch(estimator, model, *given)
