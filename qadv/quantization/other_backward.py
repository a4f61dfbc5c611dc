"""Other straight-through estimators for a network's activations: the same outputs to the bit, other gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from qadv.quantization.clip import inclusive_clip
from qadv.quantization.layers import activation_quantizers
from qadv.quantization.quantizer import ActivationQuantizer, straight_through

Surrogate = Callable[[ActivationQuantizer, Tensor], Tensor]


def identity(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Gradient 1 everywhere, also where the activation is clipped."""
    return x


def clipped(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Gradient 1 between the lowest and the highest level, both included, and 0 outside."""
    return inclusive_clip(x, *_ends(quantizer))


def soft_tanh(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """A tanh from the lowest to the highest level, with slope 1 in the middle: its gradient vanishes slowly."""
    low, high = _ends(quantizer)
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * torch.tanh((x - middle) / half)


def float_activation(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """The gradient of the float network: that of the replaced ReLU, with its bound, else that of the identity."""
    return quantizer.unquantized(x)


SURROGATES: dict[str, Surrogate] = {
    "identity": identity,
    "clipped": clipped,
    "tanh": soft_tanh,
    "float": float_activation,
}


def _ends(quantizer: ActivationQuantizer) -> tuple[float, float]:
    levels = quantizer.levels()
    return levels[0].item(), levels[-1].item()


@contextmanager
def other_backward(model: nn.Module, surrogate: Surrogate) -> Iterator[int]:
    """Gives all activations and layer inputs of a network the gradient of `surrogate`, while the block runs.

    A surrogate takes a quantizer and its input to a differentiable function of the input, of its shape. Yields how many
    quantizers were changed, 0 in a float network; their parameters, as PACT's α, get no gradient meanwhile.
    """
    with quantizing_with(model, lambda own: partial(_with_gradient_of, surrogate, own, own.quantize)) as changed:
        yield changed


@contextmanager
def quantizing_with(
    model: nn.Module, make: Callable[[ActivationQuantizer], Callable[[Tensor], Tensor]]
) -> Iterator[int]:
    """Puts what `make` gives for each activation quantizer in the place of its `quantize`; yields their number."""
    changed = {q: make(q) for _, q in activation_quantizers(model) if "quantize" not in vars(q)}
    for quantizer, quantize in changed.items():
        vars(quantizer)["quantize"] = quantize
    try:
        yield len(changed)
    finally:
        for quantizer in changed:
            del vars(quantizer)["quantize"]


def _with_gradient_of(
    surrogate: Surrogate, quantizer: ActivationQuantizer, quantize: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    with torch.no_grad():
        value = quantize(x)
    return straight_through(surrogate(quantizer, x), value) if x.requires_grad else value
