"""R+FGSM: a random step, then a gradient sign step (Tramèr et al. 2018, "Ensemble Adversarial Training: Attacks and
Defenses", ICLR, arXiv:1705.07204)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from art.estimators import LossGradientsMixin
from torch import Tensor

from qadv.attacks.batched import BatchedAttack, Found
from qadv.attacks.draws import Generators, normal
from qadv.errors import InvalidInputError
from qadv.estimators.oracle import Oracle
from qadv.units import Length, Share


def random_fgsm(
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool,
    eps: float,
    random_eps: float,
    clip_values: tuple[float, float],
    generators: Generators,
) -> Found:
    """Attacks images (N, *shape) with labels or targets (N,); see `RandomFGSM`."""
    start = (x + random_eps * normal(generators, x.shape[1:]).sign()).clamp(*clip_values)
    _, slope = gradient(start, y)
    step = (eps - random_eps) * slope.sign()
    adversarial = (start - step if targeted else start + step).clamp(*clip_values)
    return Found(adversarial, torch.ones_like(y), (slope == 0).flatten(1).all(dim=1))


class RandomFGSM(BatchedAttack):
    """White-box L∞ attack of one step, from a random point: it sees past gradients that vanish at the image itself.

        x′ = x + ε₁ · sign N(0, I),   x_adv = x′ + (ε - ε₁) · sign ∇_x′ CE(x′, y)   (minus for a target).

    Both points are clipped to `clip_values`, as in the authors' code. One query and one gradient for each image.

    Source: Tramèr, Kurakin, Papernot, Goodfellow, Boneh, McDaniel 2018; Defensive Quantization uses it with ε₁ = ε/2.

    Args:
        estimator: an ART classifier that gives logits and has gradients.
        eps: ε, radius of the L∞ ball, in pixel values, at least 0; default 8/255 of their range.
        random_eps: ε₁, the random step, from 0 to `eps`; `None` is `eps / 2`.
        targeted, seed, verbose: see `BatchedAttack`.
        batch_size: images attacked together.

    Raises:
        InvalidInputError: a parameter is out of its range.

    Warns:
        UserWarning: the gradient at x′ is zero for some of the images.
    """

    attack_params = [*BatchedAttack.attack_params, "eps", "random_eps", "targeted"]
    _estimator_requirements = (*BatchedAttack._estimator_requirements, LossGradientsMixin)

    def __init__(
        self,
        estimator: Any,
        eps: Length = Share(8 / 255),
        random_eps: Length | None = None,
        targeted: bool = False,
        batch_size: int = 128,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, targeted, batch_size, seed, verbose)
        self.eps = self.in_pixels("eps", eps)
        self.random_eps = None if random_eps is None else self.in_pixels("random_eps", random_eps)
        self._check_params()

    def _search(self, oracle: Oracle, x: Tensor, y: Tensor, generators: Generators) -> Iterator[Found]:
        yield random_fgsm(
            oracle.gradient,
            x,
            y,
            targeted=self.targeted,
            eps=self.eps,
            random_eps=self.eps / 2 if self.random_eps is None else self.random_eps,
            clip_values=self._limits(),
            generators=generators,
        )

    def _check_params(self) -> None:
        super()._check_params()
        self.eps = self.checked_eps("eps", self.eps)
        if self.random_eps is not None:
            self.random_eps = self.checked_eps("random_eps", self.random_eps)
            if self.random_eps > self.eps:
                raise InvalidInputError(f"random_eps: expected at most eps={self.eps:g}, got {self.random_eps:g}")
