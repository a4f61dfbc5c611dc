"""Square (Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack: a query-efficient black-box adversarial attack
via random search", arXiv:1912.00049)."""

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from pyautoattack.square import SquareAttack
from torch import nn

from qadv.attacks import check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.units import Length, Share
from qadv_autoattack.norms import OFFICIAL
from qadv_autoattack.part import OfficialPart


class Square(OfficialPart):
    """Random squares, kept where the margin of the logits falls. It uses no gradient, so none can be masked.

    Args:
        max_iter: queries for each image, at least 1; its squares shrink by a schedule made for 10,000, whatever it is.
        p_init: share of the image's pixels in the first squares, above 0 and below 1.
        nb_restarts: runs.
        estimator, norm, eps, batch_size, seed, abstention_breaks, verbose: see `OfficialPart`. Images are
            (channels, height, width), for L2 and L1 at least 5 × 5.
    """

    attack_params = [*OfficialPart.attack_params, "max_iter", "p_init", "nb_restarts"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: float | str = np.inf,
        eps: Length = Share(8 / 255),
        max_iter: int = 5000,
        p_init: float = 0.8,
        nb_restarts: int = 1,
        batch_size: int = 250,
        seed: int | None = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, norm, eps, batch_size, seed, abstention_breaks, verbose)
        self.max_iter = max_iter
        self.p_init = p_init
        self.nb_restarts = nb_restarts
        self._check_params()

    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        return SquareAttack(
            model,
            n_queries=self.max_iter,
            p_init=self.p_init,
            n_restarts=self.nb_restarts,
            resc_schedule=False,
            **self.common(device, seed),
        )

    def _check_params(self) -> None:
        super()._check_params()
        check_whole("max_iter", self.max_iter)
        check_number("p_init", self.p_init, below=1)
        check_whole("nb_restarts", self.nb_restarts)
        shape = tuple(self.estimator.input_shape)
        least = 1 if OFFICIAL[self.norm] == "Linf" else 5
        if len(shape) != 3 or min(shape[1:]) < least:
            raise InvalidInputError(
                f"estimator: Square needs images (channels, height, width), of {least} × {least} pixels or more "
                f"with norm={self.norm}, got input_shape {shape}; leave it out: attacks_to_run=('apgd-ce', 'apgd-t', "
                "'fab-t')"
            )
