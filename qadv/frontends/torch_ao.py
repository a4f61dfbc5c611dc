"""Networks of torch.ao: prepared for training, eager or fx, and converted to int8."""

from typing import Any

import torch
from torch import Tensor, nn

from qadv.frontends import fake_quantize
from qadv.frontends.fake_quantize import integers, of_toolkit, on_grid
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedActivation,
    QuantizedTensor,
    QuantizedWeights,
)
from qadv.frontends.straight_through_mode import computing, dynamic, ends_of, grid, straight_through_form
from qadv.quantization.form import FormOptions, Part


class TorchAoFrontend(NetworkFrontend):
    """Reads FakeQuantize modules and the layers round them; weights are computed once."""

    name = "torch.ao"
    folds = True
    exports = False

    def recognises(self, network: nn.Module) -> bool:
        return any(of_toolkit(type(module), "torch.ao") for module in network.modules())

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        found: list[QuantizedTensor] = []
        modules = list(network.named_modules())
        of_weights = {module.weight_fake_quant for _, module in modules if "weight_fake_quant" in module._modules}
        for name, module in modules:
            if "weight_fake_quant" in module._modules and module.weight_fake_quant.fake_quant_enabled.item():
                exact = fake_quantize.latent(module).detach()
                found.append(fake_quantize.weights(name, module.weight_fake_quant, exact, module.weight, self.name))
            elif fake_quantize.is_fake_quantize(module) and module not in of_weights:
                found += fake_quantize.activation(name, module, self.name)
            elif _is_converted_layer(module):
                if callable(getattr(module, "weight", None)):
                    found.append(_packed_weights(name, module))
                if of_toolkit(type(module), "torch.ao.nn.quantized.dynamic"):
                    found += [dynamic(network, name, 8, self.name)] if found and found[-1].bits == 8 else []
                elif hasattr(module, "zero_point"):
                    found.append(_rounded_output(network, name, module))
        return found

    def objection(self, network: nn.Module) -> str:
        convert = "torch.ao.quantization.convert(model), or quantize_fx.convert_fx(model)"
        return fake_quantize.objection(network, "torch.ao.quantization", convert)

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        return fake_quantize.parts(network, options.fold_batch_norm)

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        if any(map(_is_converted_layer, network.modules())):
            return straight_through_form(network, network, options)
        return super().form(network, options)


def _is_converted_layer(module: nn.Module) -> bool:
    """Whether a module computes with integers."""
    computes = not type(module).__name__.endswith("FloatFunctional")
    return computes and of_toolkit(type(module), "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


@torch.no_grad()
def _packed_weights(name: str, layer: Any) -> QuantizedWeights:
    weight, bias = layer.weight(), layer.bias() if callable(layer.bias) else layer.bias
    beside = 0 if bias is None else bias.numel()
    if not weight.is_quantized:
        about = integers(name, "weights", 16, TorchAoFrontend.name, "none") | {"scheme": "float:16"}
        return QuantizedWeights(**about, beside=beside, scale=None, value=weight.float())
    per_tensor = weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    scale = torch.tensor(weight.q_scale()) if per_tensor else weight.q_per_channel_scales().float()
    axis, info = 0 if per_tensor else weight.q_per_channel_axis(), torch.iinfo(weight.dtype)
    return QuantizedWeights(
        **integers(name, "weights", info.bits, TorchAoFrontend.name, "none"),
        beside=beside,
        scale=fake_quantize.spread(scale, weight, axis),
        value=weight.dequantize(),
        codes=weight.int_repr(),
        nb_codes=info.max - info.min + 1,
    )


def _rounded_output(network: nn.Module, name: str, module: Any) -> QuantizedActivation:
    dtype, at = getattr(module, "dtype", torch.quint8), "" if type(module).__name__ == "Quantize" else None
    found = grid(computing(network, name), module.scale, module.zero_point, *ends_of(dtype))
    return on_grid(found, integers(name, "output", torch.iinfo(dtype).bits, TorchAoFrontend.name), at)
