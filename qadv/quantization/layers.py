"""Brevitas layers that describe themselves: scheme, bits, scale, levels, error and size."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import brevitas.nn as qnn
import timm.layers
import torch
import torch.nn.functional as F
from brevitas.nn.quant_layer import QuantNonLinearActLayer
from timm.layers import conv2d_same
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from qadv.errors import SchemeError
from qadv.quantization.packing import packed_size
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer
from qadv.quantization.stand_ins import COMPUTING, has_own_forward


class _QuantLayer:
    """Mixed into Brevitas's weight layers. `share` is this layer's part of the network's parameters, 0 to 1."""

    weight: Tensor
    share: float = 0.0

    @property
    def weight_quantizer(self) -> WeightQuantizer | None:
        found = getattr(self, "weight_quant").tensor_quant  # noqa: B009  (mypy: set by Brevitas)
        return found if isinstance(found, WeightQuantizer) else None

    @property
    def input_quantizer(self) -> ActivationQuantizer | None:
        return _activation_quantizer(getattr(self, "input_quant"))  # noqa: B009

    def quantized_input(self, x: Tensor) -> Tensor:
        """Returns what the layer reads, (N, …): its input, quantized where no activation has done so."""
        return x if self.input_quantizer is None else self.input_quantizer.quantize(x)

    @torch.no_grad()
    def after_step(self) -> None:
        """Lets the scheme have its way with the latent weights after an optimizer step."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.update_latent(cast(nn.Parameter, self.weight))

    @torch.no_grad()
    def quantized(self) -> tuple[Tensor, Tensor]:
        """Returns integer codes (c_out, …) and the scale, as the scheme's `encode` does; refuses float weights."""
        if self.weight_quantizer is None:
            raise SchemeError("the weights of this layer are in full precision: there are no codes, levels and scale")
        return self.weight_quantizer.encode(self.weight_quantizer.latent(self.weight))

    def decoded(self) -> Tensor:
        """Returns the quantized weights, shaped as `weight`, without gradient; errors as of `quantized`."""
        codes, scale = self.quantized()
        assert self.weight_quantizer is not None
        return self.weight_quantizer.decode(codes, scale)

    @property
    def scale(self) -> Tensor:
        """One scale per filter, or one for the layer; shape (c_out,) or (), with the kinds of scale in front."""
        return self.quantized()[1].squeeze()

    @property
    def levels(self) -> Tensor:
        """All values the weights of each filter can have, ascending, shape (c_out or 1, levels)."""
        scale = self.quantized()[1]
        scale = scale.flatten(1 - self.weight.ndim) if scale.ndim >= self.weight.ndim else scale.reshape(-1, 1)
        assert self.weight_quantizer is not None
        codes = self.weight_quantizer.code_values().to(scale)
        return self.weight_quantizer.decode(codes.expand(scale.shape[-2], -1), scale)

    @property
    def error(self) -> Tensor:
        """Quantization error of each filter, `‖W - Q(W)‖₁ / ‖W‖₁`, shape (c_out,); 0 for a filter of zeros."""
        weight = self.weight.detach().flatten(1)
        norm = weight.abs().sum(1)
        return (weight - self.decoded().flatten(1)).abs().sum(1) / torch.where(norm > 0, norm, 1.0)

    def __repr__(self) -> str:
        """Bytes are those of all parameters as float32, and with each layer's codes packed into whole bytes."""
        own: Any = self
        packed = full = 4 * sum(parameter.numel() for parameter in own.parameters(recurse=False))
        parts = [f"{type(self).__name__}({'x'.join(map(str, self.weight.shape))}"]
        if self.weight_quantizer is not None:
            scale, bits = self.scale, self.weight_quantizer.bits
            packed += packed_size(self.weight.numel(), bits) + 4 * (scale.numel() - self.weight.numel())
            parts.append(f"weights={self.weight_quantizer.spec} ({bits} bit)")
            parts.append(f"scale={scale.min():.3g}…{scale.max():.3g}" if scale.numel() > 1 else f"scale={scale:.3g}")
        else:
            parts.append("weights=float")
        if self.input_quantizer is not None:
            parts.append(f"input={self.input_quantizer.spec} ({self.input_quantizer.bits} bit)")
        parts.append(f"{self.share:.1%} of parameters, {packed:,} of {full:,} bytes)")
        return ", ".join(parts)


class _BrevitasLayer(nn.Module):
    """Mixed into Brevitas's layers: their many proxies follow the layer's mode, and are made anew in copies."""

    def train(self, mode: bool = True) -> Any:
        return self if self.training == mode else super().train(mode)  # ART sets the mode at every query

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_modules"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for proxy in self.children():  # made anew
            proxy.train(self.training)


class _TrainableLayer(_QuantLayer, _BrevitasLayer):
    """Mixed into Brevitas's weight layers; in evaluation mode weights are quantized once and kept."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _quant_layer, (type(self), sizes(self), self.weight_quantizer, self.input_quantizer), self.__getstate__()

    @property
    def proxies(self) -> tuple[Any, Any]:
        """Brevitas's own parts in front of the quantizers of weights and of inputs."""
        return getattr(self, "weight_quant"), getattr(self, "input_quant")  # noqa: B009

    def is_plain(self) -> bool:
        """Whether it is in evaluation mode and Brevitas has nothing else to do than quantize by schemes of qadv."""
        quantizers = self.weight_quantizer, self.input_quantizer
        return not (self.training or getattr(self, "export_mode")) and all(  # noqa: B009
            bool(proxy.is_quant_enabled) == (quantizer is not None)
            for proxy, quantizer in zip(self.proxies, quantizers, strict=True)
        )

    def quantized_weight(self, x: Any) -> Tensor | None:
        """Returns the weight in evaluation mode, without Brevitas's proxies where they have nothing else to do."""
        weight: Any = self.weight  # a replica's, or what functional_call puts there, is no parameter
        if type(x) is not Tensor or not isinstance(weight, nn.Parameter) or torch.compiler.is_compiling():
            return None
        if not self.is_plain():
            return None
        value: Tensor = weight if self.weight_quantizer is None else self.weight_quantizer(weight)[0]
        return value


class QuantConv2d(_TrainableLayer, qnn.QuantConv2d):
    """A 2-d convolution with quantized weights, and inputs where the network has no ReLU."""

    def forward(self, x: Any) -> Any:
        weight = self.quantized_weight(x)
        bias: Any = self.bias
        return super().forward(x) if weight is None else convolve(self, self.quantized_input(x), weight, bias)


class QuantLinear(_TrainableLayer, qnn.QuantLinear):
    """A linear layer with quantized weights, and inputs where the network has no ReLU."""

    def forward(self, x: Any) -> Any:
        weight = self.quantized_weight(x)
        bias: Any = self.bias
        return super().forward(x) if weight is None else F.linear(self.quantized_input(x), weight, bias)


def convolve(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns what a convolution gives with this weight and bias in place of its own."""
    if getattr(layer, "is_same_padded_strided", False):
        padded: Tensor = conv2d_same(x, weight, bias, layer.stride, (0, 0), layer.dilation, layer.groups)
        return padded
    convolved: Tensor = layer._conv_forward(x, weight, bias)
    return convolved


class QuantActivation(_BrevitasLayer, QuantNonLinearActLayer):
    """What a ReLU is replaced by: the scheme's own clip and rounding, never in place.

    Attributes:
        replaces_inplace: the ReLU worked in place, so the network must not read its input again.
    """

    def __init__(self, quantizer: ActivationQuantizer, replaces_inplace: bool = False) -> None:
        super().__init__(
            act_impl=None,
            passthrough_act=True,
            input_quant=None,
            act_quant=quantizer.injector(),
            return_quant_tensor=False,
        )
        self.replaces_inplace = replaces_inplace

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.quantizer,), self.__getstate__()

    @property
    def quantizer(self) -> ActivationQuantizer:
        found = _activation_quantizer(self.act_quant)
        assert found is not None
        return found

    def forward(self, x: Any) -> Any:
        proxy: Any = self.act_quant
        if type(x) is not Tensor or self.export_mode or not proxy.is_quant_enabled:
            return super().forward(x)
        return self.quantizer.quantize(x)

    def __repr__(self) -> str:
        quantizer = self.quantizer
        return f"QuantActivation({quantizer.spec} ({quantizer.bits} bit), scale={quantizer.scale.item():.3g})"


def weight_quantizers(model: nn.Module) -> list[tuple[str, Any, WeightQuantizer]]:
    """Returns the layers with quantized weights, under all their names, each with its quantizer."""
    layers = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, _QuantLayer)]
    return [(name, layer, own) for name, layer in layers if (own := layer.weight_quantizer) is not None]


def activation_quantizers(model: nn.Module) -> list[tuple[str, ActivationQuantizer]]:
    """Returns the quantizers of all activations and layer inputs, each with its layer's name."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, QuantActivation):
            found.append((name, module.quantizer))
        elif isinstance(module, _QuantLayer) and module.input_quantizer is not None:
            found.append((name, module.input_quantizer))
    return found


def _activation_quantizer(proxy: Any) -> ActivationQuantizer | None:
    fused = getattr(proxy, "fused_activation_quant_proxy", None)
    found = getattr(fused, "tensor_quant", None)
    return found if isinstance(found, ActivationQuantizer) else None


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def swapped(root: nn.Module, others: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Puts modules in the place of some in a network, under all their names and with their hooks; returns the root."""
    for old, new in others.items():
        for hooks in HOOKS:
            setattr(new, hooks, getattr(old, hooks))
        new._is_full_backward_hook = old._is_full_backward_hook
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in others:
                parent._modules[name] = others[child]
    return others.get(root, root)


def computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a module computes what its class `base` does: with the methods of that, on the object too."""
    same = all(getattr(type(module), name, None) is getattr(base, name, None) for name in (*COMPUTING, "__call__"))
    return isinstance(module, base) and same and not has_own_forward(module) and not is_parametrized(module)


def quantized_layer(
    layer: nn.Module, weights: WeightQuantizer | None, inputs: ActivationQuantizer | None, fit: bool = True
) -> nn.Module | None:
    """Returns the quantized form of a conv or linear layer, sharing its parameters.

    `None` when the layer computes something else than `nn.Conv2d` or `nn.Linear` does, so that swapping it would
    silently change or skip that computation.
    """
    same_padding = computes_as(layer, timm.layers.Conv2dSame)
    new: nn.Module
    if computes_as(layer, nn.Conv2d) or same_padding:
        new = _quant_layer(QuantConv2d, sizes(layer) | ({"padding": 0} if same_padding else {}), weights, inputs)
        if same_padding:
            new.is_same_padded_strided = True  # type: ignore[assignment]
    elif computes_as(layer, nn.Linear) or computes_as(layer, timm.layers.Linear):
        new = _quant_layer(QuantLinear, sizes(layer), weights, inputs)
    else:
        return None
    weight: Any = layer.weight
    if weights is not None:
        with torch.no_grad():
            weights.to(weight.device).fit(weight if fit else torch.zeros_like(weight))
    new.weight = weight
    if layer.bias is not None:
        new.bias = layer.bias
    new.to(weight.device)
    return new.train(layer.training)


def sizes(layer: Any) -> dict[str, Any]:
    """Returns the arguments that make a convolution or linear layer like this one."""
    names = (
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        if isinstance(layer, nn.Conv2d)
        else ("in_features", "out_features")
    )
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}


def _quant_layer(
    layer_type: Callable[..., nn.Module],
    arguments: dict[str, Any],
    weights: WeightQuantizer | None,
    inputs: ActivationQuantizer | None,
) -> nn.Module:
    """Makes a layer whose initial weights are to be replaced, leaving the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        return layer_type(
            **arguments,
            weight_quant=weights.injector() if weights else None,
            input_quant=inputs.injector() if inputs else None,
        )
