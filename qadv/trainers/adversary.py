"""How adversarial training examples are made: FGSM, R+FGSM or PGD, L∞, on batches that stay on the device."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qadv.attacks.pgd import ball, between, step
from qadv.checks import check_choice, check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.strengths import check_eps
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective
from qadv.units import Length, Share, in_pixels, limits

ATTACKS = ("fgsm", "r-fgsm", "pgd")


@dataclass(frozen=True)
class Adversary:
    """Makes adversarial versions of training images with the loss of the network as it is in that step.

    Args:
        attack: `"fgsm"`: x + ε·sign ∇. `"r-fgsm"`: a random step x′ = x + ε/2·sign N(0, I), then ε/2·sign ∇ at x′.
            `"pgd"`: a random start in the ε-ball, then `max_iter` steps of `eps_step`·sign ∇, projected each time.
        eps: largest change of a pixel, in the units of `clip_values`, > 0, also as a text, `"8/255"`; default 8/255 of
            their range.
        eps_step: PGD's step, > 0; `None`: 2.5·ε / `max_iter`.
        max_iter: PGD's number of steps; `None`: 10, and with `eps_step` s the rule of Kurakin et al. that DQ uses,
            ⌊min(ε/s + 4, 1.25·ε/s)⌋.
        sampled: ε is drawn for each image, ε′ ~ N(0, `eps`), ε = clip(|ε′|, 0, 2·`eps`), so that training does not
            specialise in one ε (DQ §5.2); the rule above then gives each image its own number of steps.
        ratio: share of each batch that is made adversarial, in (0, 1]; the rest stays clean. As in ART.
    """

    attack: str = "pgd"
    eps: Length = Share(8 / 255)
    eps_step: Length | None = None
    max_iter: int | None = None
    sampled: bool = False
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_choice("attack", self.attack, ATTACKS)
        for name, value in (("eps", self.eps), ("eps_step", self.eps_step)):
            if value is None and name == "eps_step":
                continue
            if not isinstance(value, Share):
                object.__setattr__(self, name, check_eps(name, value))
            elif value.of_range == 0:
                raise InvalidInputError(f"{name}: expected a finite number above 0, got {value!r}")
        if self.max_iter is not None:
            check_fields(self, check_whole, "max_iter")
        if self.attack != "pgd" and (self.eps_step, self.max_iter) != (None, None):
            raise InvalidInputError(f"eps_step, max_iter: {self.attack} takes one step; only pgd has them")
        check_fields(self, check_number, "ratio", most=1)
        check_fields(self, check_flag, "sampled")

    @classmethod
    def of(cls, adversary: "str | Adversary") -> Self:
        """Returns an adversary, made from an attack's name where it is one."""
        if isinstance(adversary, cls):
            return adversary
        if not isinstance(adversary, str):
            raise InvalidInputError(
                f"adversary: expected one of {', '.join(ATTACKS)}, or an Adversary, got {type(adversary).__name__}"
            )
        return cls(adversary)

    def check_range(self, clip_values: Any) -> None:
        """Refuses an ε larger than the range of the pixels."""
        check_eps("eps", self.eps, clip_values)

    def perturb(self, network: TrainedNetwork, x: Tensor, y: Tensor) -> Tensor:
        """Returns adversarial versions of images (N, *input_shape) with labels (N,), within ε and `clip_values`."""
        eps = self._budgets(network, x)
        # where the attack starts, in units of ε: uniform in [-1, 1] for PGD, normal numbers for R+FGSM
        noise = x if self.attack == "fgsm" else network.draw(torch.rand if self.attack == "pgd" else torch.randn, x)
        noise = 2 * noise - 1 if self.attack == "pgd" else noise
        attacked = network.part.first(self.ratio, len(x))
        if not attacked:
            return x
        images, y, eps, noise = x[:attacked], y[:attacked], eps[:attacked], noise[:attacked]
        with network.attacked():
            if self.attack == "pgd":
                perturbed = self._pgd(network, images, y, eps, noise)
            else:
                ends = limits(network.clip_values)
                if self.attack == "r-fgsm":
                    eps = eps / 2
                    images = (images + eps * noise.sign()).clamp(*ends)
                perturbed = (images + eps * network.input_gradient(images, y).sign()).clamp(*ends)
        return torch.cat([perturbed, x[attacked:]])

    def _budgets(self, network: TrainedNetwork, x: Tensor) -> Tensor:
        """Each image's ε in pixel values, broadcasting to `x`."""
        eps, shape = in_pixels("eps", self.eps, network.clip_values), (-1, *[1] * (x.ndim - 1))
        if not self.sampled:
            return torch.full((len(x),), float(eps), device=x.device).reshape(shape)
        normal = network.draw(torch.randn, x, 1)
        return (eps * normal.abs()).clamp(max=2 * eps).reshape(shape)

    def _steps(self, network: TrainedNetwork, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Each image's step, as `eps`, and number of steps, (N,)."""
        count = torch.full((len(eps),), self.max_iter or 10, device=eps.device)
        if self.eps_step is None:
            return 2.5 * eps / (self.max_iter or 10), count
        eps_step = in_pixels("eps_step", self.eps_step, network.clip_values)
        if self.max_iter is None:
            ratio = (eps / eps_step).flatten()
            # a float32 quotient may lie just below the whole number that it stands for
            count = torch.minimum(ratio + 4, 1.25 * ratio).add(1e-4).floor().long()
        return torch.full_like(eps, eps_step), count

    def _pgd(self, network: TrainedNetwork, x: Tensor, y: Tensor, eps: Tensor, noise: Tensor) -> Tensor:
        size, count = self._steps(network, eps)
        # images with many steps first: those that are done leave the batch from its end
        order = count.argsort(descending=True, stable=True)
        x, y, eps, size = x[order], y[order], eps[order], size[order]
        low, high = ball(x, eps, network.clip_values)
        adversarial = between(x + eps * noise[order], low, high)
        counts = count[order].tolist()
        for iteration in range(counts[0] if counts else 0):
            left = sum(number > iteration for number in counts)
            current = adversarial[:left]
            slope = network.input_gradient(current, y[:left])
            moved = step(current, slope, size[:left], low[:left], high[:left])
            adversarial = torch.cat([moved, adversarial[left:]])
        return adversarial[order.argsort()]


class AdversarialInputs(Objective):
    """Replaces each batch, or the adversary's share of it, by what the adversary makes of it."""

    def __init__(self, adversary: Adversary) -> None:
        self.adversary = adversary

    def __repr__(self) -> str:
        return f"AdversarialInputs({self.adversary})"

    def inputs(self, network: TrainedNetwork, x: Tensor, y: Tensor) -> Tensor:
        return self.adversary.perturb(network, x, y)
