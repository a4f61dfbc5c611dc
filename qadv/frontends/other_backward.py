"""Other straight-through estimators for a network's activations: the same outputs to the bit, other gradients."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from qadv.frontends.find import quantized_activations
from qadv.frontends.frontend import QuantizedActivation
from qadv.quantization.clip import inclusive_clip
from qadv.quantization.quantizer import straight_through

Surrogate = Callable[[QuantizedActivation, Tensor], Tensor]


def identity(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """Gradient 1 everywhere, also where the activation is clipped."""
    return x


def clipped(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """Gradient 1 between the lowest and the highest level, both included, and 0 outside."""
    return inclusive_clip(x, *quantizer.ends(x))


def soft_tanh(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """A tanh from the lowest to the highest level, with slope 1 in the middle: its gradient vanishes slowly."""
    low, high = quantizer.ends(x)
    middle, half = (low + high) / 2, (high - low) / 2 or 1.0  # all of one value, where the scale follows what comes
    return middle + half * torch.tanh((x - middle) / half)


def float_activation(quantizer: QuantizedActivation, x: Tensor) -> Tensor:
    """The gradient of the float network: that of the replaced ReLU, with its bound, else that of the identity."""
    return quantizer.unquantized(x)


SURROGATES: dict[str, Surrogate] = {
    "identity": identity,
    "clipped": clipped,
    "tanh": soft_tanh,
    "float": float_activation,
}


@contextmanager
def other_backward(model: nn.Module, surrogate: Surrogate) -> Iterator[int]:
    """Gives all activations and layer inputs of a network the gradient of `surrogate`, while the block runs.

    A surrogate takes a quantizer and its input to a differentiable function of the input, of its shape. Yields how many
    quantizers were changed, 0 in a float network; their parameters, as PACT's α, get no gradient meanwhile.
    """
    places = {quantizer.place: quantizer for quantizer in quantized_activations(model)}
    with ExitStack() as stack:
        for (owner, name), quantizer in places.items():
            if name not in vars(owner):
                function = partial(_with_gradient_of, surrogate, quantizer, quantizer.function())
                stack.enter_context(quantizer.replaced_by(function))
        yield len(places)


def _with_gradient_of(
    surrogate: Surrogate, quantizer: QuantizedActivation, quantize: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    with torch.no_grad():
        value = quantize(x)
    return straight_through(surrogate(quantizer, x), value) if x.requires_grad else value
