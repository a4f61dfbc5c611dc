"""Modules that stand in for some of a network's own, which stay as they are."""

import types
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from torch import nn

from qadv.modes import held_network


class NoFormError(Exception):
    """Only the network itself can answer this time, nothing that stands in for it."""


class StandIn:
    """Mixed in front of a module's class: the same attributes and parameters, in the same dict, another forward."""

    __slots__ = ()


S = TypeVar("S", bound=StandIn)


class _Container(StandIn):
    """A module some of whose parts have others standing in for them."""

    __slots__ = ("parts",)
    parts: dict[str, nn.Module | None]

    @property
    def _modules(self) -> dict[str, nn.Module | None]:
        return self.parts

    def __getattr__(self, name: str) -> Any:
        return self.parts[name] if name in self.parts else super().__getattr__(name)  # type: ignore[misc]


def stand_in(kind: type[S], module: nn.Module, /, **own_state: Any) -> S:
    """Returns an object of the kind and of the module's class that shares everything with the module but its slots."""
    own = type(module)
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    made = types.new_class(own.__name__, (kind, own), exec_body=lambda body: body.update(names))
    new: Any = object.__new__(made)
    for name, value in {"__dict__": vars(module), **own_state}.items():
        object.__setattr__(new, name, value)  # a module's own would register what is a module
    return cast(S, new)


def with_stand_ins(network: nn.Module, others: Mapping[nn.Module, StandIn]) -> tuple[nn.Module, list[nn.Module]]:
    """Returns a network as it is with other modules in place of some, and the modules that have such among their parts.

    What has none of them is the network's own; what has some is stood in for as well.

    Args:
        network: it is untouched.
        others: what stands in for which module, under all its names.
    """
    done: dict[nn.Module, Any] = dict(others)
    containers = []

    def of(module: nn.Module) -> Any:
        if module not in done:
            done[module] = module
            children = module._modules.items()
            parts = {name: None if child is None else of(held_network(child)) for name, child in children}
            if any(part is not module._modules[name] for name, part in parts.items()):
                done[module] = stand_in(_Container, module, parts=parts)
                containers.append(module)
        return done[module]

    return of(network), containers
