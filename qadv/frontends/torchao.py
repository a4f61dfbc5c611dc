"""Networks of torchao: PT2E graphs, prepared or converted, `quantize_`'s weights, and layers of its training."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qadv.errors import UnsupportedModelError
from qadv.frontends import fake_quantize
from qadv.frontends.fake_quantize import integers, of_toolkit
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedTensor,
    QuantizedWeights,
)
from qadv.frontends.pt2e import converted, converts, prepared, uncounted
from qadv.frontends.straight_through_mode import dynamic, rounds_inputs, straight_through_form
from qadv.frontends.torchao_parts import (
    bits_of_type,
    has_buffers,
    of_buffers,
    of_training,
    straightened,
    trained_parts,
)
from qadv.quantization.form import FormOptions, Part
from qadv.quantization.stand_ins import with_stand_ins

_PACKED_FLOATS = "NVFP4Tensor", "MXTensor"


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
                found.append(weights := _of_tensor(name, weight))
                if rounds_inputs(weight):
                    found.append(_of_input(network, weights, getattr(weight, "act_quant_scale", None)))
            found += of_training(name, module)
            found += of_buffers(network, name, module) if has_buffers(module) else []
        return found

    def objection(self, network: nn.Module) -> str:
        convert = "torchao.quantization.pt2e.quantize_pt2e.convert_pt2e(model)"
        return fake_quantize.objection(network, "torchao.quantization.pt2e", convert)

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        made = fake_quantize.parts(network, fold=False)
        return [*made, Part(uncounted(network)), *trained_parts(network)]

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        own = any(has_buffers(m) or any(map(rounds_inputs, _own_weights(m))) for m in network.modules())
        if own or converts(network):
            root, _ = with_stand_ins(network, {**uncounted(network), **straightened(network)})
            return straight_through_form(network, root, options)
        return super().form(network, options)


def _own_weights(module: nn.Module) -> list[Any]:
    """Returns the parameters of a module, not of its parts, that are tensors of torchao's."""
    return [each for each in module._parameters.values() if of_toolkit(type(each), "torchao")]


@torch.no_grad()
def _of_tensor(name: str, weight: Any) -> QuantizedWeights:
    codes, scale = (getattr(weight, each, None) for each in ("qdata", "scale"))
    floats = (codes is not None and codes.is_floating_point()) or type(weight).__name__ in _PACKED_FLOATS
    bits = _bits(weight, codes)
    try:
        value = weight.dequantize().detach().float()
    except (NotImplementedError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{name or '(root)'}: torchao can't dequantize weights of its class {type(weight).__name__} "
            f"({error.__class__.__name__}), so what they are quantized to is not known"
        ) from error
    return QuantizedWeights(
        **integers(name, "weights", bits, TorchaoFrontend.name, "none") | {"scheme": _scheme(floats, bits)},
        scale=None if scale is None else scale.detach().float(),
        value=value,
        codes=codes if codes is not None and codes.shape == weight.shape and not floats else None,
        nb_codes=2**bits,
        parameter=weight,
    )


def _bits(weight: Any, codes: Any) -> int:
    """Returns the bits of one weight; of codes that are packed, what is there for each."""
    if (target := getattr(weight, "target_dtype", None)) is not None:
        return bits_of_type(target)
    known = codes is not None and not codes.is_floating_point()
    return 8 * codes.numel() * codes.element_size() // weight.numel() if known else 8


def _scheme(floats: bool, bits: int) -> str:
    return f"{'float' if floats else 'int'}:{bits}"


def _of_input(network: nn.Module, weights: QuantizedWeights, scale: Tensor | None) -> QuantizedTensor:
    floats = weights.scheme.startswith("float")
    found = dynamic(network, weights.layer, weights.bits if floats else 8, TorchaoFrontend.name)
    scheme = _scheme(floats, found.bits)
    if scale is None:
        return replace(found, scheme=f"{scheme} dynamic")
    return replace(found, scheme=scheme, scale=scale.detach().float())
