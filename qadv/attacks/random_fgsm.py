"""R+FGSM: a random step, then a gradient sign step."""

from collections.abc import Callable

import torch
from torch import Tensor

from qadv.attacks import Eps, Found, FunctionAttack, Generators, normal
from qadv.errors import InvalidInputError
from qadv.units import Share


def random_fgsm(
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    limits: tuple[float, float],
    generators: Generators,
    eps: Eps = Share(8 / 255),
    random_eps: Eps | None = None,
    targeted: bool = False,
) -> Found:
    """White-box L∞ attack of one step, from a random point: it sees past gradients that vanish at the image itself.

        x′ = x + ε₁ · sign N(0, I),   x_adv = x′ + (ε - ε₁) · sign ∇_x′ CE(x′, y)   (minus for a target).

    Both points are clipped to `clip_values`, as in the authors' code. One query and one gradient for each image.

    Source: Tramèr et al., ICLR 2018, arXiv:1705.07204; Defensive Quantization uses it with ε₁ = ε/2.

    Args:
        eps: ε, radius of the L∞ ball, in pixel values, at least 0; default 8/255 of their range.
        random_eps: ε₁, the random step, from 0 to `eps`; `None` is `eps / 2`.
        others: see `FunctionAttack`.
    """
    random_eps = eps / 2 if random_eps is None else random_eps
    start = (x + random_eps * normal(generators, x.shape[1:]).sign()).clamp(*limits)
    _, slope = gradient(start, y)
    step = (eps - random_eps) * slope.sign()
    adversarial = (start - step if targeted else start + step).clamp(*limits)
    return Found(adversarial, torch.ones_like(y), (slope == 0).flatten(1).all(dim=1))


class RandomFGSM(FunctionAttack):
    run = random_fgsm

    def _check_params(self) -> None:
        super()._check_params()
        if self.random_eps is not None and self.random_eps > self.eps:
            raise InvalidInputError(f"random_eps: expected at most eps={self.eps:g}, got {self.random_eps:g}")
