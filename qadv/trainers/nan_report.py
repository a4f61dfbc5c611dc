"""Finds the layer where a value stops being finite."""

from typing import Any

import torch
from torch import Tensor, nn

from qadv.recording import recording


@torch.no_grad()
def first_bad_layer(model: nn.Module, x: Tensor) -> str:
    """Returns the first executed layer whose parameters or output are not finite, or `"the loss itself"`."""
    found: list[str] = []

    def check(name: str, _: Any, output: Any) -> None:
        if found:
            return
        if any(not torch.isfinite(p).all() for p in layers[name].parameters(recurse=False)):
            found.append(f"{name} (its parameters)")
        elif isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(f"{name} (its output)")

    layers = {name: layer for name, layer in model.named_modules() if name and not list(layer.children())}
    with recording(layers, leaving=check):
        model(x)
    return found[0] if found else "the loss itself"
