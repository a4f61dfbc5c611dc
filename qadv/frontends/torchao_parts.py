"""Layers of torchao's training, and those with codes in buffers: what they quantize, and what stands in for them."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qadv.frontends.fake_quantize import KnownWeights, integers, is_made_from, of_toolkit
from qadv.frontends.frontend import QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.frontends.straight_through_mode import dynamic
from qadv.frontends.twins import value_of_one
from qadv.quantization.clip import inclusive_clip
from qadv.quantization.form import Given, Part
from qadv.quantization.stand_ins import StandIn, has_own_forward, stand_in

_ORIGIN = "torchao"
_FAKES = "activation_fake_quantizer", "weight_fake_quantizer"


def bits_of_type(dtype: Any) -> int:
    """Returns the bits in the name of a type, as of `torch.int4` or `TorchAODType.INT4`."""
    found = re.search(r"int(\d+)", str(dtype).lower())
    return int(found[1]) if found else 8 * torch.empty(0, dtype=dtype).element_size()


def _straight_through(fake: Any, quantize: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Quantizes; the gradient is 1, and 0 beyond the largest value that a scale may be made for."""
    with torch.no_grad():
        value = quantize(x)
    end = getattr(fake.config, "hp_value_ub", None) if fake.enabled else None
    return value_of_one(value, x if end is None else inclusive_clip(x, -end, end))


class _StraightThrough(StandIn):
    """A quantizer in training whose own gradient is cast to float8, where small ones become 0."""

    __slots__ = ()

    def forward(self, x: Tensor) -> Tensor:
        return _straight_through(self, super().forward, x)  # type: ignore[misc]


def straightened(network: nn.Module) -> dict[nn.Module, StandIn]:
    """Returns stand-ins for the quantizers in training that round to float8."""
    return {m: stand_in(_StraightThrough, m) for m in network.modules() if _casts(m) and not has_own_forward(m)}


def _casts(module: Any) -> bool:
    if not of_toolkit(type(module), "torchao"):
        return False
    if is_made_from(module, "Int4WeightFakeQuantizer"):
        return bool(module.config.activation_dtype != torch.bfloat16)
    return is_made_from(module, "Float8FakeQuantizer")


def _is_float(dtype: Any) -> bool:
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


@dataclass(frozen=True)
class _Trained:
    """The quantized weights of a layer in training."""

    layer: Any

    @property
    def modules(self) -> list[nn.Module]:
        return [self.layer, self.layer.weight_fake_quantizer]

    def values(self) -> tuple[Tensor, ...]:
        fake, weight = copy.copy(self.layer.weight_fake_quantizer), self.layer.weight  # it notes its scale
        return (_straight_through(fake, fake, weight) if _casts(fake) else fake(weight),)


def trained_parts(network: nn.Module) -> list[Part]:
    """Returns stand-ins for the quantizers of layers in training."""
    rounding = straightened(network)
    made = [Part(rounding, watched=[*rounding], own_gradient=not rounding)]
    for layer in network.modules():
        fake = layer._modules.get("weight_fake_quantizer")
        if fake is not None and not has_own_forward(fake):
            given = Given()
            others = {fake: stand_in(KnownWeights, fake, _qadv_given=given)}
            made.append(Part(others, _Trained(layer), given, watched=[fake]))
    return made


@torch.no_grad()
def of_training(name: str, layer: Any) -> list[QuantizedTensor]:
    """Describes what a layer in training quantizes."""
    found: list[QuantizedTensor] = []
    inputs, fake = (layer._modules.get(each) for each in _FAKES)
    if inputs is not None and inputs.enabled:
        about = _about(name, "input", inputs)
        about["scheme"] += " dynamic"
        found.append(QuantizedActivation(**about, scale=None, at=None, place=(inputs, "forward")))
    if fake is not None and fake.enabled:
        fake = copy.copy(fake)  # it notes the scale that it finds
        value, about = fake(layer.weight), _about(name, "weights", fake)
        about |= {"scale": getattr(fake, "scale", None), "latent": layer.weight.detach(), "parameter": layer.weight}
        found.append(QuantizedWeights(**about, value=value))
    return found


def _about(name: str, role: str, fake: Any) -> Any:
    dtype = getattr(fake.config, "dtype", "int4")
    about = integers(name, role, bits_of_type(dtype), _ORIGIN, "straight-through")
    return about | {"scheme": f"float:{about['bits']}"} if _is_float(dtype) else about


def has_buffers(module: nn.Module) -> bool:
    """Whether a module is a layer with codes in its buffers, of torchao's older quantizers; no gradient passes it."""
    return of_toolkit(type(module), "torchao") and is_made_from(module, *_OF_BUFFERS)


@torch.no_grad()
def of_buffers(network: nn.Module, name: str, layer: Any) -> list[QuantizedTensor]:
    """Describes a layer with codes in its buffers."""
    kind = next(each for each in _OF_BUFFERS if is_made_from(layer, each))
    bias = layer._buffers.get("bias")
    about = integers(name, "weights", 4, _ORIGIN, "none") | {"nb_codes": 16} | _OF_BUFFERS[kind](layer)
    found: list[QuantizedTensor] = [QuantizedWeights(**about, beside=0 if bias is None else bias.numel())]
    return [*found, dynamic(network, name, 8, _ORIGIN)] if kind == "Int8DynActInt4WeightLinear" else found


def _in_groups(layer: Any) -> dict[str, Tensor]:
    scale, zero_point = (each.float().unsqueeze(-1) for each in (layer.scales, layer.zeros))
    value = (layer.weight.unflatten(1, (-1, layer.groupsize)) - zero_point) * scale
    return {"value": value.flatten(1), "codes": layer.weight, "scale": layer.scales}


def _in_tiles(layer: Any) -> dict[str, Tensor]:
    """Returns weights that only a kernel can read: it multiplies them by 1."""
    width = layer.origin_in_features if layer.padding else layer.in_features
    value = type(layer).forward(layer, torch.eye(width, device=layer.weight.device)).T
    return {"value": value, "scale": layer.scales_and_zeros[..., 0]}


_OF_BUFFERS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "Int8DynActInt4WeightLinear": _in_groups,
    "WeightOnlyInt4Linear": _in_tiles,
}
