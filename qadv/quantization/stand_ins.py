"""Modules that stand in for some of a network's own, which stay as they are."""

import types
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from torch import nn

from qadv.modes import held_network

COMPUTING = "forward", "_conv_forward"  # what an object may have of its own, in the place of its class's


def has_own_forward(module: nn.Module) -> bool:
    """Whether somebody has put a method that computes on the module itself."""
    return not vars(module).keys().isdisjoint(COMPUTING)


class NoFormError(Exception):
    """Only the network itself can answer this time, nothing that stands in for it."""


class StandIn:
    """Mixed in front of a module's class: the same attributes and parameters, in the same dict, another forward.

    Slots have a prefix, since a network's own attributes would not be seen behind them.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Nothing: the network's class, which stands behind this one, is not told of classes that nobody wrote."""


S = TypeVar("S", bound=StandIn)


class Container(StandIn):
    """A module with the stand-ins of its parts, where they have any, for its parts."""

    __slots__ = ("_qadv_parts",)
    _qadv_parts: dict[str, nn.Module | None]

    @property
    def _modules(self) -> dict[str, nn.Module | None]:
        return self._qadv_parts

    def __getattr__(self, name: str) -> Any:
        parts = self._qadv_parts
        return parts[name] if name in parts else super().__getattr__(name)  # type: ignore[misc]


def stand_in(kind: type[S], module: nn.Module, /, **own_state: Any) -> S:
    """Returns an object of the kind and of the module's class that shares everything with the module but its slots."""
    own = type(module)
    # code that makes another of its kind, as Sequential does of a slice, makes one of the network's own class
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__class__": property(lambda self: own)}
    made = types.new_class(own.__name__, (kind, own), exec_body=lambda body: body.update(names))
    new: Any = object.__new__(made)
    for name, value in {"__dict__": vars(module), **own_state}.items():
        object.__setattr__(new, name, value)  # a module's own would register what is a module
    return cast(S, new)


def with_stand_ins(network: nn.Module, others: Mapping[nn.Module, StandIn]) -> tuple[nn.Module, list[nn.Module]]:
    """Returns a network as it is with other modules in place of some, and the modules that have such among their parts.

    What has none of them is the network's own; what has some is stood in for as well. `others` is what stands in for
    which module, under all its names.
    """
    done: dict[nn.Module, Any] = {}
    containers = []

    def of(module: nn.Module) -> Any:
        if getattr(module, "computes_itself", False):
            return module
        module = held_network(module)
        if module in done:
            return done[module]
        other = done[module] = others.get(module, module)
        if other is not module and not isinstance(other, Container):
            return other
        parts = {name: None if child is None else of(child) for name, child in module._modules.items()}
        if other is not module:
            object.__setattr__(other, "_qadv_parts", parts)
        elif any(part is not module._modules[name] for name, part in parts.items()):
            done[module] = stand_in(Container, module, _qadv_parts=parts)
            containers.append(module)
        return done[module]

    return of(network), containers
