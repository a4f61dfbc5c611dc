"""`ToolkitAttack`: ART's `EvasionAttack` contract round an attack of another torch toolkit."""

import random
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.estimators import BaseEstimator
from art.estimators.classification import ClassifierMixin, PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from qadv.attacks.torch_attack import TorchAttack
from qadv.estimators.module import as_module, check_module
from qadv.estimators.random_states import global_states_kept
from qadv.modes import evaluation_mode
from qadv.units import width


class ToolkitAttack(TorchAttack):
    """Base class for attacks of other toolkits: a subclass says in `perturb` what is done with one batch of tensors.

    Checked images and labels go in, pixels in [0, 1] come to `perturb` with the classifier as one torch module
    (`qadv.as_module`), and what it returns is clipped and moved back to `clip_values`. Global random states are seeded
    for each batch and are afterwards as before. Parameters get no gradients, even where the toolkit calls `backward`.

        class Noise(qadv.ToolkitAttack):
            attack_params = [*qadv.ToolkitAttack.attack_params, "eps"]

            def __init__(self, estimator, eps=qadv.Share(0.1), batch_size=128, seed=None, verbose=True):
                super().__init__(estimator, batch_size=batch_size, seed=seed, verbose=verbose)
                self.eps = self.in_pixels("eps", eps)
                self._check_params()

            def perturb(self, model, x, y):
                return x + self.in_unit_range(self.eps) * torch.randn_like(x).sign()

    Args:
        estimator: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier`.
        targeted: `y` are the classes wanted, not those to be left.
        batch_size: images attacked together.
        seed: `None` draws one from numpy's global state, at each `generate`.
        verbose: show progress.

    Attributes:
        partial: the images as far as they were found, also after an interrupted `generate`, (N, *input_shape) float32;
            those of batches that were not finished are as given.

    Raises:
        InvalidInputError: a parameter is off, or the estimator can't be one torch module.
    """

    attack_params = [*TorchAttack.attack_params, "targeted"]
    _estimator_requirements: tuple[type, ...] = (BaseEstimator, ClassifierMixin, PyTorchClassifier)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        targeted: bool = False,
        batch_size: int = 128,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, targeted, batch_size, seed, verbose)
        check_module(estimator)

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns adversarial images, (N, *input_shape) float32 within `clip_values`.

        Args:
            x: images, (N, *input_shape), float, within `clip_values`.
            y: labels, or targets of a targeted attack: indices (N,) or one-hot (N, nb_classes). `None` takes the
                network's own predictions.

        Raises:
            InvalidInputError: images or labels are off, targets are missing, or there is an argument besides.
        """
        x, labels, seed = self._given(x, y, kwargs)
        estimator = self.estimator
        low, high = estimator.clip_values
        with (
            evaluation_mode(estimator.model),
            _parameters_left_out(estimator.model),
            global_states_kept(),
            torch.random.fork_rng(),
            tqdm(total=len(x), desc=type(self).__name__, disable=not self.verbose) as bar,
        ):
            module = as_module(estimator)
            for start in range(0, len(x), self.batch_size):
                batch = x[start : start + self.batch_size]
                unit = torch.from_numpy((batch - low) / (high - low)).float().clamp(0, 1).to(estimator.device)
                if labels is None:
                    with torch.no_grad():
                        y_batch = module(unit).argmax(dim=1)
                else:
                    y_batch = torch.from_numpy(labels[start : start + self.batch_size]).to(estimator.device)
                _seed_global_states(seed, start)
                found = self.perturb(module, unit, y_batch)
                changed = low + (high - low) * found.detach().float().cpu().clamp(0, 1).numpy()
                self.partial[start : start + len(batch)] = np.where((found == unit).cpu().numpy(), batch, changed)
                bar.update(len(batch))
        return self.partial

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Attacks one batch.

        Args:
            model: the classifier, images in [0, 1] → logits (N, nb_classes), in evaluation mode.
            x: images, (N, *input_shape) float32 in [0, 1], on the classifier's device.
            y: labels, or targets of a targeted attack, (N,) int64.

        Returns:
            Adversarial images, as `x`; those outside [0, 1] are clipped.
        """

    def in_unit_range(self, distance: float) -> float:
        """Returns a distance in the units of `clip_values` as one of pixels in [0, 1]."""
        return float(distance) / width(self.estimator.clip_values)


@contextmanager
def _parameters_left_out(model: nn.Module) -> Iterator[None]:
    """Toolkits that call `backward` would pay for the weights' gradients, and leave them in `.grad`."""
    held = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _seed_global_states(seed: int, start: int) -> None:
    """Seeds what toolkits draw from, anew for each batch, so that an image's fate hangs on its own batch only."""
    words = np.random.SeedSequence([seed, start]).generate_state(3)
    np.random.seed(int(words[0]))
    random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))
