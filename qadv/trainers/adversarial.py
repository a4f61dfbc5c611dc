"""Adversarial training of quantized networks, docs/methods.md §2 and §6: R+FGSM, PGD or FGSM while quantizing."""

from typing import Any

from art.estimators.classification import PyTorchClassifier

from qadv.trainers.adversary import Adversary
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.units import Length, Share


class AdversarialQuantTrainer(LoopTrainer):
    """Trains on adversarial images, made in each step with the quantized weights and activations of that step.

    Loss: cross-entropy of x + δ, where δ maximises it within ‖δ‖∞ <= ε (Madry et al. 2018). With FGSM the network
    learns to mask its gradient (DQ table 6); R+FGSM costs the same and masks less.

    Args:
        classifier: an ART `PyTorchClassifier`, float or quantized.
        attack, eps, eps_step, max_iter, sampled, ratio: see `Adversary`.
        options: see `LoopTrainer`.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        attack: str = "pgd",
        eps: Length = Share(8 / 255),
        eps_step: Length | None = None,
        max_iter: int | None = None,
        sampled: bool = False,
        ratio: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(classifier, adversary=Adversary(attack, eps, eps_step, max_iter, sampled, ratio), **options)

    def _parameters(self) -> dict[str, Any]:
        return vars(self.adversary)
