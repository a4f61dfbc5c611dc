"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast
adaptive boundary attack", arXiv:1907.02044)."""

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from pyautoattack.fab_pt import FABAttack_PT
from torch import nn

from qadv.attacks import check_whole
from qadv.units import Length, Share
from qadv_autoattack.part import OfficialPart


class FAB(OfficialPart):
    """Projects on the linearised boundary to the nearest class, and returns what it finds within `eps`.

    Each step has one backward pass for every class.

    Args:
        max_iter: steps of each run, at least 1.
        nb_restarts: runs; the first starts at the image, the others at random within eps / 2.
        estimator, norm, eps, batch_size, seed, abstention_breaks, verbose: see `OfficialPart`.
    """

    attack_params = [*OfficialPart.attack_params, "max_iter", "nb_restarts"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: float | str = np.inf,
        eps: Length = Share(8 / 255),
        max_iter: int = 100,
        nb_restarts: int = 1,
        batch_size: int = 250,
        seed: int | None = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, norm, eps, batch_size, seed, abstention_breaks, verbose)
        self.max_iter = max_iter
        self.nb_restarts = nb_restarts
        self._check_params()

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        return FABAttack_PT(model, **self._settings(device, seed))

    def _settings(self, device: torch.device, seed: int) -> dict[str, Any]:
        return self.common(device, seed) | {"n_iter": self.max_iter, "n_restarts": self.nb_restarts}

    def _check_params(self) -> None:
        super()._check_params()
        check_whole("max_iter", self.max_iter)
        check_whole("nb_restarts", self.nb_restarts)


class FABT(FAB):
    """FAB towards one class after the other, the one with the largest logit first; one backward pass for each step.

    Args:
        nb_targets: classes gone for; all others, where there are not that many.
        estimator, norm, …: see `FAB`.
    """

    attack_params = [*FAB.attack_params, "nb_targets"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: float | str = np.inf,
        eps: Length = Share(8 / 255),
        nb_targets: int = 9,
        max_iter: int = 100,
        nb_restarts: int = 1,
        batch_size: int = 250,
        seed: int | None = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> None:
        self.nb_targets = nb_targets
        super().__init__(estimator, norm, eps, max_iter, nb_restarts, batch_size, seed, abstention_breaks, verbose)

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        nb_targets = min(self.nb_targets, self.nb_answers - 1)
        return FABAttack_PT(model, targeted=True, n_target_classes=nb_targets, **self._settings(device, seed))

    def _check_params(self) -> None:
        super()._check_params()
        check_whole("nb_targets", self.nb_targets)
