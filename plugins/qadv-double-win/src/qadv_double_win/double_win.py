"""Random precision training, the training part of Double-Win Quant (Fu et al., ICML 2021, algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier

from qadv.trainers import Adversary, LoopTrainer, Objective
from qadv.units import Length, Share
from qadv_double_win.precision import check_precisions, set_precision, switchable_modules


class RandomPrecision(Objective):
    """Switches the network to a precision drawn anew for each step, with equal chances.

    A draw follows from the seed and the number of the step alone, so that a resumed run draws what an uninterrupted one
    does, and several processes draw the same. Each epoch logs the `precision` of its last step, which is what its
    validation figures are of. Afterwards the network is at the highest precision.

    Args:
        precisions: the candidate set, ascending.
        seed: decides the draws.
    """

    def __init__(self, precisions: Sequence[int], seed: int) -> None:
        self.precisions = tuple(precisions)
        self.seed = seed
        self.drawn = self.precisions[-1]

    def __repr__(self) -> str:
        return f"RandomPrecision({self.precisions}, seed={self.seed})"

    def precision(self, step: int) -> int:
        """Returns what is drawn for a step, counted from 0."""
        return int(np.random.default_rng([self.seed, step]).choice(self.precisions))

    def step(self, network: Any, step: int, nb_steps: int) -> None:
        self.drawn = self.precision(step)
        set_precision(network.model, self.drawn)

    def measure(self, network: Any) -> dict[str, object]:
        return {"precision": self.drawn}

    def finish(self, network: Any) -> None:
        set_precision(network.model, self.precisions[-1])


class DoubleWinTrainer(LoopTrainer):
    """Adversarial training at a random precision: `min E_q max_δ CE(f_q(x + δ), y)`, ‖δ‖∞ <= ε, one q per step.

    In each step a precision q is drawn from the candidate set, PGD finds δ on the network at q bits, and the network at
    q bits is trained on x + δ. The float weights are shared by all precisions; with the backbone `switchable-norm`
    each has BatchNorms of its own, as in the paper.

    **Readings:** the attack runs in evaluation mode, as in all trainers of qadv (the authors' runs in training mode);
    weights and activations have the same precision, drawn once per step for the whole network.

    Args:
        classifier: an ART `PyTorchClassifier` whose network is quantized with `switchable:k`.
        precisions: the candidate set, 2 to k bits; the paper has 4 to 16.
        eps: L∞ bound in the units of `clip_values`, > 0; default 8/255 of their range.
        eps_step: PGD's step; `None`: ε/4, the paper's 2/255 of 8/255.
        max_iter: PGD's steps. With `max_iter=1, eps_step=1.25 * eps` this is FGSM with a random start (FGSM-RS).
        options: see `qadv.trainers.LoopTrainer`: `lr`, `seed`, `checkpoint`, …

    Raises:
        InvalidInputError: an argument is off, or the network can't be switched to one of the precisions.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        precisions: Sequence[int] = (4, 5, 6, 7, 8),
        eps: Length = Share(8 / 255),
        eps_step: Length | None = None,
        max_iter: int = 7,
        **options: Any,
    ) -> None:
        self.precisions = check_precisions(precisions)
        adversary = Adversary("pgd", eps, eps_step, max_iter)  # refuses what is off
        if eps_step is None:
            quarter = Share(eps.of_range / 4) if isinstance(eps, Share) else eps / 4
            adversary = Adversary("pgd", eps, quarter, max_iter)
        seed = options.get("seed", 0)
        super().__init__(classifier, [RandomPrecision(self.precisions, seed)], adversary=adversary, **options)
        for module in switchable_modules(classifier.model):
            for bits in self.precisions:
                module.check_precision(bits)

    def __repr__(self) -> str:
        adversary = self.adversary
        assert adversary is not None
        attack = {name: getattr(adversary, name) for name in ("eps", "eps_step", "max_iter")}
        shown = {"precisions": self.precisions, **attack, "sq_ratios": self.sq_ratios, **vars(self.options)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
