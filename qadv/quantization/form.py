"""What a quantized network computes in evaluation mode, with its weights quantized once: the network's *form*."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.utils.hooks import RemovableHandle

from qadv.quantization.kept_values import KeptValues, Source
from qadv.quantization.layers import HOOKS
from qadv.quantization.stand_ins import COMPUTING, NoFormError, StandIn, with_stand_ins

# of all modules there are; torch fills and empties these, and never replaces them
_GLOBAL_HOOKS = [
    value for name, value in vars(of_all_modules).items() if re.fullmatch(r"_global_(for|back)ward(_pre)?_hooks", name)
]


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
        """Returns the options of plain data; of something else it is a `TypeError`."""
        if not isinstance(data, dict) or not all(isinstance(value, bool) for value in data.values()):
            raise TypeError(f"form: expected the names of options, each true or false, found {data!r}")
        return cls(**data)


class Given:
    """What a stand-in computes with, set before each pass.

    Attributes:
        values: what its source gives.
        output: what it gave and nobody has taken yet; at the end of a pass there must be none.
    """

    __slots__ = ("output", "values")
    values: tuple[Any, ...]
    output: Tensor | None


@dataclass(frozen=True, eq=False)
class Part:
    """What stands in for some modules of a network.

    Attributes:
        others: stand-ins by the module that they stand in for.
        source: where the values that are computed once come from, or `None` for none.
        given: where the stand-ins find these values.
        watched: modules whose attributes and parts decide whether these stand-ins are right.
        own_gradient: whether they have the gradient of what they stand in for; if not, values alone are to be the same.
    """

    others: Mapping[nn.Module, StandIn]
    source: Source | None = None
    given: Given = field(default_factory=Given)
    watched: Sequence[nn.Module] = ()
    own_gradient: bool = True


class _ChannelsLast(torch.autograd.Function):
    """Images with their channels last in memory, their gradient with its channels first as others expect it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0].contiguous()


class Hooks:
    """Sees quickly whether modules have got hooks since this was made; asks them only after one was made somewhere."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._hooks = [own for own in _hooks_of(modules) if not own]
        self._made = -1

    def __bool__(self) -> bool:
        made = RemovableHandle.next_id
        if made != self._made:
            if any(self._hooks) or any(_GLOBAL_HOOKS):
                return True
            self._made = made
        return False


class Form:
    """Computes what a network does in evaluation mode; the network stays as it is, and is followed when it changes.

    What its layers compute with, quantized weights above all, is computed once for the whole network, and as often as
    it changes. `parts_of` returns what stands in for the network's modules, found with images (N, …).

    Attributes:
        own_gradient: whether the gradient is the network's, too; known once images have passed.
    """

    def __init__(
        self, network: nn.Module, options: FormOptions, parts_of: Callable[[nn.Module, FormOptions, Tensor], list[Part]]
    ) -> None:
        self.options = options
        self.own_gradient = True
        self._parts_of = parts_of
        self._network = network
        self._structure: list[Any] | None = None
        self._watched: list[nn.Module] = []
        self._hooks = Hooks(())

    def __call__(self, x: Any, method: str = "__call__") -> Any:
        """Images (N, …) → logits, or what another method of the network gives.

        A `NoFormError` says that only the network itself can answer: a module has hooks, or the pass is traced, or took
        a way on which the BatchNorm of a layer did not follow.
        """
        known = type(x) is Tensor and len(x) and not torch._C._get_tracing_state()
        if not known or self.options.as_it_is or self._hooks:
            raise NoFormError
        if self._structure is None or self._structure != self._structure_now():
            self._build(x)
        for given, values in zip(self._given, self._values(), strict=True):
            given.values, given.output = values, None
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
            found += *(name in own for name in COMPUTING), own.get("_export_mode"), own.get("disable_quant")
        found += chain.from_iterable(map(dict.values, self._parts))
        return found

    def _build(self, x: Tensor) -> None:
        modules = list(self._network.modules())
        if any(map(_are_foreign, _hooks_of(modules))):
            raise NoFormError  # they would see the pass that finds what can be folded
        parts = self._parts_of(self._network, self.options, x)
        self.own_gradient = all(part.own_gradient for part in parts)
        others = {module: other for part in parts for module, other in part.others.items()}
        self._root, containers = with_stand_ins(self._network, others)
        computed = [(part.source, part.given) for part in parts if part.source is not None]
        self._values = KeptValues([source for source, _ in computed], self.options.channels_last)
        self._given = [given for _, given in computed]
        self._watched = list(dict.fromkeys([*containers, *others, *(m for part in parts for m in part.watched)]))
        sources = [module for source, _ in computed for module in source.modules]
        everything = list(dict.fromkeys([*self._watched, *sources]))
        self._hooks = Hooks(everything)
        self._attributes = [vars(module) for module in self._watched]
        self._parts = [*(m._modules for m in everything if m._modules), *filter(None, _hooks_of(everything))]
        self._structure = self._structure_now()


def _are_foreign(hooks: dict[int, Any]) -> bool:
    """Whether hooks do more than torch.ao's, which call a part of the module that they are given."""
    return any(getattr(hook, "__module__", "") != "torch.ao.quantization.quantize" for hook in hooks.values())


def _hooks_of(modules: Iterable[nn.Module]) -> list[Any]:
    return [vars(module)[hooks] for module in modules for hooks in HOOKS]
