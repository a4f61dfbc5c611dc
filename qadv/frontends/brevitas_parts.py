"""What stands in for Brevitas's own layers and proxies: weights quantized once, activations in one step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp, TensorClampSte
from brevitas.core.quant import ClampedBinaryQuant, IntQuant, RescalingIntQuant
from brevitas.function.ops_ste import binary_sign_ste
from brevitas.nn.mixin.parameter import QuantWeightMixin
from brevitas.nn.quant_layer import QuantNonLinearActLayer, QuantWeightBiasInputOutputLayer
from brevitas.proxy import ActQuantProxyFromInjector
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from torch import Tensor, nn

from qadv.derivatives import is_recorded
from qadv.quantization.clip import last_float, mask_gradient
from qadv.quantization.form import Given, Part
from qadv.quantization.layers import QuantActivation, _QuantLayer
from qadv.quantization.stand_ins import Container, StandIn, has_own_forward, stand_in

_DIRECT = (qnn.QuantConv1d, qnn.QuantConv2d, qnn.QuantConv3d, qnn.QuantLinear)
# what does not look at the activations in evaluation mode; by name, since not every Brevitas has all
_CONSTANT = {
    *("ConstScaling", "ParameterScaling", "ParameterFromRuntimeStatsScaling", "RuntimeStatsScaling"),
    *("ZeroZeroPoint", "ParameterZeroPoint", "ParameterFromRuntimeZeroPoint", "StatelessBuffer"),
}
_NOTHING = (None, None, None, None)


def plain_modules(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields a network's modules with their names, but for qadv's own layers and what is in them."""
    own = {m for each in network.modules() if isinstance(each, _QuantLayer | QuantActivation) for m in each.modules()}
    return ((name, module) for name, module in network.named_modules() if module not in own)


def brevitas_parts(network: nn.Module) -> list[Part]:
    """Returns a part for each layer with a weight and for each activation's proxy; these ask first if they may."""
    parts = {}
    modules: list[Any] = [module for _, module in plain_modules(network)]
    for module in modules:
        if isinstance(module, QuantWeightBiasInputOutputLayer):
            parts[module] = _part(_Layer, module, _Weight(module))
        elif type(module) is ActQuantProxyFromInjector and module.fused_activation_quant_proxy is not None:
            parts[module] = _part(_Proxy, module, _Activation(module))
    for module in modules:
        own_code = getattr(type(module), "forward", None) is QuantNonLinearActLayer.forward
        if own_code and module.act_quant in parts:
            other = stand_in(_ActivationLayer, module, _qadv_given=parts[module.act_quant].given)
            parts[module] = Part({module: other}, watched=[module.input_quant])
    return list(parts.values())


def _part(kind: type[StandIn], module: nn.Module, source: Any) -> Part:
    given = Given()
    return Part({module: stand_in(kind, module, _qadv_given=given)}, source, given)


def _is_steady(module: nn.Module) -> bool:
    """Whether a part of a quantizer gives the same for the same, and changes nothing, as Brevitas's own do."""
    kind, own = type(module), vars(module)
    return (
        kind.__module__.startswith(("brevitas.", "torch.nn.modules."))
        and kind.__name__ != "InplaceTensorClampSte"  # clips the latent weights themselves
        and "forward" not in own
        and not module.training
        and not own.get("_export_mode")
        and not own.get("observer_only")
        and not own.get("local_loss_mode")
        and own.get("init_done") is not False
        and own.get("quant_delay_steps", 0) <= 0
        and own.get("deterministic_inference") is not False
    )


@dataclass(frozen=True, eq=False)
class _Weight:
    """A layer's quantized weight: it alone where nobody asks for more, or a QuantTensor's kind and fields."""

    layer: Any

    @cached_property
    def modules(self) -> list[nn.Module]:
        layer = self.layer
        return [layer, *layer.weight_quant.modules(), layer.bias_quant, layer.output_quant]

    def values(self) -> tuple[Any, ...]:
        layer, proxy = self.layer, self.layer.weight_quant
        own_code = type(layer).quant_weight is QuantWeightMixin.quant_weight and not layer.export_mode
        if not own_code or "weight" not in layer._parameters or not proxy.is_quant_enabled:
            return None, None
        if (
            proxy.requires_quant_input
            or not all(map(_is_steady, proxy.modules()))
            or proxy.cache_inference_quant_weight
        ):
            return None, None
        weight = layer.quant_weight()
        if not isinstance(weight, Tensor) and not self._alone():
            return None, type(weight), *weight
        return weight if isinstance(weight, Tensor) else weight.value, None

    def _alone(self) -> bool:
        """Whether the layer gives plain tensors, and has no quantizer but those of its input and weights."""
        layer = self.layer
        return (
            type(layer) in _DIRECT
            and not has_own_forward(layer)
            and not layer.return_quant_tensor
            and layer.output_quant.fused_activation_quant_proxy is None
            and (layer.bias is None or not layer.bias_quant.is_quant_enabled)
        )


class _Layer(Container):
    """A layer with a weight that it is given, whose other parts may have stand-ins too."""

    __slots__ = ("_qadv_given",)
    _qadv_given: Given

    def quant_weight(self, *args: Any, **options: Any) -> Any:
        _, kind, *fields = self._qadv_given.values
        if kind is None or len(args) > 1 or options.get("subtensor_slice_list") is not None:
            return super().quant_weight(*args, **options)  # type: ignore[misc]
        return kind._make(fields)

    def forward(self, x: Any, *args: Any, **options: Any) -> Any:
        weight = self._qadv_given.values[0]
        if weight is None or args or options:
            return super().forward(x, *args, **options)  # type: ignore[misc]
        layer: Any = self
        return layer.inner_forward_impl(_plain(layer.input_quant(x)), weight, layer.bias)


def _plain(x: Any) -> Any:
    return x.value if isinstance(x, QuantTensor) else x


@dataclass(frozen=True, eq=False)
class _Activation:
    """An activation's steps, scale, zero point and bit width, where they are the same for all images."""

    proxy: Any

    @cached_property
    def modules(self) -> list[nn.Module]:
        return list(self.proxy.modules())

    def values(self) -> tuple[Any, ...]:
        proxy = self.proxy
        if not proxy.is_quant_enabled or not all(map(_is_steady, self.modules)) or proxy.cache_inference_quant_act:
            return _NOTHING
        fused = proxy.fused_activation_quant_proxy
        if not is_constant(fused.tensor_quant):
            return _NOTHING
        _, scale, zero_point, bit_width = fused.tensor_quant(proxy._zero_hw_sentinel())
        return steps_of(fused, scale, zero_point, bit_width, proxy.is_signed), scale, zero_point, bit_width


def is_constant(quantizer: Any) -> bool:
    """Whether scale and zero point are the same for all activations."""
    parts = [getattr(quantizer, name, None) for name in ("scaling_impl", "zero_point_impl")]
    return all(part is None or type(part).__name__ in _CONSTANT for part in parts)


class _Proxy(StandIn):
    """An activation's proxy that quantizes in one step."""

    __slots__ = ("_qadv_given",)
    _qadv_given: Given

    def forward(self, x: Any) -> Any:
        steps, scale, zero_point, bit_width = self._qadv_given.values
        value = _plain(x)
        if steps is None or value.dtype is not torch.float32:
            return super().forward(x)  # type: ignore[misc]
        proxy: Any = self
        y = steps(value, scale, zero_point, bit_width)
        if getattr(proxy, "skip_create_quant_tensor", False):
            return y
        return IntQuantTensor._make((y, scale, zero_point, bit_width, *steps.flags))


class _ActivationLayer(Container):
    """An activation that goes past its proxies where it gives plain tensors."""

    __slots__ = ("_qadv_given",)
    _qadv_given: Given

    def forward(self, x: Any) -> Any:
        steps, *numbers = self._qadv_given.values
        layer, value = cast(Any, self), _plain(x)
        if steps is None or value.dtype is not torch.float32 or layer.return_quant_tensor or layer.export_mode:
            return super().forward(x)  # type: ignore[misc]
        if layer.input_quant.fused_activation_quant_proxy is not None:
            return super().forward(x)  # type: ignore[misc]
        return steps(value, *numbers)


@dataclass(frozen=True, eq=False)
class Steps:
    """How activations are quantized with one scale, in numbers.

    Attributes:
        fused: Brevitas's activation and quantizer.
        bounds: least and largest input, both included, that a gradient passes.
        codes: least and largest integer; `None` at one bit, whose levels are -scale and scale.
        shifted: the zero point is not 0.
        rectified: a ReLU in front is part of `bounds` and `codes`.
        flags: whether levels have signs, and the mode, as Brevitas's tensors have them.
    """

    fused: Any
    bounds: tuple[float, float]
    codes: tuple[float, float] | None
    shifted: bool
    rectified: bool
    flags: tuple[Tensor, Tensor]

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, bit_width: Tensor) -> Tensor:
        """Returns the quantized activations, shaped as `x`; differentiable in all arguments."""
        if not self.rectified:
            x = self.fused.activation_impl(x)
        learned = is_recorded(scale) or is_recorded(zero_point) or is_recorded(bit_width)
        if not learned and not is_recorded(x):
            return self.rounded(x, scale, zero_point)
        way = _OfScale.apply(self, [x], scale, zero_point, bit_width) if learned else None
        return _InOneStep.apply(self, x, way, scale, zero_point)  # type: ignore[no-any-return]

    def rounded(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        if self.codes is None:
            return (x >= 0).to(x.dtype).mul_(2).sub_(1).mul_(scale)
        y = x / scale
        if self.shifted:
            y += zero_point
        y.round_().clamp_(*self.codes)
        if self.shifted:
            y -= zero_point
        return y.mul_(scale)

    def original(self, x: Tensor, scale: Tensor, zero_point: Tensor, bit_width: Tensor) -> Tensor:
        """Returns what Brevitas's operators give."""
        x, quantizer = self.fused.activation_impl(x) if self.rectified else x, self.fused.tensor_quant
        if self.codes is not None:
            return quantizer.int_quant(scale, zero_point, bit_width, x)  # type: ignore[no-any-return]
        return binary_sign_ste(quantizer.tensor_clamp_impl(x, -scale, scale)) * scale  # type: ignore[no-any-return]


class _InOneStep(torch.autograd.Function):
    """Rounded activations, with the gradient of Brevitas's operators for them."""

    @staticmethod
    def forward(ctx: Any, steps: Steps, x: Tensor, way: Tensor | None, scale: Tensor, zero_point: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.steps = steps
        return steps.rounded(x, scale, zero_point)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        gradient = None
        if ctx.needs_input_grad[1]:
            x, scale = ctx.saved_tensors
            gradient = mask_gradient(grad_outputs[0] * scale, x, *ctx.steps.bounds)
            gradient = gradient if ctx.steps.codes is None else gradient / scale
        return None, gradient, grad_outputs[0] if ctx.needs_input_grad[2] else None, None, None


class _OfScale(torch.autograd.Function):
    """Nothing but a way to a learned scale, which is gone where its gradient is asked for and nowhere else."""

    @staticmethod
    def forward(ctx: Any, steps: Steps, x: list[Tensor], *numbers: Tensor) -> Tensor:
        ctx.steps, ctx.x = steps, x[0]
        ctx.save_for_backward(*numbers)
        return x[0].new_empty(()).expand(x[0].shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        differentiable = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            numbers = ctx.saved_tensors
            if not differentiable:
                numbers = [each.detach().requires_grad_(asked) for each, asked in zip(numbers, needed, strict=True)]
            y = ctx.steps.original(ctx.x if differentiable else ctx.x.detach(), *numbers)
            wanted = [each for each, asked in zip(numbers, needed, strict=True) if asked]
            found = iter(
                torch.autograd.grad(y, wanted, grad_outputs[0], allow_unused=True, create_graph=differentiable)
            )
        return None, None, *(next(found) if asked else None for asked in needed)


@torch.no_grad()
def steps_of(fused: Any, scale: Tensor, zero_point: Tensor, bit_width: Tensor, signed: bool | None) -> Steps | None:
    """Returns what a quantizer does in numbers; `None` for one that does something else, or has several scales."""
    quantizer, before = fused.tensor_quant, fused.activation_impl
    if signed is None or scale.dtype != torch.float32 or scale.numel() != 1 or zero_point.numel() != 1:
        return None
    s, z = np.float32(scale.item()), np.float32(zero_point.item())
    if not (math.isfinite(s) and s > 0):
        return None
    rectified = type(before) is nn.ReLU and not before.inplace
    if type(quantizer) is ClampedBinaryQuant:
        if rectified:
            return None
        low, high, codes = -float(s), float(s), None
    elif type(quantizer) is RescalingIntQuant and type(quantizer.int_quant) is IntQuant:
        int_quant = quantizer.int_quant
        clamp = type(int_quant.tensor_clamp_impl)
        known = type(int_quant.float_to_int_impl) is RoundSte and type(int_quant.input_view_impl) is Identity
        if not known or clamp not in (TensorClamp, TensorClampSte):
            return None
        least, most = int_quant.min_int(bit_width).item(), int_quant.max_int(bit_width).item()
        low, high = -math.inf, math.inf
        if clamp is TensorClamp:
            low = np.nextafter(last_float(lambda x: np.rint(x / s + z) < least), np.float32(math.inf)).item()
            high = last_float(lambda x: np.rint(x / s + z) <= most).item()
        if rectified:
            low, least = max(low, float(np.finfo(np.float32).smallest_subnormal)), max(least, np.rint(z).item())
        codes = least, most
    else:
        return None
    flags = torch.tensor(signed, device=scale.device), torch.tensor(False, device=scale.device)
    return Steps(fused, (low, high), codes, bool(z != 0), rectified, flags)
