"""Turns `F.relu(x)`, `torch.relu(x)` and `x.relu()` in a network's code into modules, so that they can be swapped.

Only the modules whose own code calls one of them are rewritten, by `torch.fx` with their children as leaves: control
flow elsewhere in the network does not matter. A rewritten module keeps its class, attributes, hooks and parameters; its
`forward` becomes the traced one, and the new ReLU modules are added to its children.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qadv.errors import UnsupportedModelError
from qadv.quantization.tracing import CodeTracer, argument, attribute, called_name, left_out, undone

_NAMES = {"relu", "relu_", "relu6"}
_HELD = {F.relu, torch.relu, torch.relu_, F.relu_, F.relu6}
_PREFIX = "qadv_"


def modularize_relus(model: nn.Module, clips: bool = True) -> None:
    """Replaces ReLUs that are called as functions by `nn.ReLU`, `nn.ReLU6` and `nn.Hardtanh` modules, in place.

    With `clips` also those that are written as a clip (`F.hardtanh(x, 0, 6)`, `x.clamp(0, 6)`, `F.threshold(x, 0, 0)`,
    `torch.maximum(x, zero)`, `x * (x > 0)`, `torch.where(x > 0, x, 0)`), and those in functions outside a class. Where
    code with one of these can't be traced, it stays.

    Raises:
        UnsupportedModelError: a class that calls a ReLU by its name can't be traced.
    """
    foreign = ("torch.nn.", "torch.ao.", "brevitas.", "qadv.quantization.", "builtins")
    for module in list(model.modules()):
        classes = [base for base in type(module).__mro__ if not base.__module__.startswith(foreign)]
        held = any(callable(value) and value in _HELD for value in vars(module).values())
        named = held or any(_calls_relu(base) for base in classes)
        if named:
            _rewrite(module, clips)
        elif clips and classes and not type(module).forward.__module__.startswith("torch.nn."):
            with suppress(UnsupportedModelError):
                _rewrite(module, clips)


@cache
def _calls_relu(module_type: Any) -> bool:
    """Whether a class calls a functional ReLU by its name in any of its methods."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(module_type)))
    except (OSError, TypeError, SyntaxError):
        return False
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        (isinstance(function, ast.Name) and function.id in _NAMES)
        # `self.relu(x)` calls a module, `F.relu(x)` and `x.relu()` do not
        or (isinstance(function, ast.Attribute) and function.attr in _NAMES and ast.unparse(function.value) != "self")
        for function in called
    )


class _ChildrenAreLeaves(CodeTracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _rewrite(module: nn.Module, clips: bool) -> None:
    name, was_training = type(module).__name__, module.training
    traced: list[fx.GraphModule] = []
    for training in (False, True):
        with _tracing(module, training) as graph:
            if not traced and not any(_relu_of(module, node, clips) for node in graph.nodes):
                return
            traced.append(fx.GraphModule(module, graph, name))
    _modularize_dropout(*traced)
    for graph_module in traced:
        _modularize_relus(graph_module, clips)
    result = traced[0]
    if result.code != traced[1].code:
        raise UnsupportedModelError(
            f"{name} calls a functional ReLU and behaves differently in training mode; use nn.ReLU modules there"
        )
    for child_name, child in result.named_children():
        if child_name.startswith(_PREFIX):
            module.add_module(child_name, child.train(was_training))
    constants = {n: t for n, t in vars(result).items() if n.startswith("_tensor_constant") and isinstance(t, Tensor)}
    added = {n: buffer for n, buffer in result.named_buffers(recurse=False) if not hasattr(module, n)}
    for constant, tensor in (constants | added).items():
        module.register_buffer(constant, tensor, persistent=False)
    module.forward = _Forward(type(result).forward, module)


@contextmanager
def _tracing(module: nn.Module, training: bool) -> Iterator[fx.Graph]:
    """The graph of a module's own code, with the tensors that the code makes on the module while the block runs."""
    with undone([module]):
        module.training = training
        try:
            graph = _ChildrenAreLeaves().trace(module, left_out(module))
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(module).__name__} calls a functional ReLU and can't be traced ({type(error).__name__}: "
                f"{error}); use nn.ReLU modules there"
            ) from error
        yield graph


class _Forward:
    """A traced forward bound to its module: copied with it, and never pickled, as the code is of this process only."""

    def __init__(self, function: Any, module: nn.Module) -> None:
        self.function = function
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Forward":
        return _Forward(self.function, copy.deepcopy(self.module, memo))

    def __reduce__(self) -> Any:
        raise UnsupportedModelError(
            f"{type(self.module).__name__} calls a functional ReLU, which was replaced in its code, and can't be "
            "pickled; use nn.ReLU modules there"
        )


def _modularize_dropout(evaluation: fx.GraphModule, training: fx.GraphModule) -> None:
    """`F.dropout(x, p, self.training)` becomes a module, which follows train() and eval() as `self.training` did."""
    pairs = zip(*([n for n in g.graph.nodes if n.target is F.dropout] for g in (evaluation, training)), strict=False)
    for index, pair in enumerate(list(pairs)):
        if [argument(node, 2, "training", True) for node in pair] == [False, True]:
            for graph_module, node in zip((evaluation, training), pair, strict=True):
                made = nn.Dropout(argument(node, 1, "p", 0.5))
                _replace(graph_module, node, f"{_PREFIX}dropout_{index}", made, argument(node, 0, "input"))


def _modularize_relus(graph_module: fx.GraphModule, clips: bool) -> None:
    index = 0
    for node in list(graph_module.graph.nodes):
        found = _relu_of(graph_module, node, clips)
        if found is None:
            continue
        made, changed = found
        in_place = node.kwargs.get("inplace") is True or any(a is True for a in node.args[1:])
        in_place |= called_name(node).endswith("_")
        call = _replace(graph_module, node, f"{_PREFIX}relu_{index}", made, changed)
        if in_place:  # what reads the changed tensor later reads the ReLU's output
            for user in list(changed.users):
                if user is not call and call < user:
                    user.replace_input_with(changed, call)
        index += 1
    graph_module.recompile()


def _relu_of(holder: nn.Module, node: fx.Node, clips: bool) -> tuple[nn.Module, fx.Node] | None:
    """Returns the ReLU that a call computes, as a module, and what it is computed of; `None` if it is none."""
    name, x = called_name(node).strip("_"), argument(node, 0, "input")
    low: Any = 0
    high: Any = None
    if name in ("relu", "relu6"):
        high = 6 if name == "relu6" else None
    elif not clips:
        return None
    elif name == "hardtanh":
        low, high = argument(node, 1, "min_val", -1), argument(node, 2, "max_val", 1)
    elif name in ("clamp", "clip", "clamp_min"):
        low = argument(node, 1, "min")
        high = argument(node, 2, "max") if name != "clamp_min" else None
    elif name == "threshold" and _is_zero(holder, argument(node, 2, "value")):
        low = argument(node, 1, "threshold")
    elif name in ("maximum", "max"):
        other = argument(node, 1, "other")
        x = x if _is_zero(holder, other) else other if _is_zero(holder, x) else None
    elif name in ("mul", "where"):
        x = _where_positive(holder, node, name)
    else:
        return None
    if not isinstance(x, fx.Node) or not _is_zero(holder, low):
        return None
    held = attribute(holder, high)
    if isinstance(held, Tensor) and not isinstance(held, nn.Parameter) and held.numel() == 1:
        high = held.item()
    if high is None:
        return nn.ReLU(), x
    if not isinstance(high, int | float) or high <= 0:
        return None
    return (nn.ReLU6() if high == 6 else nn.Hardtanh(0.0, float(high))), x


def _where_positive(holder: nn.Module, node: fx.Node, name: str) -> fx.Node | None:
    """Returns the x of `x * (x > 0)` and `where(x > 0, x, 0)`."""
    if name == "where":
        condition, x, other = (argument(node, i, n) for i, n in enumerate(("condition", "input", "other")))
        pairs = [(x, condition)] if _is_zero(holder, other) else []
    else:
        a, b = argument(node, 0, "input"), argument(node, 1, "other")
        pairs = [(a, b), (b, a)]
    for candidate, condition in pairs:
        while isinstance(condition, fx.Node) and called_name(condition) in ("to", "float", "type_as", "type"):
            condition = cast(Any, condition.args[0])
        if (
            isinstance(condition, fx.Node)
            and called_name(condition) in ("gt", "ge")
            and isinstance(candidate, fx.Node)
            and condition.args[0] is candidate
            and _is_zero(holder, condition.args[1])
        ):
            return candidate
    return None


def _is_zero(holder: nn.Module, value: Any) -> bool:
    """Whether an argument is 0, or a tensor of zeros that the network holds or makes."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        held = attribute(holder, value)
        return isinstance(held, Tensor) and not isinstance(held, nn.Parameter) and not bool(held.any())
    if isinstance(value, fx.Node):
        return called_name(value) in ("zeros_like", "zeros", "new_zeros")
    return isinstance(value, int | float) and value == 0


def _replace(graph_module: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, x: Any) -> fx.Node:
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(node):
        call = graph_module.graph.call_module(name, (x,))
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)
    return call
