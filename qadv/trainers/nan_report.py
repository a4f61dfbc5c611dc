"""Finds the layer where a value stops being finite."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_bad_layer(model: nn.Module, x: Tensor) -> str:
    """Returns the first executed layer whose parameters or output are not finite, or `"the loss itself"`."""
    found: list[str] = []

    def check(name: str, layer: nn.Module, output: Any) -> None:
        if found:
            return
        if any(not torch.isfinite(p).all() for p in layer.parameters(recurse=False)):
            found.append(f"{name} (its parameters)")
        elif isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(f"{name} (its output)")

    handles = [
        layer.register_forward_hook(lambda module, _, output, name=name: check(name, module, output))
        for name, layer in model.named_modules()
        if name and not list(layer.children())
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"
