"""`OfficialPart`: an attack of the official code as an ART attack."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

import qadv
from qadv.attacks import check_eps, check_flag
from qadv.errors import InvalidInputError
from qadv.units import Length, Share
from qadv_autoattack.abstention import AbstentionHolds, abstains, check_no_abstention, nb_answers
from qadv_autoattack.flags import Flags
from qadv_autoattack.norms import OFFICIAL


class OfficialPart(qadv.ToolkitAttack):
    """Base class of AutoAttack's parts: untargeted, and only images that are classified correctly are changed.

    A subclass says in `official` which attack of the official code runs. What it returns is adversarial and within
    `eps`, or the image as given.

    Args:
        estimator: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier`.
        norm: inf, 2 or 1, as in ART.
        eps: radius of the ball, in the units of `clip_values`, above 0; default 8/255 of their range.
        batch_size: images attacked together. Random draws depend on it, as in the official code.
        seed: seeds each batch, as in the official code; `None` draws one from numpy's global state.
        abstention_breaks: of an ensemble that abstains: whether "no prediction" is a success. `False` goes for wrong
            answers only, and attacks the images of each class apart.
        verbose: show progress.

    Attributes:
        partial: see `qadv.ToolkitAttack`.
        flags: what the official code found suspicious in the last `generate`, as texts; zero gradients, mostly.

    Raises:
        InvalidInputError: a parameter is off, or the attack does not exist for that many classes or such images.
    """

    attack_params = [
        *(name for name in qadv.ToolkitAttack.attack_params if name != "targeted"),
        "norm",
        "eps",
        "abstention_breaks",
    ]
    fewest_classes = 2

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: float | str = np.inf,
        eps: Length = Share(8 / 255),
        batch_size: int = 250,
        seed: int | None = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator, batch_size=batch_size, seed=seed, verbose=verbose)
        self.norm = norm
        self.eps = self.in_pixels("eps", eps)
        self.abstention_breaks = abstention_breaks
        self.flags = Flags()

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns images, adversarial where one was found; see `qadv.ToolkitAttack.generate`."""
        self.flags = Flags()
        return super().generate(x, y, **kwargs)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        if self.abstention_breaks or not abstains(self.estimator):
            return self._run(model, x, y, seed)
        check_no_abstention(self.estimator, y)
        found = x.clone()
        for label in sorted(set(y.tolist())):
            rows = y == label
            found[rows] = self._run(AbstentionHolds(model, label), x[rows], y[rows], seed)
        return found

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        with torch.no_grad():  # as the official driver does: APGD would keep the graphs of all its steps
            found: Tensor = self.official(model, x.device, seed).perturb(x.clone(), y.clone())
        finite = found.isfinite().flatten(1).all(dim=1).view(-1, *[1] * (x.ndim - 1))
        return torch.where(finite, found, x)  # FAB's projection divides by gradients, which may be zero

    @abstractmethod
    def official(self, model: nn.Module, device: torch.device, seed: int) -> Any:
        """Returns the official attack, whose `perturb(x, y)` is called.

        Args:
            model: images in [0, 1] → logits.
            device: where the images are.
            seed: for its random draws.
        """

    @property
    def nb_answers(self) -> int:
        """Number of classes that the attack can go for."""
        return nb_answers(self.estimator, self.abstention_breaks)

    def common(self, device: torch.device, seed: int) -> dict[str, Any]:
        """Returns the arguments that all official attacks take."""
        eps = self.in_unit_range(self.eps)
        return {"norm": OFFICIAL[self.norm], "eps": eps, "seed": seed, "device": device, "verbose": False}

    def _check_params(self) -> None:
        super()._check_params()
        self.eps = checked_eps(self.estimator, self.norm, self.eps)
        check_flag("abstention_breaks", self.abstention_breaks)
        if self.nb_answers < self.fewest_classes:
            raise InvalidInputError(
                f"estimator: {type(self).__name__} compares {self.fewest_classes} logits, so it needs a network with "
                f"that many classes, got {self.nb_answers}; use aa-apgd-ce, aa-fab or aa-square"
            )


def checked_eps(estimator: Any, norm: Any, eps: Any) -> float:
    """Returns a radius as a number; refuses one above the largest distance, and norms that the official code lacks."""
    if not isinstance(norm, int | float | str) or norm not in OFFICIAL:
        raise InvalidInputError(f"norm: expected inf, 2 or 1, got {norm!r}")
    nb_values = math.prod(estimator.input_shape)
    return check_eps("eps", eps, estimator.clip_values, float(norm), nb_values)
