"""Networks of torchao: PT2E graphs, prepared or converted, `quantize_`'s weights, and layers of its training."""

import copy
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qadv.frontends import fake_quantize
from qadv.frontends.fake_quantize import KnownWeights, integers, of_toolkit
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedActivation,
    QuantizedTensor,
    QuantizedWeights,
)
from qadv.frontends.pt2e import converted, converts, prepared, uncounted
from qadv.frontends.straight_through_mode import dynamic, rounds_inputs, straight_through_form
from qadv.quantization.form import FormOptions, Given, Part
from qadv.quantization.stand_ins import stand_in, with_stand_ins


class TorchaoFrontend(NetworkFrontend):
    """Reads tensors of torchao's own class, its fake-quantized layers, and exported graphs."""

    name = "torchao"
    exports = False

    def recognises(self, network: nn.Module) -> bool:
        modules = any(of_toolkit(type(m), "torchao") or _own_weights(m) for m in network.modules())
        return modules or converts(network)

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        found: list[QuantizedTensor] = []
        for name, module in network.named_modules():
            if isinstance(module, fx.GraphModule):
                found += converted(network, name, module)
                found += prepared(network, name, module)
            for weight in _own_weights(module):
                found.append(_of_tensor(name, weight))
                found += [_of_input(network, name, weight)] if rounds_inputs(weight) else []
            if "weight_fake_quantizer" in module._modules:
                found += _of_training(name, module)
        return found

    def objection(self, network: nn.Module) -> str:
        convert = "torchao.quantization.pt2e.quantize_pt2e.convert_pt2e(model)"
        return fake_quantize.objection(network, "torchao.quantization.pt2e", convert)

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        made = fake_quantize.parts(network, fold=False)
        made.append(Part(uncounted(network)))
        for layer in network.modules():
            fake = layer._modules.get("weight_fake_quantizer")
            if fake is not None and "forward" not in vars(fake):
                given = Given()
                others = {fake: stand_in(KnownWeights, fake, _qadv_given=given)}
                made.append(Part(others, _Trained(layer), given, watched=[fake]))
        return made

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        if converts(network) or any(rounds_inputs(weight) for m in network.modules() for weight in _own_weights(m)):
            root, _ = with_stand_ins(network, uncounted(network))
            return straight_through_form(network, root, options)
        return super().form(network, options)


def _own_weights(module: nn.Module) -> list[Any]:
    """Returns the parameters of a module, not of its parts, that are tensors of torchao's."""
    return [each for each in module._parameters.values() if of_toolkit(type(each), "torchao")]


@torch.no_grad()
def _of_tensor(name: str, weight: Any) -> QuantizedTensor:
    codes = getattr(weight, "qdata", None)
    kind = "float" if codes is not None and codes.is_floating_point() else "int"
    codes = codes if codes is not None and codes.shape == weight.shape and not codes.is_floating_point() else None
    bits = _bits(getattr(weight, "target_dtype", None) or (torch.int8 if codes is None else codes.dtype))
    scale = getattr(weight, "scale", None)
    return QuantizedWeights(
        **integers(name, "weights", bits, TorchaoFrontend.name, "none") | {"scheme": f"{kind}:{bits}"},
        scale=None if scale is None else scale.detach(),
        value=weight.dequantize().detach().float(),
        codes=codes,
        nb_codes=2**bits,
        parameter=weight,
    )


def _of_input(network: nn.Module, name: str, weight: Any) -> QuantizedTensor:
    found, scale = dynamic(network, name, 8, TorchaoFrontend.name), getattr(weight, "act_quant_scale", None)
    return found if scale is None else replace(found, scheme="int:8", scale=scale.detach())


def _bits(dtype: Any) -> int:
    """Returns the bits in the name of a type, as of `torch.int4` or `TorchAODType.INT4`."""
    found = re.search(r"int(\d+)", str(dtype).lower())
    return int(found[1]) if found else 8 * torch.empty(0, dtype=dtype).element_size()


@torch.no_grad()
def _of_training(name: str, layer: Any) -> list[QuantizedTensor]:
    found: list[QuantizedTensor] = []
    inputs, fake = layer.activation_fake_quantizer, layer.weight_fake_quantizer
    if inputs is not None and inputs.enabled:
        bits = _bits(inputs.config.dtype)
        about = integers(name, "input", bits, TorchaoFrontend.name, "straight-through")
        about["scheme"] += " dynamic"
        found.append(QuantizedActivation(**about, scale=None, at=None, place=(inputs, "forward")))
    if fake.enabled:
        fake = copy.copy(fake)  # it notes the scale that it finds
        value, bits = fake(layer.weight), _bits(fake.config.dtype)
        about = integers(name, "weights", bits, TorchaoFrontend.name, "straight-through")
        about |= {"scale": getattr(fake, "scale", None), "latent": layer.weight.detach(), "parameter": layer.weight}
        found.append(QuantizedWeights(**about, value=value))
    return found


@dataclass(frozen=True)
class _Trained:
    """The quantized weights of a layer in training."""

    layer: Any

    @property
    def modules(self) -> list[nn.Module]:
        return [self.layer, self.layer.weight_fake_quantizer]

    def values(self) -> tuple[Tensor, ...]:
        return (copy.copy(self.layer.weight_fake_quantizer)(self.layer.weight),)
