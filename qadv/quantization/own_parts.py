"""What stands in for convolutions, linear layers and BatchNorms in the form of a network that `quantize` made."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qadv.quantization.batch_norm_folding import BATCH_NORMS, FoldedNorm, can_be_folded, foldable
from qadv.quantization.form import FormOptions, Given, Part
from qadv.quantization.frozen import FrozenConv2d, FrozenLinear
from qadv.quantization.kept_values import LayerSource
from qadv.quantization.layers import QuantConv2d, QuantLinear, _QuantLayer, _TrainableLayer, convolve
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.stand_ins import NoFormError, StandIn, has_own_forward, stand_in

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_QUANTIZED = (QuantConv2d, QuantLinear, FrozenConv2d, FrozenLinear)


class _Promised(Tensor):
    """In the place of a folded layer's output, which only the BatchNorm may take: who else asks finds no form."""

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NoFormError("the output of a layer whose BatchNorm is folded in is not there; make it with fold=False")

    def __deepcopy__(self, memo: Any) -> "_Promised":  # of a network that keeps it
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _promised, ()


class _Layer(StandIn):
    """A convolution or linear layer with a weight and a bias that it is given."""

    __slots__ = ("_qadv_given", "_qadv_inputs")
    _qadv_given: Given
    _qadv_inputs: ActivationQuantizer | None

    def forward(self, x: Tensor) -> Tensor:
        if self._qadv_inputs is not None:
            x = self._qadv_inputs.quantize(x)
        weight, bias = self._qadv_given.values
        return F.linear(x, weight, bias) if isinstance(self, nn.Linear) else convolve(self, x, weight, bias)


_PROMISED = Tensor._make_subclass(_Promised, torch.empty(0))


def _promised() -> Tensor:
    return _PROMISED


class _FoldedLayer(_Layer):
    """One with a BatchNorm folded in, which has to follow each time that it runs."""

    __slots__ = ()

    def forward(self, x: Tensor) -> Tensor:
        given = self._qadv_given
        if given.output is not None:
            raise NoFormError
        given.output = super().forward(x)
        return _PROMISED

    def hand_over(self, x: Tensor) -> Tensor:
        given = self._qadv_given
        output = given.output
        if x is not _PROMISED or output is None:
            raise NoFormError
        given.output = None
        return output


def own_parts(network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
    """Returns a part for each layer that `quantize` made, and for plain ones where the options are about them.

    The network is in evaluation mode; what can be folded is found by one of the images `x`, (N, …).

    Raises:
        NoFormError: a layer's weights are put there by somebody for this pass only.
    """
    fold = options.fold_batch_norm
    wanted = (*_QUANTIZED, *_PLAIN) if fold or options.channels_last else _QUANTIZED
    candidates: list[Any] = [module for module in network.modules() if type(module) in wanted]
    if not all(isinstance(layer.weight, nn.Parameter) for layer in candidates):
        raise NoFormError  # computed by a hook, as pruning does, or put there by functional_call
    layers = [layer for layer in candidates if _can_be_kept(layer)]
    norms = [module for module in network.modules() if fold and isinstance(module, BATCH_NORMS)]
    if norms and not x.is_floating_point():
        raise NoFormError  # what can be folded is found by a gradient
    pairs = foldable(network, layers, [norm for norm in norms if can_be_folded(norm)], x[:1]) if norms else {}
    parts = [Part({}, watched=[*candidates, *norms])]
    for layer in layers:
        moved = options.channels_last and layer.weight.ndim == 4
        if not (moved or layer in pairs or type(layer) in _QUANTIZED):
            continue
        quantizer = layer.weight_quantizer if isinstance(layer, _TrainableLayer) else None
        source, given = LayerSource(layer, quantizer, pairs.get(layer)), Given()
        inputs = layer.input_quantizer if isinstance(layer, _QuantLayer) else None
        kind = _FoldedLayer if layer in pairs else _Layer
        others: dict[nn.Module, StandIn] = {layer: stand_in(kind, layer, _qadv_given=given, _qadv_inputs=inputs)}
        if layer in pairs:
            others[pairs[layer]] = stand_in(FoldedNorm, pairs[layer], _qadv_layer=others[layer])
        proxies = layer.proxies if isinstance(layer, _TrainableLayer) else ()
        parts.append(Part(others, source, given, [*proxies, *(() if quantizer is None else quantizer.modules())]))
    return parts


def _can_be_kept(layer: Any) -> bool:
    """Whether a layer is in evaluation mode with its quantizer, and nobody has something else in mind with it."""
    if has_own_forward(layer) or layer.training:
        return False
    return not isinstance(layer, _TrainableLayer) or layer.is_plain()
