"""What a layer of a classifier's network gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from brevitas.quant_tensor import QuantTensor
from torch import Tensor, nn

from qadv.checks import is_whole
from qadv.errors import InvalidInputError, closest
from qadv.recording import recording


def find_layer(model: nn.Module, layer: Any, layer_names: list[str]) -> tuple[str, nn.Module]:
    """Returns a submodule and its name, from the name or from an index into `layer_names`; refuses what is none."""
    modules = dict(model.named_modules())
    del modules[""]
    if isinstance(layer, str) and layer in modules:
        return layer, modules[layer]
    if is_whole(layer) and -len(layer_names) <= layer < len(layer_names):
        return layer_names[layer], modules[layer_names[layer]]
    hint = closest(layer, modules) if isinstance(layer, str) else ""
    raise InvalidInputError(
        f"layer: expected a name from model.named_modules() or an index below {len(layer_names)} into "
        f"layer_names, got {layer!r}{hint}"
    )


@contextmanager
def output_of(name: str, module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the tensors that a layer gives while the block runs."""
    found: list[Tensor] = []

    def note(name: str, _: Any, output: Any) -> None:
        output = output.value if isinstance(output, QuantTensor) else output
        if not isinstance(output, Tensor):
            raise InvalidInputError(f"layer {name!r} gives no tensor but a {type(output).__name__}; take one inside it")
        found.append(output.dequantize() if output.is_quantized else output)

    with recording({name: module}, leaving=note):
        yield found


def activations(network: nn.Module, x: Tensor, name: str, module: nn.Module) -> Tensor:
    """Returns what a layer gives for one batch, the last if it runs several times; refuses one that gives nothing."""
    with output_of(name, module) as found:
        network(x)
        if not found and not x.requires_grad:  # a file's layers run in its twin, where a gradient is asked for
            with torch.enable_grad():
                network(x.clone().requires_grad_())
            found = [each.detach() for each in found]
    if not found:
        raise InvalidInputError(f"layer {name!r} does not run in a forward pass; choose another")
    return found[-1]
