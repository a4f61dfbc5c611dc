"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast
adaptive boundary attack", arXiv:1907.02044)."""

from typing import Any

import numpy as np
import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from qadv.attacks import Count, Seed
from qadv.units import Share
from qadv_autoattack.part import Eps, Norm, OfficialPart


class FAB(OfficialPart):
    """Projects on the linearised boundary to the nearest class, and returns what it finds within `eps`.

    Each step has one backward pass for every class.

    Args:
        max_iter: steps of each run, at least 1.
        nb_restarts: runs; the first starts at the image, the others at random within eps / 2.
        estimator, norm, eps, batch_size, seed, abstention_breaks, verbose: see `OfficialPart`.
    """

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm = np.inf,
        eps: Eps = Share(8 / 255),
        max_iter: Count = 100,
        nb_restarts: Count = 1,
        batch_size: Count = 250,
        seed: Seed = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> Tensor:
        return self.perturb(model, x, y)

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        return FABAttack_PT(model, **self._settings(device, seed))

    def _settings(self, device: torch.device, seed: int) -> dict[str, Any]:
        return self.common(device, seed) | {"n_iter": self.max_iter, "n_restarts": self.nb_restarts}


class FABT(FAB):
    """FAB towards one class after the other, the one with the largest logit first; one backward pass for each step.

    Args:
        nb_targets: classes gone for; all others, where there are not that many.
        estimator, norm, …: see `FAB`.
    """

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm = np.inf,
        eps: Eps = Share(8 / 255),
        nb_targets: Count = 9,
        max_iter: Count = 100,
        nb_restarts: Count = 1,
        batch_size: Count = 250,
        seed: Seed = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> Tensor:
        return self.perturb(model, x, y)

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        nb_targets = min(self.nb_targets, self.nb_answers - 1)
        return FABAttack_PT(model, targeted=True, n_target_classes=nb_targets, **self._settings(device, seed))
