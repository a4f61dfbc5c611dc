"""Networks with Brevitas's own layers, written by hand or made by Brevitas's flows."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from brevitas.core.function_wrapper import TensorClamp
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjectorBase
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase, TruncQuantProxyFromInjector
from torch import Tensor, nn

from qadv.frontends.brevitas_parts import brevitas_parts, is_constant, plain_modules
from qadv.frontends.frontend import Function, NetworkFrontend, QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.quantization.form import FormOptions, Part
from qadv.quantization.tracing import undone

_MOST_BITS = 16  # of a grid whose levels are listed


@dataclass(frozen=True, eq=False, kw_only=True)
class _Activation(QuantizedActivation):
    """What Brevitas calls an activation's quantizer returns scale, zero point and bit width as well."""

    fused: Any

    def function(self) -> Function:
        forward = self.fused.forward
        return lambda x: forward(x)[0]

    def squash(self, x: Tensor) -> Tensor:
        return self.fused.activation_impl(x)  # type: ignore[no-any-return]

    unquantized = squash


class BrevitasFrontend(NetworkFrontend):
    """Reads the proxies of Brevitas's layers; those of qadv's layers, which derive from them, are left out."""

    name = "brevitas"

    def recognises(self, network: nn.Module) -> bool:
        return any(isinstance(module, QuantProxyFromInjector) for _, module in plain_modules(network))

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        modules = dict(plain_modules(network))
        found: list[QuantizedTensor] = []
        for name, proxy in modules.items():
            layer, _, role = name.rpartition(".")
            if isinstance(proxy, QuantProxyFromInjector) and proxy.is_quant_enabled and layer in modules:
                with _evaluated([modules[layer], *proxy.modules()]):
                    if isinstance(proxy, WeightQuantProxyFromInjectorBase):
                        found.append(_weights(layer, modules[layer], proxy))
                    elif isinstance(proxy, ActQuantProxyFromInjectorBase):
                        found.append(_activation(name, layer, "input" if role == "input_quant" else "output", proxy))
                    elif isinstance(proxy, TruncQuantProxyFromInjector):
                        found.append(QuantizedTensor(scale=None, **_said(layer, "output", proxy, proxy.tensor_quant)))
        return found

    def objection(self, network: nn.Module) -> str:
        if any(vars(module).get("_export_mode") for _, module in plain_modules(network)):
            return (
                "the network is in Brevitas's export or inference mode, whose image gradients are not its own: leave "
                "quant_inference_mode, or call disable on the export manager"
            )
        return ""

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        return brevitas_parts(network)


@contextmanager
def _evaluated(modules: list[Any]) -> Iterator[None]:
    """Lets quantizers answer as in evaluation mode; whatever they set or count or clip is undone."""
    tensors = {t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None}
    before = {tensor: tensor.detach().clone() for tensor in tensors}
    with undone(modules), torch.no_grad():
        for module in modules:
            kept = {"training": False, "_export_mode": False, "skip_create_quant_tensor": False}
            vars(module).update({name: value for name, value in kept.items() if name in vars(module)})
        try:
            yield
        finally:
            for tensor, content in before.items():
                if not torch.equal(tensor, content):
                    tensor.copy_(content)


def _said(layer: str, role: Literal["weights", "input", "output"], proxy: Any, quantizer: Any) -> dict[str, Any]:
    """Returns what is said of every quantizer: its class, with the bits where that has others in its name."""
    bits = _bits(quantizer)
    name = proxy.quant_injector.__name__
    clipped = any(type(module) is TensorClamp for module in quantizer.modules())
    return {
        "layer": layer,
        "role": role,
        "scheme": name if str(bits) in re.findall(r"\d+", name) else f"{name}:{bits}",
        "bits": bits,
        "estimator": "straight-through, clipped" if clipped else "straight-through",
        "origin": BrevitasFrontend.name,
    }


def _bits(quantizer: Any) -> int:
    if hasattr(quantizer, "mantissa_bit_width_impl"):
        parts = quantizer.exponent_bit_width_impl(), quantizer.mantissa_bit_width_impl()
        return round(float(sum(parts))) + bool(quantizer.signed)
    bit_width = quantizer.bit_width if hasattr(quantizer, "bit_width") else quantizer.msb_clamp_bit_width_impl
    return round(float(bit_width()))


def _weights(name: str, layer: Any, proxy: Any) -> QuantizedTensor:
    quantizer = proxy.tensor_quant
    said = _said(name, "weights", proxy, quantizer)
    if proxy.requires_quant_input:  # the weights depend on what comes in
        return QuantizedTensor(scale=None, **said)
    found, kind = proxy(layer.weight), type(quantizer).__name__
    codes, values, also = None, torch.empty(0), dict[str, Any]()
    if hasattr(found, "bit_width"):
        scale, zero, others = found.scale.clone(), found.zero_point.clone(), quantizer(layer.weight)[1:]
        codes = (found.value / scale + zero).nan_to_num().round().to(torch.int32)
        values = _code_values(kind, said["bits"], proxy)

        def made(other: Tensor) -> Callable[..., Any]:
            return lambda weight: ((other - zero) * scale, *others)

        also = {"place": (vars(quantizer), "forward"), "made": made}
    return QuantizedWeights(
        scale=getattr(found, "scale_", found.scale).detach().clone(),
        value=found.value.detach().clone(),
        codes=codes,
        nb_codes=len(values),
        latent=layer.weight.detach().clone(),
        parameter=layer._parameters.get("weight"),
        code_values=values,
        **also,
        **said,
    )


def _code_values(kind: str, bits: int, proxy: Any) -> Tensor:
    if "Binary" in kind:
        return torch.tensor([-1, 1])
    if "Ternary" in kind:
        return torch.arange(-1, 2)
    low = -(2 ** (bits - 1)) if proxy.is_signed else 0
    narrow = bool(proxy.is_narrow_range)
    return torch.arange(low + (narrow and proxy.is_signed), low + 2**bits - (narrow and not proxy.is_signed))


def _activation(name: str, layer: str, role: Literal["input", "output"], proxy: Any) -> QuantizedTensor:
    fused = proxy.fused_activation_quant_proxy
    said = _said(layer, role, proxy, fused.tensor_quant)
    if not is_constant(fused.tensor_quant) or said["bits"] > _MOST_BITS:
        forward = fused.forward  # what it gives besides follows what comes
        also: dict[str, Any] = {"adapted": lambda function: lambda x: (function(x), *forward(x)[1:]), "at": None}
        return _Activation(scale=None, place=(fused, "forward"), fused=fused, **also, **said)
    _, scale, *others = fused.tensor_quant(proxy._zero_hw_sentinel())

    def adapted(function: Function) -> Callable[..., Any]:
        return lambda x: (function(x), scale, *others)

    return _Activation(
        scale=scale.clone(),
        levels=_levels(fused.tensor_quant, said["bits"], scale, others[0]),
        place=(fused, "forward"),
        at=f"{name}.fused_activation_quant_proxy",
        adapted=adapted,
        fused=fused,
        **said,
    )


def _levels(quantizer: Any, bits: int, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Returns what the quantizer makes of points that have all its levels among them."""
    codes = torch.arange(-(2**bits), 2**bits + 1, device=scale.device, dtype=scale.dtype)
    if hasattr(quantizer, "mantissa_bit_width_impl"):
        mantissa, bias = float(quantizer.mantissa_bit_width_impl()), float(quantizer.exponent_bias_impl())
        fractions = torch.arange(2**mantissa, device=scale.device, dtype=scale.dtype) / 2**mantissa
        powers = 2 ** torch.arange(1 - bias, 2 ** float(quantizer.exponent_bit_width_impl()) - bias).to(codes)
        parts = (1 + fractions) * powers[:, None], (fractions * powers[0])[None]
        codes = torch.cat([sign * part.flatten() for part in parts for sign in (-1, 1)])
    points = (codes.reshape(-1, *[1] * (scale.ndim - 1)) - zero_point) * scale
    levels: Tensor = quantizer(points)[0].unique()
    return levels[levels.isfinite()]
