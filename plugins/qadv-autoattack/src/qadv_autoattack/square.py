"""Square (Andriushchenko, Croce, Flammarion, Hein 2020, "Square Attack: a query-efficient black-box adversarial attack
via random search", arXiv:1912.00049)."""

from typing import Any

import numpy as np
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from qadv.attacks import Count, Part, Seed
from qadv.errors import InvalidInputError
from qadv.units import Share
from qadv_autoattack.norms import OFFICIAL
from qadv_autoattack.part import Eps, Norm, OfficialPart


class Square(OfficialPart):
    """Random squares, kept where the margin of the logits falls. It uses no gradient, so none can be masked.

    Args:
        max_iter: queries for each image, at least 1; its squares shrink by a schedule made for 10,000, whatever it is.
        p_init: share of the image's pixels in the first squares, above 0 and below 1.
        nb_restarts: runs.
        estimator, norm, eps, batch_size, seed, abstention_breaks, verbose: see `OfficialPart`. Images are
            (channels, height, width), for L2 and L1 at least 5 × 5.
    """

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm = np.inf,
        eps: Eps = Share(8 / 255),
        max_iter: Count = 5000,
        p_init: Part = 0.8,
        nb_restarts: Count = 1,
        batch_size: Count = 250,
        seed: Seed = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> Tensor:
        return self.perturb(model, x, y)

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
        shape = tuple(self.estimator.input_shape)
        least = 1 if OFFICIAL[self.norm] == "Linf" else 5
        if len(shape) != 3 or min(shape[1:]) < least:
            raise InvalidInputError(
                f"estimator: Square needs images (channels, height, width), of {least} × {least} pixels or more "
                f"with norm={self.norm}, got input_shape {shape}; leave it out: attacks_to_run=('apgd-ce', 'apgd-t', "
                "'fab-t')"
            )
