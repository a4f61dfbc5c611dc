"""Early stopping: accuracy under PGD on held-out images decides which epoch's weights are kept, and when to end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qadv.checks import check_fields, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.trainers.adversary import Adversary
from qadv.trainers.network import TrainedNetwork
from qadv.units import Length, Share

ROBUST = "val_robust_accuracy"


@dataclass(frozen=True)
class EarlyStop:
    """Attacks held-out images by PGD after each epoch, keeps the most robust epoch's weights, and ends at a collapse.

    Training on one-step attacks may lose all its robustness within an epoch while its own figures look best
    (catastrophic overfitting: Wong, Rice, Kolter, ICLR 2020), and robustness falls in long trainings, too (Rice, Wong,
    Kolter, ICML 2020).

    Args:
        nb_images: number of attacked images: the last of the training images, which are then not trained on, or the
            first of `validation_data` where that is given. In training images sorted by class the last ones are of one
            class: shuffle them first.
        drop: the training ends after an epoch whose accuracy under PGD is more than this below the best one's, a share
            of the images; with 1 it goes on to its last epoch.
        eps, eps_step, max_iter: PGD's, as of `Adversary`.
    """

    nb_images: int = 500
    drop: float = 0.2
    eps: Length = Share(8 / 255)
    eps_step: Length | None = None
    max_iter: int = 10

    def __post_init__(self) -> None:
        check_fields(self, check_whole, "nb_images", "max_iter")
        check_fields(self, check_number, "drop", zero=True, most=1)
        check_fields(self, lambda name, _: getattr(self.adversary, name), "eps", "eps_step")

    @property
    def adversary(self) -> Adversary:
        """PGD with these settings."""
        return Adversary("pgd", self.eps, self.eps_step, self.max_iter)

    @classmethod
    def of(cls, given: Any) -> Self:
        """Returns what a study's table says, `{}` for the defaults, and an `EarlyStop` as it is."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"early_stop: expected None, an EarlyStop or its arguments, got {given!r}")
        try:
            return cls(**given)
        except TypeError as error:
            raise InvalidInputError(f"early_stop: {error}") from error

    def measure(self, network: TrainedNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns how many of the first `nb_images` are classified correctly under PGD, and how many there were."""
        found = torch.zeros(2, device=network.device)
        for x, y in batches:
            x, y = (part[: self.nb_images - int(found[1])] for part in (x, y))
            attacked = network.prepare(self.adversary.perturb(network, x, y))[0]
            with torch.no_grad():
                right = network.model(attacked).argmax(1) == y
            found += torch.stack([right.sum(), torch.tensor(len(y), device=y.device)])
            if found[1] >= self.nb_images:
                break
        return found


def best_epoch(history: list[dict[str, Any]]) -> int:
    """Returns the index of the epoch with the highest accuracy under PGD, of equal ones the first."""
    return max(range(len(history)), key=lambda epoch: float(history[epoch][ROBUST]))
