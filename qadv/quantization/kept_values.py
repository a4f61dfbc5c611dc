"""Values that are computed once for a whole network, and kept for as long as nothing they come from has changed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import attrgetter, is_, itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from qadv.quantization.batch_norm_folding import can_be_folded, folded
from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.stand_ins import NoFormError

_LARGE = 2**14  # bytes: below, calls cost more than copies
_OF_ANY = vars(nn.Module()).keys()  # looked at elsewhere, hooks above all


class Source(Protocol):
    """Where a few values that a network computes with come from, as a layer's quantized weight and its bias.

    Attributes:
        modules: those whose parameters and buffers the tensors depend on.
    """

    @property
    def modules(self) -> Sequence[nn.Module]: ...

    def values(self) -> tuple[Any, ...]:
        """Returns tensors, differentiable, and whatever else follows from the state that the modules are in."""
        ...


@dataclass(frozen=True)
class LayerSource:
    """A layer's weight and bias, with the quantizer of its weights and the BatchNorm that is folded into it, if any."""

    layer: Any
    quantizer: WeightQuantizer | None = None
    norm: Any = None

    @property
    def modules(self) -> list[nn.Module]:
        norm = [] if self.norm is None else [self.norm]
        return [self.layer, *norm, *(() if self.quantizer is None else self.quantizer.modules())]

    def values(self) -> tuple[Tensor, Tensor | None]:
        if self.norm is not None and not can_be_folded(self.norm):
            raise NoFormError  # its statistics are gone: those of each batch count
        weight = self.layer.weight if self.quantizer is None else self.quantizer(self.layer.weight)[0]
        return (weight, self.layer.bias) if self.norm is None else folded(weight, self.layer.bias, self.norm)


def _tensors(source: Source) -> list[Tensor]:
    """Returns what a source's modules hold that its values depend on: all but what counts batches."""
    return [tensor for module in source.modules for tensor in _tensors_in(module)]


def _tensors_in(module: nn.Module) -> list[Tensor]:
    tensors = (*module._parameters.items(), *module._buffers.items())
    return [tensor for name, tensor in tensors if tensor is not None and name != "num_batches_tracked"]


def _names(module: nn.Module) -> set[str]:
    """Returns the names of the attributes that only a module of this kind has."""
    return vars(module).keys() - _OF_ANY


class KeptValues:
    """What a network's layers compute with, from one source each, and a copy of all that it was computed from.

    Contents are compared: version counters miss changes through `.data` and NumPy. On a GPU that is one wait for it.
    With `channels_last` weights of two dimensions in space lie in memory with their channels last.
    """

    def __init__(self, sources: Sequence[Source], channels_last: bool) -> None:
        self._sources = sources
        self._channels_last = channels_last
        modules = [module for source in sources for module in source.modules]
        # others, as that of a rounding, do the same at any time
        self._modules = [m for m in dict.fromkeys(modules) if m._modules or _tensors_in(m) or _names(m)]
        self._attributes = list(map(vars, self._modules))
        self._dicts = [own[kind] for own in self._attributes for kind in ("_parameters", "_buffers") if own[kind]]
        self._objects: list[Any] | None = None
        self._tensors: list[Tensor] = []
        self._values: list[tuple[Any, ...]] = []

    def __call__(self) -> list[tuple[Any, ...]]:
        """Returns each source's values, in the graph of the latent ones where gradients are recorded."""
        if not self._hold():
            self._keep()
        if not torch.is_grad_enabled():
            return self._values
        trained = [
            can_be and any(tensor.requires_grad for tensor in tensors)
            for can_be, tensors in zip(self._can_be_trained, self._tensors_of, strict=True)
        ]
        if not any(trained):
            return self._values
        present = _differentiable(compress(self._values, trained))
        tensors = dict.fromkeys(chain.from_iterable(compress(self._tensors_of, trained)))
        found = iter(_FromLatent.apply(list(compress(self._sources, trained)), present, *tensors))
        return [
            tuple(next(found) if _is_differentiable(value) else value for value in values) if asked else values
            for asked, values in zip(trained, self._values, strict=True)
        ]

    def _hold(self) -> bool:
        """Whether the values are what computing them would give: first what is quick to see."""
        if self._objects is None or self._outside != self._outside_now():
            return False
        try:
            if not all(map(is_, self._objects, self._found())):
                return False
        except KeyError:  # an attribute is gone, and another has come
            return False
        if self._layout != _places(self._tensors):
            return False
        same = all((now == then).all() for now, then in self._large)
        return same and all(
            now == then if isinstance(now, bytes) else torch.equal(now, then)
            for now, then in zip(self._joined(), self._copy, strict=True)
        )

    def _found(self) -> list[Any]:
        """Returns what the values come from: tensors, and the other attributes of the modules that have them."""
        found: list[Any] = []
        for named, own in self._named:
            found += named(own)
        found += chain.from_iterable(map(dict.values, self._dicts))
        return found

    def _outside_now(self) -> list[Any]:
        """Returns what is quick to see: a changed number of attributes or tensors first of all."""
        sizes = chain(map(len, self._attributes), map(len, self._dicts))
        return [*sizes, *map(type, self._modules), *map(itemgetter("training"), self._nameless)]

    @torch.inference_mode(False)  # a tensor made in inference mode could not be part of a gradient's graph later
    @torch.no_grad()
    def _keep(self) -> None:
        parameters = chain.from_iterable(own["_parameters"].values() for own in self._attributes)
        if not all(isinstance(each, nn.Parameter) for each in parameters if each is not None):
            raise NoFormError  # put there by functional_call, for this pass only
        self._objects = None  # until all that follows is done, which an interruption or an error may end
        named = [(_names(module), vars(module)) for module in self._modules]
        self._named = [(itemgetter("training", *names), own) for names, own in named if names]
        self._nameless = [own for names, own in named if not names]
        objects, outside = self._found(), self._outside_now()
        self._tensors_of = list(map(_tensors, self._sources))
        self._tensors = list(dict.fromkeys(chain.from_iterable(self._tensors_of)))
        self._layout = _places(self._tensors)
        self._pieces: dict[torch.device, list[Any]] = {}
        self._scattered: list[tuple[list[Any], int, Tensor]] = []
        self._large: list[tuple[Any, Any]] = []
        for tensor in self._tensors:
            own = _bytes(tensor)
            piece = self._pieces.setdefault(tensor.device, [])
            if not tensor.is_contiguous():
                self._scattered.append((piece, len(piece), tensor))
            elif tensor.device.type == "cpu" and len(own) >= _LARGE and len(own) % 8 == 0:
                words = own.view(np.int64)
                self._large.append((words, words.copy()))
                continue
            piece.append(own)
        self._copy = self._joined()
        self._values = [tuple(map(self._kept, source.values())) for source in self._sources]
        self._can_be_trained = [any(map(_is_differentiable, values)) for values in self._values]
        self._objects, self._outside = objects, outside
        if not self._hold():  # another thread has changed something meanwhile: computed anew in the next pass
            self._objects = None

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        moved = self._channels_last and value.ndim == 4
        return value.contiguous(memory_format=torch.channels_last) if moved else value

    def _joined(self) -> list[Any]:
        """Returns copies of the bytes of all tensors but large ones on a processor, in one piece for each device."""
        for piece, index, tensor in self._scattered:
            piece[index] = _bytes(tensor)
        return [b"".join(piece) if at.type == "cpu" else torch.cat(piece) for at, piece in self._pieces.items()]


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _differentiable(values: Iterable[tuple[Any, ...]]) -> list[Tensor]:
    return list(filter(_is_differentiable, chain.from_iterable(values)))


def _places(tensors: list[Tensor]) -> list[Any]:
    """Returns where tensors lie in memory: there their bytes are read."""
    return [*map(Tensor.data_ptr, tensors), *map(attrgetter("shape"), tensors), *map(Tensor.stride, tensors)]


def _bytes(tensor: Tensor) -> Any:
    """Returns the memory of a contiguous tensor, to be read again and again, or a copy of another's."""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    return flat.numpy() if tensor.device.type == "cpu" else flat


class _FromLatent(torch.autograd.Function):
    """Values that are known, with the gradient of what computes them, which is done again when it is asked for."""

    @staticmethod
    def forward(ctx: Any, sources: Sequence[Source], values: Sequence[Tensor], *tensors: Tensor) -> Any:
        ctx.sources = sources
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        tensors = ctx.saved_tensors  # an error, if one has changed since
        differentiable = torch.is_grad_enabled()  # for gradients of gradients, this step is part of their graph
        with torch.enable_grad():
            values = _differentiable(source.values() for source in ctx.sources)
            pairs = zip(values, grad_outputs, strict=True)
            asked = [(value, gradient) for value, gradient in pairs if value.requires_grad and gradient is not None]
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            outputs, gradients = zip(*asked, strict=True) if asked else ((), ())
            found = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True, create_graph=differentiable)
        of = dict(zip(wanted, found, strict=True))
        return None, None, *(of.get(tensor) for tensor in tensors)
