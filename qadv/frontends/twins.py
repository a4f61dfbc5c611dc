"""Networks that have values and no gradients: these are a twin's, which computes the same in torch's own operators."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from qadv.derivatives import is_recorded
from qadv.errors import InvalidInputError, NoGradientError
from qadv.modes import evaluation_mode
from qadv.outputs import logits_of
from qadv.quantization.form import FormOptions

_NONE = (
    "the network gives no gradient of its logits with respect to its images. Attacks that ask for values alone need "
    "none: Square, SPSA, N-Attack, ZOO, HopSkipJump, Boundary, SimBA, SignOPT; or give a network whose gradients "
    "stand for its own: QuantizedClassifier(..., surrogate=network)"
)
_NB_IMAGES = 16
_LEAST_AGREEMENT = 0.99


class NoTwinError(Exception):
    """An operator, named here, has no twin."""


class _ValueOfOne(torch.autograd.Function):
    """The value itself, with the gradient of another's output."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, twin: Tensor) -> Tensor:
        return value.clone()  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        return None, grad_outputs[0]


def value_of_one(value: Tensor, twin: Tensor) -> Tensor:
    """Returns a value, with the gradient of another tensor of its shape."""
    return _ValueOfOne.apply(value, twin)  # type: ignore[no-any-return]


class _NoGradient(torch.autograd.Function):
    """Images and their logits; who asks for the gradient is told how to do without."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, why: str) -> Tensor:
        ctx.why = why
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        raise NoGradientError(ctx.why + _NONE)


def value_without_gradient(value: Tensor, x: Tensor, why: str = "") -> Tensor:
    """Returns logits whose backward pass towards the images `x` says that there is none, and before that why."""
    return _NoGradient.apply(value, x, why)  # type: ignore[no-any-return]


class TwinForm:
    """Values of a network, gradients of its twin; where no gradient is recorded, only the network runs.

    Args:
        values: images (N, …) → logits, as the network or a runtime computes them.
        twin: the same function of torch operators, or about the same; `None` where there is none: values have no
            gradient then, and who asks for one is told.
        options: for the form's users; nothing is done differently.
        exact: the twin's values are the network's to the bit, so that it runs alone where a gradient is asked for.
        name: whose gradients they are, for messages.

    Attributes:
        agreement: share of so many `images` on which network and twin were compared that both put into one class, those
            of `compare` and of the first gradient; `None` before.
        difference: the largest difference of their logits on these.
    """

    def __init__(
        self,
        values: Callable[[Tensor], Any],
        twin: nn.Module | None,
        options: FormOptions = FormOptions(),  # noqa: B008  (frozen)
        exact: bool = False,
        name: str = "a twin's",
    ) -> None:
        self.options = options
        self.twin = twin
        self.agreement: float | None = None
        self.difference: float | None = None
        self.images = 0
        self._values = values
        self._why = ""
        self._has_met = False  # images of a gradient
        self._exact = exact
        self._name = name

    def __call__(self, x: Any, method: str = "__call__") -> Any:
        """Images (N, …) → logits; without a twin the backward pass is a `NoGradientError`."""
        asked = is_recorded(x)
        if asked and self.twin is not None:
            if self.agreement is None:
                self._has_met = True
                self.compare(_drawn_like(x.detach()))
            if self._exact and self.difference == 0 and self.twin is not None:
                return logits_of(self.twin(x))
        if not asked:  # the network's own parameters keep their gradients
            return logits_of(self._values(x))
        with torch.no_grad():
            value = logits_of(self._values(x))
        if self.twin is None:
            return value_without_gradient(value, x, self._why)
        with evaluation_mode(self.twin):
            found = logits_of(self.twin(x))
        if not self._has_met and len(x):
            self._has_met = True
            self._judge(found.detach(), value)
        return value_of_one(value, found)

    @property
    def gradients_of(self) -> str:
        """Whose gradients they are, and how often it agrees; "" where that is nobody."""
        if self.twin is None or self.agreement is None:
            return "" if self.twin is None else self._name
        if self.difference == 0:
            return f"{self._name}, with the network's values to the bit on {self.images} images"
        return f"{self._name}, with the network's class on {self.agreement:.1%} of {self.images} images"

    @torch.no_grad()
    def compare(self, batches: Sequence[Tensor]) -> None:
        """Compares the twin with the network on images, a batch at a time; other classes are an `InvalidInputError`.

        Warns:
            UserWarning: on less than 99 % of the images both give the same class.
        """
        twin = cast(nn.Module, self.twin)
        try:
            with evaluation_mode(twin):
                pairs = [(logits_of(twin(images)), logits_of(self._values(images))) for images in batches]
        except NoTwinError as error:
            self.twin, self._why = None, f"{error} has no twin, so "
            return
        self._judge(*(torch.cat(logits) for logits in zip(*pairs, strict=True)))

    def _judge(self, found: Tensor, expected: Tensor) -> None:
        """Takes more logits of the twin and of the network into account."""
        if found.shape != expected.shape:
            shapes = f"expected logits of shape {tuple(expected.shape)}, got {tuple(found.shape)}"
            raise InvalidInputError(f"gradients are to be {self._name}: {shapes}")
        before, same = (self.agreement or 0.0) * self.images, found.argmax(dim=1) == expected.argmax(dim=1)
        self.images += len(found)
        self.agreement = (before + same.sum().item()) / self.images
        self.difference = max((found - expected).abs().max().item(), self.difference or 0.0)  # in this order NaN stays
        if not self.agreement >= _LEAST_AGREEMENT:
            warnings.warn(
                f"gradients are {self.gradients_of}: they come from another function, so that attacks by gradients may "
                "find less than there is to find",
                stacklevel=3,
            )


def _drawn_like(x: Tensor) -> list[Tensor]:
    """Returns 16 images, or more, between the smallest and the largest value of `x`, and `x` itself.

    In batches of as many as `x` has: an exported graph may take no other.
    """
    generator, (low, high) = torch.Generator().manual_seed(0), (end.item() for end in x.aminmax())
    batches = math.ceil(_NB_IMAGES / max(len(x), 1))
    drawn = low + (high - low) * torch.rand(batches, *x.shape, generator=generator)
    return [*drawn.to(x), x]
