"""Trains on adversarial versions of the images."""

from torch import Tensor

from qadv.trainers.adversary import Adversary
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective


class AdversarialInputs(Objective):
    """Replaces each batch, or the adversary's share of it, by what the adversary makes of it."""

    def __init__(self, adversary: Adversary) -> None:
        self.adversary = adversary

    def __repr__(self) -> str:
        return f"AdversarialInputs({self.adversary})"

    def inputs(self, network: TrainedNetwork, x: Tensor, y: Tensor) -> Tensor:
        return self.adversary.perturb(network, x, y)
