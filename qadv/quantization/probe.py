"""Runs one image through a quantized network and reports what conversion could not see: code that works around it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qadv.errors import UnsupportedModelError
from qadv.outputs import logits_of
from qadv.quantization.attention import is_uncaught_product
from qadv.quantization.layers import QuantActivation, activation_quantizers
from qadv.quantization.plan import UNSIGNED, Plan
from qadv.quantization.rules import Rules
from qadv.recording import recording

_LAYERS = {F.linear, F.conv2d, F.conv1d, F.conv3d, F.conv_transpose2d, torch.conv2d}
_TOLERANCE = 1e-4  # of a step: what float32 leaves of a multiple


@contextmanager
def report_bypasses(model: nn.Module) -> Iterator[None]:
    """Watches one forward pass inside the block; for a network that `quantize` did not make, does nothing.

    Raises:
        UnsupportedModelError: the network's own code calls a layer as a function, so that its weights stay float in
            silence, or multiplies activations where no quantizer sees it, or reads a tensor after an in-place ReLU
            changed it; or the input of a layer is not on the levels of the activation that conversion found before it,
            or is negative where conversion found that it is not.
    """
    recipe = getattr(model, "qadv_quantization", None)
    if recipe is None:
        yield
        return
    modules = dict(model.named_modules())
    watch = _Watch(modules, recipe)
    with recording(modules, watch.enter, watch.leave), watch:
        yield
    if watch.found:
        raise UnsupportedModelError(
            f"the network's code works around its quantization: {'; '.join(dict.fromkeys(watch.found))}. Use modules "
            "(nn.ReLU, nn.Conv2d, nn.Linear) that are called in forward"
        )


def report_mixing(model: nn.Module, image: Tensor) -> None:
    """Asks a network whose attention is quantized about an image (1, …) beside one of NaN, which may change nothing.

    If the image's own scales depend on the other one, that is an `UnsupportedModelError`.
    """
    recipe = getattr(model, "qadv_quantization", None) or {}
    if "attention" not in recipe:
        return
    alone, beside = (logits_of(model(x))[0] for x in (image, torch.cat([image, image * math.nan])))
    if alone.isfinite().all() and not beside.isfinite().all():
        raise UnsupportedModelError(
            "attention: images would be rounded by scales that they share, since the network's code has heads or "
            "tokens in front of the images where it multiplies: (N, heads, tokens, channels) is right"
        )


class _Watch(TorchFunctionMode):
    def __init__(self, modules: Mapping[str, nn.Module], recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._attention = Rules(recipe.get("attention", "float"), "attention")
        self._modules = modules
        self._sources = Plan.from_dict(recipe["plan"]).inputs
        self._quantizers = dict(activation_quantizers(modules[""]))
        self._functions = _LAYERS if recipe["weights"] != "float" else set()
        self._stack: list[str] = []
        self._changed: list[Tensor] = []  # inputs of what were in-place ReLUs

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        self._stack.append(name)
        source = self._sources.get(name)
        if source in self._quantizers:
            x, quantizer = inputs[0], self._quantizers[source]
            levels = quantizer.levels().detach().to(x)
            above = torch.bucketize(x.detach(), levels).clamp(1, len(levels) - 1)
            distance = torch.minimum((x - levels[above]).abs(), (x - levels[above - 1]).abs())
            if distance.max() > _TOLERANCE * quantizer.scale:
                self.found.append(f"the input of {name} is not on the {len(levels)} levels of {source}")
        elif source == UNSIGNED and inputs[0].min() < -_TOLERANCE * self._quantizers[name].scale:
            self.found.append(f"the input of {name} has values below 0, which its quantizer has no levels for")

    def leave(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        self._stack.pop()
        module = self._modules[name]
        if isinstance(module, QuantActivation) and module.replaces_inplace:
            self._changed += [tensor for tensor in inputs if isinstance(tensor, Tensor)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self._stack[-1] if self._stack else ""
        module = self._modules[name] if self._stack else None
        own_code = module is not None and not type(module).__module__.startswith(("torch.nn.", "brevitas."))
        own_code = own_code and not isinstance(module, nn.Linear | nn.modules.conv._ConvNd | QuantActivation)
        if own_code and func in self._functions:
            self.found.append(f"{name or 'forward'} ({type(module).__name__}) calls {func.__name__} as a function")
        if own_code and is_uncaught_product(func) and self._attention.find(name)[1] is not None:
            self.found.append(f"{name or 'forward'} multiplies activations in a function, where attention stays float")
        if any(isinstance(a, Tensor) and any(a is changed for changed in self._changed) for a in args):
            self.found.append(f"{name or 'forward'} reads a tensor after nn.ReLU(inplace=True) changed it")
        return func(*args, **(kwargs or {}))
