"""`FakeQuantize` modules of torch.ao and torchao's PT2E: what they do to a tensor, said and computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qadv.derivatives import is_recorded
from qadv.frontends.frontend import QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.quantization.batch_norm_folding import can_be_folded
from qadv.quantization.clip import last_float
from qadv.quantization.form import Given, Part
from qadv.quantization.stand_ins import Container, NoFormError, StandIn, has_own_forward, stand_in

_CLASSES = ("FakeQuantize", "FusedMovingAvgObsFakeQuantize", "FixedQParamsFakeQuantize")
_MOST_LEVELS = 2**16


def of_toolkit(kind: type, *names: str) -> bool:
    """Whether a class, or one that it is made from, stands in one of these packages, or below."""
    return any(f"{each.__module__}.".startswith(tuple(f"{name}." for name in names)) for each in kind.__mro__)


def is_made_from(module: nn.Module, *names: str) -> bool:
    """Whether a module is of a class of one of these names, or of one made from it."""
    return any(each.__name__ in names for each in type(module).__mro__)


def is_fake_quantize(module: nn.Module) -> bool:
    """Whether a module is a FakeQuantize, or a class made from it."""
    return is_made_from(module, "FakeQuantizeBase")


def is_observer(module: nn.Module) -> bool:
    """Whether a module takes notes of what passes, and gives it back as it is."""
    return is_made_from(module, "ObserverBase", "AffineQuantizedObserverBase")


def _observes(module: nn.Module) -> bool:
    """Whether a pass moves the scale of a FakeQuantize; one that can learn its scale has a switch of its own."""
    switch: Any = getattr(module, "static_enabled", getattr(module, "observer_enabled", None))
    return switch is not None and bool(switch.any())


def _zero_point(module: Any) -> Tensor:
    """Returns the code of 0, which learning leaves between two codes."""
    zero_point: Tensor = module.zero_point.detach()
    return zero_point.round().clamp(*limits(module)) if zero_point.is_floating_point() else zero_point


def limits(module: nn.Module) -> tuple[int, int]:
    """Returns the lowest and the highest code."""
    observer = module._modules.get("activation_post_process")
    found: Any = observer if hasattr(observer, "quant_min") else module
    return int(found.quant_min), int(found.quant_max)


def quantized(module: Any, x: Tensor) -> Tensor:
    """Returns what a FakeQuantize without its observer makes of `x`, whether or not it is switched on."""
    low, high = limits(module)
    if module.scale.numel() > 1 or module.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine):
        zeros = _zero_point(module).to(torch.int32)
        return torch.fake_quantize_per_channel_affine(x, module.scale, zeros, module.ch_axis, low, high)
    return fake_quantize(x, module.scale.item(), int(_zero_point(module).item()), low, high)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x)  # which a ReLU has kept already: codes would be one tensor more
        ctx.about = scale, low, high
        return x.mul(1 / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad_outputs[0], x, *_outside(*ctx.about)), None, None, None


@lru_cache(maxsize=4096)
def _outside(scale: float, low: int, high: int) -> tuple[float, float]:
    """Returns the largest number that is rounded to less than `low`, and the least to more than `high`."""
    steps = np.float32(1 / scale)
    below = last_float(lambda x: np.rint(x * steps) < low)
    return float(below), float(np.nextafter(last_float(lambda x: np.rint(x * steps) <= high), np.float32(np.inf)))


def fake_quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """`torch.fake_quantize_per_tensor_affine` to the bit, with its gradient.

    On a processor torch's own goes element by element, and takes fifteen times as long.
    """
    if not x.is_cpu or x.dtype != torch.float32:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)
    low, high = low - zero_point, high - zero_point
    if is_recorded(x):
        return _FakeQuantize.apply(x, scale, low, high)  # type: ignore[no-any-return]
    return x.mul(1 / scale).round_().clamp_(low, high).mul_(scale)


def bits_of(low: int, high: int) -> int:
    """Returns the bits of codes from `low` to `high`."""
    return (high - low).bit_length()


class Grid:
    """The levels of a tensor of codes from `low` to `high`: `scale * (code - zero_point)`."""

    def __init__(self, scale: float, zero_point: float, low: float, high: float) -> None:
        self.scale, self.zero_point, self.low, self.high = scale, zero_point, low, high

    def levels(self) -> Tensor:
        """Returns all values, ascending."""
        return (torch.arange(self.low, self.high + 1) - self.zero_point) * self.scale

    def quantize(self, x: Tensor) -> Tensor:
        """Rounds to the nearest level; the gradient passes where it is not clipped."""
        return fake_quantize(x, self.scale, *map(int, (self.zero_point, self.low, self.high)))


def integers(layer: str, role: str, bits: int, origin: str, estimator: str = "straight-through, clipped") -> Any:
    """Returns what is said of every quantizer to whole numbers."""
    about = {"layer": layer, "role": role, "scheme": f"int:{bits}", "bits": bits}
    return {**about, "estimator": estimator, "origin": origin}


def on_grid(grid: Grid, about: dict[str, Any], at: str | None = None) -> QuantizedActivation:
    """Describes what rounds to the levels of a grid."""
    scale, place = torch.tensor(grid.scale), (grid, "quantize")
    return QuantizedActivation(**about, scale=scale, levels=grid.levels(), place=place, at=at)


def activation(name: str, module: Any, origin: str) -> list[QuantizedTensor]:
    """Describes a FakeQuantize of activations; one of many scales, or of too many levels, has none to list."""
    if not module.fake_quant_enabled.item():
        return []
    (low, high), scale = limits(module), module.scale.detach()
    about = {**integers(name, "output", bits_of(low, high), origin), "scale": scale}
    if scale.numel() > 1 or high - low >= _MOST_LEVELS:
        return [QuantizedTensor(**about)]
    levels = (torch.arange(low, high + 1, device=scale.device) - _zero_point(module)) * scale
    return [QuantizedActivation(**about, levels=levels, place=(module, "forward"))]


def latent(layer: Any) -> Tensor:
    """Returns what a layer quantizes: its weight, times the scale of its BatchNorm where it has one inside."""
    weight: Tensor = layer.weight
    return weight if "bn" not in layer._modules else weight * _factor(layer).reshape(-1, *[1] * (weight.ndim - 1))


def _factor(layer: Any) -> Tensor:
    factor: Tensor = layer.bn.weight / torch.sqrt(layer.bn.running_var + layer.bn.eps)
    return factor


def spread(values: Tensor, of: Tensor, axis: int = 0) -> Tensor:
    """Returns one value for each channel in the shape that goes along that axis of a tensor."""
    return values if values.numel() == 1 else values.reshape([-1 if i == axis % of.ndim else 1 for i in range(of.ndim)])


@torch.no_grad()
def weights(name: str, module: Any, exact: Tensor, parameter: nn.Parameter | None, origin: str) -> QuantizedWeights:
    """Describes the weights of a layer that a FakeQuantize makes of `exact`."""
    low, high = limits(module)
    scale, zero_point = (spread(each.detach(), exact, module.ch_axis) for each in (module.scale, _zero_point(module)))
    value = quantized(module, exact)
    return QuantizedWeights(
        **integers(name, "weights", bits_of(low, high), origin),
        scale=scale,
        value=value,
        codes=(value / scale + zero_point).round().to(torch.int32),
        nb_codes=high - low + 1,
        latent=exact,
        parameter=parameter,
    )


class _Activation(StandIn):
    """A FakeQuantize that does what it is there for, in as few calls as that takes."""

    __slots__ = ()

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        if own.observer_enabled.item():
            raise NoFormError  # each pass moves the scale
        return quantized(own, x) if own.fake_quant_enabled.item() else x


class KnownWeights(StandIn):
    """A FakeQuantize of weights, which are known."""

    __slots__ = ("_qadv_given",)
    _qadv_given: Given

    def forward(self, weight: Tensor) -> Tensor:
        known: Tensor = self._qadv_given.values[0]
        return known


class _ConvBn(Container):
    """A convolution with a BatchNorm inside, whose scale is part of the quantized weights and is taken out again."""

    __slots__ = ("_qadv_given",)
    _qadv_given: Given

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        weight, bias, factor = self._qadv_given.values
        y = own._conv_forward(x, weight, bias)
        if factor is not None:
            y = y / factor
            y = own.bn(y if own.bias is None else y + own.bias.reshape(factor.shape))
        return F.relu(y) if "ReLU" in type(self).__name__ else y


@dataclass(frozen=True)
class _Source:
    """The quantized weights of a layer.

    With a BatchNorm inside also the bias of the convolution, and the scale that its output is divided by, (1, c, …):
    a folded BatchNorm takes none out, and is in the bias.
    """

    layer: Any
    fold: bool

    @property
    def modules(self) -> list[nn.Module]:
        bn, fake = self.layer._modules.get("bn"), self.layer.weight_fake_quant
        return [self.layer, *([] if bn is None else [bn]), fake, *fake.children()]

    def values(self) -> tuple[Tensor | None, ...]:
        module, bn = self.layer.weight_fake_quant, self.layer._modules.get("bn")
        if module.observer_enabled.item():
            raise NoFormError
        exact = latent(self.layer)
        value = quantized(module, exact) if module.fake_quant_enabled.item() else exact
        if bn is None:
            return (value,)
        factor = _factor(self.layer)
        if not self.fold:
            return value, torch.zeros_like(factor), factor.reshape(1, -1, *[1] * (exact.ndim - 2))
        if not can_be_folded(bn):
            raise NoFormError
        offset = -bn.running_mean if self.layer.bias is None else self.layer.bias - bn.running_mean
        return value, offset * factor + bn.bias, None


def parts(network: nn.Module, fold: bool) -> list[Part]:
    """Returns stand-ins for the FakeQuantize modules, and for convolutions with a BatchNorm inside."""
    known = [m for m in network.modules() if is_fake_quantize(m) and _is_plain(m, type(m).__name__ in _CLASSES)]
    layers = [m for m in network.modules() if m._modules.get("weight_fake_quant") in known and _is_layer(m)]
    of_weights = {layer.weight_fake_quant for layer in layers}
    activations = {m: stand_in(_Activation, m) for m in known if m not in of_weights}
    made = [Part(activations, watched=known)]
    for layer in layers:
        source, given = _Source(layer, fold), Given()
        fake: Any = layer.weight_fake_quant
        others: dict[nn.Module, StandIn] = {fake: stand_in(KnownWeights, fake, _qadv_given=given)}
        if hasattr(layer, "_forward_approximate") and not layer._enable_slow_path_for_better_numerical_stability:
            others[layer] = stand_in(_ConvBn, layer, _qadv_given=given)
        made.append(Part(others, source, given, watched=[*source.modules]))
    return made


def _is_plain(module: nn.Module, known: bool) -> bool:
    return known and of_toolkit(type(module), "torch.ao", "torchao") and not has_own_forward(module)


def _is_layer(module: nn.Module) -> bool:
    """Whether all that a layer's weights go into is its `weight_fake_quant`, as in those of torch."""
    known = type(module).__module__.startswith(("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat"))
    return known and not has_own_forward(module) and isinstance(module.weight, nn.Parameter)


def objection(network: nn.Module, package: str, convert: str) -> str:
    """Returns why the observers in a network don't let it be asked, and what to write; `""` if they do."""
    own: Sequence[tuple[str, Any]] = [(n, m) for n, m in network.named_modules() if of_toolkit(type(m), package)]
    watching = [name for name, module in own if is_fake_quantize(module) and _observes(module)]
    if watching:
        return (
            f"the observers of {len(watching)} quantizers are on ({watching[0]}, …): each query would move their "
            f"scales. Switch them off first: model.apply({package}.disable_observer)"
        )
    inside = {child for _, m in own if is_fake_quantize(m) for child in m.modules()}
    noting = [name for name, module in own if is_observer(module) and module not in inside]
    if noting:
        return (
            f"{len(noting)} observers wait for calibration images ({noting[0]}, …) and take each query for one; "
            f"nothing is quantized yet. Convert the network first: {convert}"
        )
    return ""
