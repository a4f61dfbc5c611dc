"""Tracing of a module's own code by `torch.fx`, without leaving anything behind on the module."""

import inspect
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

# functions of our own for `x += y`: fx writes torch's as a statement, which is wrong for numbers
_AUGMENTED: dict[str, Any] = {}


class _Proxy(fx.Proxy):
    pass


def _augment(operation: Any) -> None:
    def change(x: Any, y: Any) -> Any:
        return operation(x, y)

    def record(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", change, (self, other), {})

    change.__name__ = operation.__name__
    _AUGMENTED[change.__name__] = change
    setattr(_Proxy, f"__{change.__name__}__", record)


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"):
    _augment(getattr(operator, _name))


class CodeTracer(fx.Tracer):
    """Takes `x += y` for the change of x that it is, whatever other names x has; `fx` takes it for `x = x + y`."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class WayTracer(CodeTracer):
    """Traces through all modules but torch's own and the leaves; what can't be traced becomes a black box.

    Where the outermost module's own code branches on a tensor, it goes the ways that `choices` says, then the first.
    """

    def __init__(self, leaves: set[int], choices: tuple[bool, ...]) -> None:
        super().__init__()
        self.leaves = leaves
        self.choices = choices
        self.answers: dict[fx.Node, bool] = {}  # one for each tensor, however often the code asks
        self.boxes: set[str] = set()
        self.within_parts: set[fx.Node] = set()  # code of modules that have no parts: activations, not networks
        self._depth = self._part_depth = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        if self._depth:
            return super().to_bool(obj)
        index = len(self.answers)
        return self.answers.setdefault(obj.node, self.choices[index] if index < len(self.choices) else True)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        part = not any(True for _ in m.children())
        self._depth += 1
        self._part_depth += part
        try:
            return super().call_module(m, m.forward, args, kwargs)  # not `forward`, which would run the user's hooks
        except Exception:
            name = self.path_of_module(m)
            self.boxes.add(name)
            return self.create_proxy("call_module", name, args, kwargs)
        finally:
            self._depth -= 1
            self._part_depth -= part

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if self._part_depth:
            self.within_parts.add(node)
        return node


@contextmanager
def undone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Undoes what traced code sets on modules."""
    before = [(own, dict(own)) for m in modules for own in (vars(m), m._parameters, m._buffers, m._modules)]
    try:
        yield
    finally:
        for own, entries in before:
            if own.keys() != entries.keys() or any(own[name] is not entries[name] for name in own):
                own.clear()
                own.update(entries)


@contextmanager
def forward_of_class(module: nn.Module) -> Iterator[None]:
    """Makes a `forward` that was set on the module that of its class, from where tracing takes it."""
    own = vars(module).get("forward")
    function = getattr(own, "function", getattr(own, "__func__", None))
    before = type(module)
    if function is not None:
        module.__class__ = type(before.__name__, (before,), {"forward": function})
    try:
        yield
    finally:
        module.__class__ = before


def left_out(module: nn.Module) -> dict[str, Any] | None:
    """Returns the optional arguments of a module, as masks, with their defaults: they are taken to be left out."""
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} or None


def called_name(node: fx.Node) -> str:
    """Returns the name of the function or method that a node calls, `""` for any other node."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def changes_input(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    """Whether a node works in place; `parts` are the modules that the graph calls, by name."""
    if node.op == "call_module":
        return bool(getattr(parts[str(node.target)], "inplace", False))
    name = called_name(node)
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _AUGMENTED
    return in_place or node.kwargs.get("inplace") is True


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Returns what a call was given for one of its arguments."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def attribute(holder: Any, node: Any) -> Any:
    """Returns what a `get_attr` node stands for; `None` for any other value."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    for part in str(node.target).split("."):
        holder = getattr(holder, part, None)
    return holder
