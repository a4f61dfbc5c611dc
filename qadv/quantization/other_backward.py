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
    """A tanh from the lowest to the highest level with slope 1 between them: its gradient vanishes nowhere near."""
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

    Args:
        model: a network that `quantize` made, trainable or frozen; a float one has nothing to change.
        surrogate: quantizer and its input, any shape, to a differentiable function of the input of that shape; only
            its gradient is used.

    Yields:
        The number of quantizers changed. Parameters of quantizers, as PACT's α, get no gradient meanwhile.
    """
    changed: list[ActivationQuantizer] = []
    for _, quantizer in activation_quantizers(model):
        if "quantize" not in vars(quantizer):  # one quantizer may stand in several places
            vars(quantizer)["quantize"] = partial(_with_gradient_of, surrogate, quantizer, quantizer.quantize)
            changed.append(quantizer)
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
