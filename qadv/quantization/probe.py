"""Runs one image through a quantized network and reports what conversion could not see: code that works around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qadv.errors import UnsupportedModelError
from qadv.quantization.layers import QuantActivation, activation_quantizers
from qadv.quantization.plan import UNSIGNED, Plan
from qadv.quantization.quantizer import ActivationQuantizer

_LAYERS = {F.linear, F.conv2d, F.conv1d, F.conv3d, F.conv_transpose2d, torch.conv2d}
_TOLERANCE = 1e-4  # of a step: what float32 leaves of a multiple


@contextmanager
def report_bypasses(model: nn.Module) -> Iterator[None]:
    """Watches one forward pass inside the block; for a network that `quantize` did not make, does nothing.

    Raises:
        UnsupportedModelError: the network's own code calls a layer as a function, so that its weights stay float in
            silence, or reads a tensor after an in-place ReLU changed it; or the input of a layer is not on the levels
            of the activation that conversion found before it, or is negative where conversion found that it is not.
    """
    recipe = getattr(model, "qadv_quantization", None)
    if recipe is None:
        yield
        return
    watch = _Watch(weights=recipe["weights"] != "float")
    plan = Plan.from_dict(recipe["plan"])
    quantizers = dict(activation_quantizers(model))
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, _, name=name: watch.enter(m, name)))
        handles.append(module.register_forward_hook(lambda m, inputs, _: watch.leave(m, inputs)))
        source = plan.inputs.get(name)
        if source in quantizers:
            check = partial(watch.check_levels, name, source, quantizers[source])
        elif source == UNSIGNED:
            check = partial(watch.check_sign, name, quantizers[name])
        else:
            continue
        handles.append(module.register_forward_pre_hook(lambda _, inputs, check=check: check(inputs[0])))
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
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.found: list[str] = []
        self._functions = _LAYERS if weights else set()
        self._stack: list[tuple[nn.Module, str]] = []
        self._changed: list[Tensor] = []  # inputs of what were in-place ReLUs

    def enter(self, module: nn.Module, name: str) -> None:
        self._stack.append((module, name))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._stack.pop()
        if isinstance(module, QuantActivation) and module.replaces_inplace:
            self._changed += [tensor for tensor in inputs if isinstance(tensor, Tensor)]

    def check_levels(self, layer: str, source: str, quantizer: ActivationQuantizer, x: Tensor) -> None:
        """Notes a layer whose input is not what an activation gave."""
        levels = quantizer.levels().detach().to(x)
        above = torch.bucketize(x.detach(), levels).clamp(1, len(levels) - 1)
        distance = torch.minimum((x - levels[above]).abs(), (x - levels[above - 1]).abs())
        if distance.max() > _TOLERANCE * quantizer.scale:
            self.found.append(f"the input of {layer} is not on the {len(levels)} levels of {source}")

    def check_sign(self, layer: str, quantizer: ActivationQuantizer, x: Tensor) -> None:
        """Notes a layer whose input has values that its quantizer cuts off, as conversion saw none."""
        if x.min() < -_TOLERANCE * quantizer.scale:
            self.found.append(f"the input of {layer} has values below 0, which its quantizer has no levels for")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        module, name = self._stack[-1] if self._stack else (None, "")
        own_code = module is not None and not type(module).__module__.startswith(("torch.nn.", "brevitas."))
        own_code = own_code and not isinstance(module, nn.Linear | nn.modules.conv._ConvNd | QuantActivation)
        if own_code and func in self._functions:
            self.found.append(f"{name or 'forward'} ({type(module).__name__}) calls {func.__name__} as a function")
        if any(isinstance(a, Tensor) and any(a is changed for changed in self._changed) for a in args):
            self.found.append(f"{name or 'forward'} reads a tensor after nn.ReLU(inplace=True) changed it")
        return func(*args, **(kwargs or {}))
