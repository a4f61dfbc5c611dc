"""`freeze`: a quantized network as plain layers, its weights quantized once and for all."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qadv.errors import InvalidInputError
from qadv.modes import held_network
from qadv.quantization.layers import QuantActivation, QuantConv2d, QuantLinear, _QuantLayer, convolve, sizes, swapped
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer

Quantized = tuple[Tensor, Tensor]


class FrozenLayer(_QuantLayer):
    """Mixed into plain layers that hold quantized weights; they remember codes and scale."""

    _weights: tuple[WeightQuantizer, Tensor, Tensor] | None = None

    def remember(self, layer: _QuantLayer, quantized: Quantized | None) -> None:
        """Copies a layer's parameters and quantizers, with its own codes or those given."""
        own: Any = self
        source: Any = layer
        if quantized is None and layer.weight_quantizer is not None:
            quantized = layer.quantized()
        weight = source.weight.detach()
        if quantized is not None:
            assert layer.weight_quantizer is not None
            # not modules of this layer: a frozen network has the state dict of a float one
            self._weights = layer.weight_quantizer, *quantized
            weight = layer.weight_quantizer.decode(*quantized).to(weight)
        own.weight = nn.Parameter(weight, requires_grad=False)
        if source.bias is not None:
            own.bias = nn.Parameter(source.bias.detach(), requires_grad=False)
        own.quantize_input = layer.input_quantizer
        own.share = layer.share
        own.train(source.training)

    @property
    def weight_quantizer(self) -> WeightQuantizer | None:
        return self._weights[0] if self._weights is not None else None

    @property
    def input_quantizer(self) -> ActivationQuantizer | None:
        found: ActivationQuantizer | None = getattr(self, "quantize_input", None)
        return found

    def quantized(self) -> Quantized:
        if self._weights is None:
            return super().quantized()
        quantizer, *stored = self._weights
        codes, scale = (tensor.to(self.weight.device) for tensor in stored)
        if not torch.equal(quantizer.decode(codes, scale).to(self.weight), self.weight):
            raise InvalidInputError(
                "the weights of a frozen layer were changed, so that its integer codes no longer say what they are; "
                "change the network that was frozen, and freeze it again"
            )
        return codes, scale

    def after_step(self) -> None:
        """Does nothing: these weights are not trained."""


class FrozenConv2d(FrozenLayer, nn.Conv2d):
    """A plain convolution with quantized weights."""

    is_same_padded_strided = False

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, self.quantized_input(x), self.weight, self.bias)


class FrozenLinear(FrozenLayer, nn.Linear):
    """A plain linear layer with quantized weights."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.Linear.forward(self, self.quantized_input(x))


class FrozenActivation(QuantActivation):
    """The quantizer of an activation, called without Brevitas's proxies."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        nn.Module.__init__(self)
        self.quantize_output = quantizer
        self.replaces_inplace = False  # the trainable form, made before, has been checked for that

    @property
    def quantizer(self) -> ActivationQuantizer:
        return self.quantize_output

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize_output.quantize(x)


def is_frozen(model: nn.Module) -> bool:
    """Whether `freeze` made the network."""
    return any(isinstance(module, FrozenLayer | FrozenActivation) for module in model.modules())


@torch.no_grad()
def freeze(model: nn.Module, codes: Mapping[str, Quantized] | None = None) -> nn.Module:
    """Returns a copy of plain layers with the same outputs and input gradients; nothing in it is trained.

    `codes` are integer codes and scale of layers by name, instead of those that the layers' weights give.

    Raises:
        InvalidInputError: the network is not quantized, or frozen already, or on the meta device.
    """
    model = held_network(model)
    if is_frozen(model):
        raise InvalidInputError("the network is frozen already")
    if not any(isinstance(module, _QuantLayer | QuantActivation) for module in model.modules()):
        raise InvalidInputError("the network is not quantized: there is nothing to freeze; quantize it first")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise InvalidInputError("the network is on the meta device: it has no weights to freeze; load some first")
    result = copy.deepcopy(model)
    others: dict[nn.Module, nn.Module] = {}
    for name, module in result.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear):
            others[module] = _frozen_layer(module, (codes or {}).get(name))
        elif isinstance(module, QuantActivation):
            others[module] = FrozenActivation(module.quantizer).train(module.training)
    frozen = swapped(result, others)
    if frozen is not result:
        frozen.qadv_quantization = result.qadv_quantization  # the whole network is one layer
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return frozen


def _frozen_layer(layer: Any, quantized: Quantized | None) -> nn.Module:
    new: Any
    if isinstance(layer, QuantConv2d):
        new = FrozenConv2d(**sizes(layer), device="meta")
        new.is_same_padded_strided = layer.is_same_padded_strided
    else:
        new = FrozenLinear(**sizes(layer), device="meta")
    new.remember(layer, quantized)
    return new  # type: ignore[no-any-return]
