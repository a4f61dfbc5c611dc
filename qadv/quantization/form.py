"""What a quantized network computes in evaluation mode, with its weights quantized once: the network's *form*."""

import re
from dataclasses import asdict, dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from qadv.quantization.batch_norm_folding import BATCH_NORMS, FoldedNorm, can_be_folded, foldable
from qadv.quantization.frozen import FrozenConv2d, FrozenLinear
from qadv.quantization.kept_weights import KeptWeights, Source, same_objects
from qadv.quantization.layers import HOOKS, QuantConv2d, QuantLinear, _QuantLayer, _TrainableLayer, convolve
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.stand_ins import NoFormError, StandIn, stand_in, with_stand_ins

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# of all modules there are; torch fills and empties these, and never replaces them
_GLOBAL_HOOKS = [
    value for name, value in vars(of_all_modules).items() if re.fullmatch(r"_global_(for|back)ward(_pre)?_hooks", name)
]
_QUANTIZED = (QuantConv2d, QuantLinear, FrozenConv2d, FrozenLinear)


@dataclass(frozen=True)
class FormOptions:
    """How a form's arithmetic is done; without any, it is the network's to the bit.

    Attributes:
        fold_batch_norm: BatchNorms are part of the layers before them.
        channels_last: images and weights of two dimensions in space lie in memory with their channels last.
        as_it_is: the network computes itself; for one that is another where modules stand in for its own.
    """

    fold_batch_norm: bool = False
    channels_last: bool = False
    as_it_is: bool = False

    def to_dict(self) -> dict[str, bool]:
        """Returns plain data for JSON; `as_it_is`, which is rare, only where it is set."""
        return {name: value for name, value in asdict(self).items() if value or name != "as_it_is"}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Returns the options of plain data.

        Raises:
            TypeError: they are something else.
        """
        if not isinstance(data, dict) or not all(isinstance(value, bool) for value in data.values()):
            raise TypeError(f"form: expected the names of options, each true or false, found {data!r}")
        return cls(**data)


class _Promised(Tensor):
    """In the place of a folded layer's output, which only the BatchNorm may take: who else asks finds no form."""

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NoFormError("the output of a layer whose BatchNorm is folded in is not there; make it with fold=False")


class _Given:
    """What a layer computes with, and what it gave where the BatchNorm that is folded in has not taken it yet."""

    __slots__ = ("bias", "inputs", "output", "promised", "weight")
    weight: Tensor
    bias: Tensor | None
    output: Tensor | None

    def __init__(self, inputs: ActivationQuantizer | None) -> None:
        self.inputs = inputs
        self.promised = Tensor._make_subclass(_Promised, torch.empty(0))


class _Layer(StandIn):
    """A convolution or linear layer with a weight and a bias that it is given."""

    __slots__ = ("_qadv_given",)
    _qadv_given: _Given

    def forward(self, x: Tensor) -> Tensor:
        given = self._qadv_given
        if given.inputs is not None:
            x = given.inputs.quantize(x)
        if isinstance(self, nn.Linear):
            return F.linear(x, given.weight, given.bias)
        return convolve(self, x, given.weight, given.bias)


class _FoldedLayer(_Layer):
    """One with a BatchNorm folded in, which has to follow each time that it runs."""

    __slots__ = ()

    def forward(self, x: Tensor) -> Tensor:
        given = self._qadv_given
        if given.output is not None:
            raise NoFormError
        given.output = super().forward(x)
        return given.promised

    def hand_over(self, x: Tensor) -> Tensor:
        given = self._qadv_given
        output = given.output
        if x is not given.promised or output is None:
            raise NoFormError
        given.output = None
        return output


class _ChannelsLast(torch.autograd.Function):
    """Images with their channels last in memory, their gradient with its channels first as others expect it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0].contiguous()


class Form:
    """Computes what a network does in evaluation mode; the network stays as it is, and is followed when it changes.

    The weights of quantized layers are computed once, for the whole network, and as often as they change.

    Args:
        network: any; what `quantize` made has layers to gain from.
        options: how the arithmetic is done.
    """

    def __init__(self, network: nn.Module, options: FormOptions) -> None:
        self.options = options
        self._network = network
        self._structure: list[Any] | None = None
        self._watched: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __call__(self, x: Any, method: str = "__call__") -> Any:
        """Images (N, …) → logits, or what another method of the network gives.

        Raises:
            NoFormError: only the network itself can answer: a module has hooks, or the pass is traced, or took a way
                on which the BatchNorm of a layer did not follow.
        """
        hooked = any(self._hooks) or any(_GLOBAL_HOOKS)
        if hooked or type(x) is not Tensor or not len(x) or torch._C._get_tracing_state() or self.options.as_it_is:
            raise NoFormError
        if self._structure is None or not same_objects(self._structure, self._structure_now()):
            self._build(x)
        for given, (weight, bias) in zip(self._given, self._weights(), strict=True):
            given.weight, given.bias, given.output = weight, bias, None
        x = _ChannelsLast.apply(x) if self.options.channels_last and x.ndim == 4 else x
        output = getattr(self._root, method)(x)
        if any(given.output is not None for given in self._given):
            raise NoFormError
        return output

    def _structure_now(self) -> list[Any]:
        """Returns what decides which modules stand in for which."""
        found: list[Any] = list(map(type, self._watched))
        found += map(itemgetter("training"), self._attributes)
        for own in self._attributes:
            found += "forward" in own, own.get("_export_mode"), own.get("disable_quant")
        found += chain.from_iterable(map(dict.values, self._parts))
        return found

    def _build(self, x: Tensor) -> None:
        modules = list(self._network.modules())
        if any(_hooks_of(modules)):
            raise NoFormError  # they would see the pass that finds what can be folded
        fold = self.options.fold_batch_norm
        wanted = (*_QUANTIZED, *_PLAIN) if fold or self.options.channels_last else _QUANTIZED
        candidates: list[Any] = [module for module in modules if type(module) in wanted]
        if not all(isinstance(layer.weight, nn.Parameter) for layer in candidates):
            raise NoFormError  # computed by a hook, as pruning does, or put there by functional_call
        layers = [layer for layer in candidates if _can_be_kept(layer)]
        norms = [module for module in modules if fold and isinstance(module, BATCH_NORMS)]
        if norms and not x.is_floating_point():
            raise NoFormError  # what can be folded is found by a gradient
        pairs = foldable(self._network, layers, [norm for norm in norms if can_be_folded(norm)], x[:1]) if norms else {}
        sources: list[Source] = []
        given: list[_Given] = []
        others: dict[nn.Module, StandIn] = {}
        for layer in layers:
            if layer in pairs or type(layer) in _QUANTIZED or (self.options.channels_last and layer.weight.ndim == 4):
                inputs = layer.input_quantizer if isinstance(layer, _QuantLayer) else None
                quantizer = layer.weight_quantizer if isinstance(layer, _TrainableLayer) else None
                sources.append(Source(layer, quantizer, pairs.get(layer)))
                given.append(_Given(inputs))
                others[layer] = stand_in(_FoldedLayer if layer in pairs else _Layer, layer, _qadv_given=given[-1])
            if layer in pairs:
                others[pairs[layer]] = stand_in(FoldedNorm, pairs[layer], _qadv_layer=others[layer])
        self._root, containers = with_stand_ins(self._network, others)
        self._weights = KeptWeights(sources, self.options.channels_last)
        self._given = given
        proxies = [proxy for layer in candidates if isinstance(layer, _TrainableLayer) for proxy in layer.proxies]
        quantizers = [module for source in sources if source.quantizer for module in source.quantizer.modules()]
        self._hooks = _hooks_of([*containers, *others, *quantizers])
        self._watched = [*containers, *candidates, *norms, *proxies, *quantizers]
        self._attributes = [vars(module) for module in self._watched]
        self._parts = [own["_modules"] for own in self._attributes]
        self._structure = self._structure_now()


def _hooks_of(modules: list[nn.Module]) -> list[Any]:
    return [vars(module)[hooks] for module in modules for hooks in HOOKS]


def _can_be_kept(layer: Any) -> bool:
    """Whether a layer is in evaluation mode with its quantizer, and nobody has something else in mind with it."""
    if "forward" in vars(layer) or layer.training:
        return False
    return not isinstance(layer, _TrainableLayer) or layer.is_plain()
