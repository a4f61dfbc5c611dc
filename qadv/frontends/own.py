"""Networks that `qadv.quantize` or `freeze` made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qadv.frontends.frontend import NetworkFrontend, QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.quantization.attention import QuantizedProducts
from qadv.quantization.form import FormOptions, Part
from qadv.quantization.frozen import FrozenLayer
from qadv.quantization.layers import QuantActivation, _QuantLayer
from qadv.quantization.own_parts import own_parts
from qadv.quantization.quantizer import ActivationQuantizer


@dataclass(frozen=True, eq=False, kw_only=True)
class _OwnActivation(QuantizedActivation):
    quantizer: ActivationQuantizer

    @property
    def squash(self) -> Callable[[Tensor], Tensor]:
        return self.quantizer.squash

    @property
    def unquantized(self) -> Callable[[Tensor], Tensor]:
        return self.quantizer.unquantized


class OwnFrontend(NetworkFrontend):
    """Reads layers that describe themselves; their form has BatchNorm folded in where that is asked for."""

    name = "qadv"
    folds = True

    def recognises(self, network: nn.Module) -> bool:
        kinds = _QuantLayer | QuantActivation | QuantizedProducts
        return any(isinstance(module, kinds) for module in network.modules())

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        found: list[QuantizedTensor] = []
        for name, module in network.named_modules():
            if isinstance(module, QuantActivation):
                found.append(_activation(name, module.quantizer, "output"))
            elif isinstance(module, _QuantLayer):
                if module.input_quantizer is not None:
                    found.append(_activation(name, module.input_quantizer, "input"))
                if module.weight_quantizer is not None:
                    found.append(_weights(name, module))
            elif isinstance(module, QuantizedProducts):
                found += [_product(name, module.qadv_operands), _product(name, module.qadv_gates)]
        return found

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        return own_parts(network, options, x)


def _said(layer: str, role: str, quantizer: Any) -> Any:
    about = {"layer": layer, "role": role, "scheme": quantizer.spec, "bits": quantizer.bits}
    return {**about, "origin": OwnFrontend.name}


def _activation(name: str, quantizer: ActivationQuantizer, role: str) -> QuantizedActivation:
    return _OwnActivation(
        **_said(name, role, quantizer),
        scale=quantizer.scale.detach(),
        levels=quantizer.levels().detach(),
        place=(quantizer, "quantize"),
        quantizer=quantizer,
    )


def _product(name: str, quantizer: ActivationQuantizer) -> QuantizedActivation:
    return QuantizedActivation(**_said(name, "products", quantizer), scale=None, at=None, place=(quantizer, "quantize"))


@torch.no_grad()
def _weights(name: str, layer: Any) -> QuantizedWeights:
    quantizer = layer.weight_quantizer
    codes, scale = layer.quantized()
    frozen = isinstance(layer, FrozenLayer)

    def made(other: Tensor) -> Any:
        value = quantizer.decode(other, scale)
        return value if frozen else lambda weight: (value, scale, quantizer.zero_point, quantizer.bit_width)

    return QuantizedWeights(
        **_said(name, "weights", quantizer),
        scale=scale,
        value=quantizer.decode(codes, scale),
        codes=codes,
        nb_codes=len(quantizer.code_values()),
        latent=None if frozen else layer.weight.detach(),
        parameter=layer.weight,
        code_values=quantizer.code_values(),
        place=(layer._parameters, "weight") if frozen else (vars(quantizer), "forward"),
        made=made,
    )
