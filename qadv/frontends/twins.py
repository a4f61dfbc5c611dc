"""Networks that have values and no gradients: these are a twin's, which computes the same in torch's own operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qadv.errors import NoGradientError
from qadv.frontends.outputs import logits_of
from qadv.quantization.form import FormOptions

_NONE = (
    "the network gives no gradient of its logits with respect to its images. Attacks that ask for values alone need "
    "none: Square, SPSA, N-Attack, ZOO, HopSkipJump, Boundary, SimBA, SignOPT; or give a network whose gradients "
    "stand for its own: QuantizedClassifier(..., surrogate=network)"
)


class _ValueOfOne(torch.autograd.Function):
    """The value itself, with the gradient of another's output."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, twin: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        return None, grad_outputs[0]


class _NoGradient(torch.autograd.Function):
    """Images and their logits; who asks for the gradient is told how to do without."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        raise NoGradientError(_NONE)


def value_without_gradient(value: Tensor, x: Tensor) -> Tensor:
    """Returns logits whose backward pass towards the images `x` says that there is none."""
    return _NoGradient.apply(value, x)  # type: ignore[no-any-return]


class TwinForm:
    """Values of a network, gradients of its twin; where no gradient is recorded, only the network runs.

    Args:
        values: images (N, …) → logits, as the network or a runtime computes them; what it records of gradients is not
            used.
        twin: the same function of torch operators, or about the same; `None` where there is none: values have no
            gradient then, and who asks for one is told.
        options: for the form's users; nothing is done differently.
    """

    def __init__(self, values: Callable[[Tensor], Any], twin: nn.Module | None, options: FormOptions) -> None:
        self.options = options
        self.twin = twin
        self._values = values

    def __call__(self, x: Any, method: str = "__call__") -> Any:
        """Images (N, …) → logits.

        Raises:
            NoGradientError: in the backward pass, where there is no twin.
        """
        with torch.no_grad():
            value = logits_of(self._values(x))
        if not torch.is_grad_enabled() or not x.requires_grad:
            return value
        if self.twin is None:
            return value_without_gradient(value, x)
        self.twin.eval()
        return _ValueOfOne.apply(value, logits_of(self.twin(x)))
