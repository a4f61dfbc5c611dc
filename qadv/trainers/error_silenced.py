"""Error-silenced Quantization (Tang, Dong, Su), docs/methods.md §3, algorithm 1."""

from collections.abc import Mapping
from typing import Any

from art.estimators.classification import PyTorchClassifier

from qadv.trainers.adversary import Adversary
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.pairing import LOGITS, Pairing
from qadv.units import Length, Share


class ErrorSilencedTrainer(LoopTrainer):
    """Quantizes while it trains, and silences the error that adversarial noise makes in chosen activations.

    In each step some filters are quantized (schemes `sq(…)`, see `sq_ratios`), PGD finds δ on that network, and the
    loss is cross-entropy of the *clean* batch + Σ_l λ_l · D_l, where D_l = ‖F_l(x) - F_l(x + δ)‖ / ‖F_l(x)‖ (EQ eq. 6
    and 7). Start from a network trained in full precision, naturally or adversarially.

    Args:
        classifier: an ART `PyTorchClassifier`, usually a `QuantizedClassifier` with weights `sq(bwn)` or `sq(twn)`;
            any other scheme is quantized whole from the first step.
        lambdas: λ of the logits, the paper's choice, or a mapping from module names (and `"logits"`) to λ. The paper
            does not give its value; docs/defenses/eq.md has the sweep behind the default.
        norm: of D_l: 2, or `math.inf`.
        eps, eps_step: PGD's L∞ bound and step, in the units of `clip_values`, > 0; default 8/255 and 2/255 of their
            range.
        max_iter: PGD's number of steps, T.
        options: see `LoopTrainer`.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        lambdas: float | Mapping[str, float] = 1.0,
        norm: float = 2,
        eps: Length = Share(8 / 255),
        eps_step: Length = Share(2 / 255),
        max_iter: int = 10,
        **options: Any,
    ) -> None:
        paired = lambdas if isinstance(lambdas, Mapping) else {LOGITS: lambdas}
        self._pairing = {"lambdas": lambdas, "norm": norm, "eps": eps, "eps_step": eps_step, "max_iter": max_iter}
        super().__init__(classifier, [Pairing(paired, norm, Adversary("pgd", eps, eps_step, max_iter))], **options)

    def _parameters(self) -> dict[str, Any]:
        return {**self._pairing, "adversary": self.adversary}
