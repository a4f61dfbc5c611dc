"""How a network's weights and activations are rounded, and the same network rounded in other ways."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.frontends import QuantizedActivation, QuantizedWeights, quantizers
from qadv.transformers import rebuilt

Change = Callable[[Tensor], Tensor]


def roundings(model: nn.Module) -> dict[str, QuantizedWeights]:
    """Returns those quantized weights of which a network still has the float ones, as `latent`, by layer.

    Raises:
        UnsupportedModelError: there are none, as in a float or a frozen network or a file.
    """
    weights = [found for found in quantizers(model) if isinstance(found, QuantizedWeights)]
    if not (kept := {found.layer: found for found in weights if found.latent is not None}):
        raise UnsupportedModelError("the network has no quantized weights with the float ones that they round")
    return kept


@torch.no_grad()
def with_weights(classifier: Any, weights: Mapping[str, Tensor]) -> Any:
    """Returns a classifier round a copy of the network that computes with these weights, by layer, as they are."""
    model = copy.deepcopy(classifier.model)
    for name, values in weights.items():
        layer = cast(Any, model.get_submodule(name))
        layer.weight.copy_(values)
        if hasattr(layer, "weight_quant"):  # Brevitas's layers, and qadv's, which are
            layer.weight_quant.disable_quant = True
    return rebuilt(classifier, model)


def with_errors(classifier: Any, change: Change, activations: bool = False) -> Any:
    """Returns a classifier round a copy of the network with other rounding errors.

    Args:
        classifier: its network is quantized and has its float weights.
        change: what an error, of a layer's weights or of activations, is replaced by; a tensor as it is.
        activations: whether those of activations are replaced too.
    """
    found = roundings(classifier.model)
    made = with_weights(
        classifier, {name: each.latent + change(each.value - each.latent) for name, each in found.items()}
    )
    for quantizer in quantizers(made.model) if activations else ():
        if isinstance(quantizer, QuantizedActivation):
            owner, name = quantizer.place
            vars(owner)[name] = quantizer.adapted(_with_error(quantizer, quantizer.function(), change))
    return made


def _with_error(quantizer: QuantizedActivation, function: Change, change: Change) -> Change:
    def rounded(x: Tensor) -> Tensor:
        kept = quantizer.unquantized(x)
        return kept + change((function(x) - kept).detach())

    return rounded
