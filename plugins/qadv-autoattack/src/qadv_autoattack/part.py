"""`OfficialPart`: an attack of the official code as an ART attack."""

from abc import abstractmethod
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

import qadv
from qadv.attacks import Length, OneOf, Radius
from qadv.errors import InvalidInputError
from qadv_autoattack.abstention import AbstentionHolds, abstains, check_no_abstention, nb_answers
from qadv_autoattack.flags import Flags
from qadv_autoattack.norms import OFFICIAL

Norm = Annotated[float | str, OneOf(*OFFICIAL)]
Eps = Annotated[Length, Field(gt=0), Radius("norm")]


class OfficialPart(qadv.FunctionAttack):
    """Base class of AutoAttack's parts: untargeted, and only images that are classified correctly are changed.

    A subclass says in `official` which attack of the official code runs, and its `run` has that one's options. What it
    returns is adversarial and within `eps`, or the image as given.

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
        partial: see `qadv.FunctionAttack`.
        flags: what the official code found suspicious in the last `generate`, as texts; zero gradients, mostly.

    Raises:
        InvalidInputError: a parameter is off, or the attack does not exist for that many classes or such images.
    """

    batch_size = 250
    fewest_classes = 2

    @cached_property
    def flags(self) -> Flags:
        return Flags()

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns images, adversarial where one was found; see `qadv.FunctionAttack.generate`."""
        self.flags = Flags()
        return super().generate(x, y, **kwargs)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Attacks one batch, pixels in [0, 1]."""
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
        if self.nb_answers < self.fewest_classes:
            raise InvalidInputError(
                f"estimator: {type(self).__name__} compares {self.fewest_classes} logits, so it needs a network with "
                f"that many classes, got {self.nb_answers}; use aa-apgd-ce, aa-fab or aa-square"
            )
