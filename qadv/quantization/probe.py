"""Runs one image through a quantized network and reports what conversion could not see: code that works around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qadv.errors import UnsupportedModelError
from qadv.quantization.layers import QuantActivation

_ACTIVATIONS = {
    F.relu, torch.relu, torch.relu_, F.relu6, Tensor.relu, Tensor.relu_, F.gelu, F.silu, F.hardswish, F.elu,
    F.leaky_relu, F.mish, F.selu,
}  # fmt: skip
_LAYERS = {F.linear, F.conv2d, F.conv1d, F.conv3d, F.conv_transpose2d, torch.conv2d}


@contextmanager
def report_bypasses(model: nn.Module) -> Iterator[None]:
    """Watches one forward pass inside the block; for a network that `quantize` did not make, does nothing.

    Raises:
        UnsupportedModelError: the network's own code calls an activation or a layer as a function, so that it stays
            float in silence, or reads a tensor after an in-place ReLU changed it.
    """
    quantization = getattr(model, "qadv_quantization", None)
    if quantization is None:
        yield
        return
    # where the inputs of layers are quantized, it does not matter how their activations are written
    inputs = any(getattr(module, "input_quantizer", None) is not None for module in model.modules())
    activations = quantization["activations"] != "float" and not inputs
    watch = _Watch(activations, weights=quantization["weights"] != "float")
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, _, name=name: watch.enter(m, name)))
        handles.append(module.register_forward_hook(lambda m, inputs, _: watch.leave(m, inputs)))
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()
    if watch.found:
        raise UnsupportedModelError(
            f"the network's code works around its quantization: {'; '.join(dict.fromkeys(watch.found))}. Use modules "
            "(nn.ReLU, nn.Conv2d, nn.Linear) that are called in forward"
        )


class _Watch(TorchFunctionMode):
    def __init__(self, activations: bool, weights: bool) -> None:
        super().__init__()
        self.found: list[str] = []
        self._functions = (_ACTIVATIONS if activations else set()) | (_LAYERS if weights else set())
        self._stack: list[tuple[nn.Module, str]] = []
        self._changed: list[Tensor] = []  # inputs of what were in-place ReLUs

    def enter(self, module: nn.Module, name: str) -> None:
        self._stack.append((module, name))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._stack.pop()
        if isinstance(module, QuantActivation) and module.replaces_inplace:
            self._changed += [tensor for tensor in inputs if isinstance(tensor, Tensor)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        module, name = self._stack[-1] if self._stack else (None, "")
        own_code = module is not None and not type(module).__module__.startswith(("torch.nn.", "brevitas."))
        own_code = own_code and not isinstance(module, nn.Linear | nn.modules.conv._ConvNd | QuantActivation)
        if own_code and func in self._functions:
            self.found.append(f"{name or 'forward'} ({type(module).__name__}) calls {func.__name__} as a function")
        if any(isinstance(a, Tensor) and any(a is changed for changed in self._changed) for a in args):
            self.found.append(f"{name or 'forward'} reads a tensor after nn.ReLU(inplace=True) changed it")
        return func(*args, **(kwargs or {}))
