"""Defensive Quantization (Lin, Gan, Han: ICLR 2019), docs/methods.md §2."""

from typing import Any

from art.estimators.classification import PyTorchClassifier

from qadv.checks import check_number
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.orthogonality import Orthogonality


class DefensiveQuantTrainer(LoopTrainer):
    """Trains a quantized network whose layers stay non-expansive, so that adversarial noise is not amplified.

    Loss (DQ eq. 8): cross-entropy + β/2 · Σ_l ‖W_lᵀ W_l - I‖². For networks with shortcuts the paper replaces their
    sums by convex combinations: make the network with `aggregation="convex"`.

    Args:
        classifier: an ART `PyTorchClassifier`, usually a `QuantizedClassifier` with activations `relu6:1` … `relu6:5`.
        beta: weight of the regulariser, β >= 0; the paper uses 3e-4 to 1e-3 in table 1 and 2e-3 elsewhere. 0 is vanilla
            quantization-aware training.
        options: see `LoopTrainer`; `adversary=Adversary("r-fgsm", sampled=True)` is the paper's adversarial training.
    """

    def __init__(self, classifier: PyTorchClassifier, beta: float = 2e-3, **options: Any) -> None:
        self.beta = float(check_number("beta", beta, zero=True))
        super().__init__(classifier, [Orthogonality(self.beta)], **options)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta, "adversary": self.adversary}
