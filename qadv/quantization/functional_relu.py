"""Turns `F.relu(x)`, `torch.relu(x)` and `x.relu()` in a network's code into modules, so that they can be swapped.

Only the modules whose own code calls one of them are rewritten, by `torch.fx` with their children as leaves: control
flow elsewhere in the network does not matter. A rewritten module keeps its class, attributes, hooks and parameters; its
`forward` becomes the traced one, and the new ReLU modules are added to its children.
"""

import ast
import copy
import inspect
import textwrap
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qadv.errors import UnsupportedModelError

_RELU_FUNCTIONS = {F.relu, torch.relu, torch.relu_, F.relu_, F.relu6}
_RELU_METHODS = {"relu", "relu_"}
_NAMES = {"relu", "relu_", "relu6"}


def modularize_relu(model: nn.Module) -> None:
    """Replaces functional ReLUs by `nn.ReLU` and `nn.ReLU6` modules, in place.

    Raises:
        UnsupportedModelError: code that calls a functional ReLU can't be traced.
    """
    for module in list(model.modules()):
        held = [value for value in vars(module).values() if callable(value) and value in _RELU_FUNCTIONS]
        if held or any(_source_calls_relu(base) for base in _own_classes(module)):
            _rewrite(module)


def _own_classes(module: nn.Module) -> list[type]:
    """The module's class and those it inherits from, except torch's and Brevitas's own."""
    foreign = ("torch.nn.", "torch.ao.", "brevitas.", "qadv.quantization.", "builtins")
    return [base for base in type(module).__mro__ if not base.__module__.startswith(foreign)]


@cache
def _source_calls_relu(module_type: Any) -> bool:
    """Whether a class calls a functional ReLU in any of its methods."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(module_type)))
    except (OSError, TypeError, SyntaxError):
        return False
    return any(
        isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in _NAMES and not _is_submodule(node.func))
            or (isinstance(node.func, ast.Name) and node.func.id in _NAMES)
        )
        for node in ast.walk(tree)
    )


def _is_submodule(attribute: ast.Attribute) -> bool:
    """`self.relu(x)` calls a module, `F.relu(x)` and `x.relu()` do not."""
    return isinstance(attribute.value, ast.Name) and attribute.value.id == "self"


class _ChildrenAreLeaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _rewrite(module: nn.Module) -> None:
    name = type(module).__name__
    was_training = module.training
    traced = []
    for training in (True, False):
        module.training = training
        try:
            defaults = {
                parameter.name: parameter.default
                for parameter in inspect.signature(module.forward).parameters.values()
                if parameter.default is not inspect.Parameter.empty
            }  # optional arguments, as masks, are taken to be left out
            traced.append(fx.GraphModule(module, _ChildrenAreLeaves().trace(module, defaults or None), name))
        except Exception as error:
            raise UnsupportedModelError(
                f"{name} calls a functional ReLU and can't be traced ({type(error).__name__}: {error}); use nn.ReLU "
                "modules there"
            ) from error
        finally:
            module.training = was_training
    _modularize_dropout(*traced)
    for graph_module in traced:
        _modularize_relus(graph_module)
    if traced[0].code != traced[1].code:
        raise UnsupportedModelError(
            f"{name} calls a functional ReLU and behaves differently in training mode; use nn.ReLU modules there"
        )
    result = traced[0]
    for child_name, child in result.named_children():
        if child_name.startswith(_PREFIX):
            module.add_module(child_name, child.train(was_training))
    for constant, value in vars(result).items():
        if constant.startswith("_tensor_constant") and isinstance(value, Tensor):
            module.register_buffer(constant, value, persistent=False)
    for constant, buffer in result.named_buffers(recurse=False):
        if not hasattr(module, constant):
            module.register_buffer(constant, buffer, persistent=False)
    module.forward = _Forward(type(result).forward, module)


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


_PREFIX = "qadv_"


def _modularize_dropout(training: fx.GraphModule, evaluation: fx.GraphModule) -> None:
    """`F.dropout(x, p, self.training)` becomes a module, which follows train() and eval() as `self.training` did."""
    pairs = zip(*([n for n in g.graph.nodes if n.target is F.dropout] for g in (training, evaluation)), strict=False)
    for index, (first, second) in enumerate(list(pairs)):
        if _argument(first, 2, "training", True) is True and _argument(second, 2, "training", True) is False:
            for graph_module, node in ((training, first), (evaluation, second)):
                made = nn.Dropout(_argument(node, 1, "p", 0.5))
                _replace(graph_module, node, f"{_PREFIX}dropout_{index}", made)
    for graph_module in (training, evaluation):
        graph_module.recompile()


def _modularize_relus(graph_module: fx.GraphModule) -> None:
    index = 0
    for node in list(graph_module.graph.nodes):
        function = node.op == "call_function" and node.target in _RELU_FUNCTIONS
        if not function and not (node.op == "call_method" and node.target in _RELU_METHODS):
            continue
        in_place = node.target in (torch.relu_, F.relu_, "relu_") or _argument(node, 1, "inplace", False) is True
        changed = _argument(node, 0, "input", None)
        made = nn.ReLU6() if node.target is F.relu6 else nn.ReLU()
        call = _replace(graph_module, node, f"{_PREFIX}relu_{index}", made)
        if in_place and isinstance(changed, fx.Node):  # what reads the changed tensor later reads the ReLU's output
            for user in list(changed.users):
                if user is not call and call < user:
                    user.replace_input_with(changed, call)
        index += 1
    graph_module.recompile()


def _replace(graph_module: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> fx.Node:
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(node):
        call = graph_module.graph.call_module(name, (_argument(node, 0, "input", None),))
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)
    return call


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
