"""APGD, PGD that chooses its own step size (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
ensemble of diverse parameter-free attacks", arXiv:2003.01690; L1: Croce & Hein 2021, arXiv:2103.01208)."""

from typing import Any

import numpy as np
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from qadv.attacks import Count, Seed
from qadv.errors import InvalidInputError
from qadv.units import Share
from qadv_autoattack.norms import OFFICIAL
from qadv_autoattack.part import Eps, Norm, OfficialPart


class APGD(OfficialPart):
    """Base class of APGD on its losses: momentum 0.75, from steps of 2 eps on, halved where the loss does not rise.

    Args:
        max_iter: steps of each run, at least 1.
        nb_random_init: runs, each from another random point of the ball, as long as the image holds out.
        eot_iter: passes that each gradient is averaged over, for networks that draw at random.
        larger_eps: L1 only: the first 30 % of the steps go with 3 eps, the next with 2 eps.
        estimator, norm, eps, batch_size, seed, abstention_breaks, verbose: see `OfficialPart`.
    """

    loss = "ce"

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm = np.inf,
        eps: Eps = Share(8 / 255),
        max_iter: Count = 100,
        nb_random_init: Count = 1,
        eot_iter: Count = 1,
        larger_eps: bool = False,
        batch_size: Count = 250,
        seed: Seed = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> Tensor:
        return self.perturb(model, x, y)

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        return APGDAttack(model, loss=self.loss, **self._settings(device, seed))

    def _settings(self, device: torch.device, seed: int) -> dict[str, Any]:
        return self.common(device, seed) | {
            "n_iter": self.max_iter,
            "n_restarts": self.nb_random_init,
            "eot_iter": self.eot_iter,
            "rho": 0.75,
            "use_largereps": self.larger_eps,
            "logger": self.flags,
        }

    def _check_params(self) -> None:
        super()._check_params()
        if self.larger_eps and OFFICIAL[self.norm] != "L1":
            raise InvalidInputError(f"larger_eps: expected norm=1 with it, got norm={self.norm!r}")


class APGDCE(APGD):
    """APGD on the cross-entropy. Where a softmax is saturated its gradient is zero, and it finds nothing."""


class APGDDLR(APGD):
    """APGD on the difference of logits ratio, which no scale of the logits changes.

    DLR(x, y) = -(z_y - max_{c≠y} z_c) / (z_π1 - z_π3), with z_π1 ≥ z_π2 ≥ … the logits in order: three classes or more.
    """

    loss = "dlr"
    fewest_classes = 3


class APGDT(APGD):
    """APGD on the targeted DLR loss, towards one class after the other, the one with the largest logit first.

    Targeted-DLR(x, y, t) = -(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2): four classes or more.

    Args:
        nb_targets: classes gone for; all others, where there are not that many.
        estimator, norm, …: see `APGD`.
    """

    fewest_classes = 4

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm = np.inf,
        eps: Eps = Share(8 / 255),
        nb_targets: Count = 9,
        max_iter: Count = 100,
        nb_random_init: Count = 1,
        eot_iter: Count = 1,
        larger_eps: bool = False,
        batch_size: Count = 250,
        seed: Seed = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> Tensor:
        return self.perturb(model, x, y)

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        nb_targets = min(self.nb_targets, self.nb_answers - 1)
        return APGDAttack_targeted(model, n_target_classes=nb_targets, **self._settings(device, seed))
