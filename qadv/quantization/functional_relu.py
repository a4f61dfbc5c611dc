"""Turns `F.relu(x)`, `torch.relu(x)` and `x.relu()` in a network's code into modules, so that they can be swapped.

Only the modules whose own `forward` calls one of them are rewritten, by `torch.fx` with their children as leaves:
control flow elsewhere in the network does not matter.
"""

import ast
import inspect
import textwrap
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qadv.errors import UnsupportedModelError

_RELU_FUNCTIONS = {F.relu, torch.relu, torch.relu_, F.relu_, F.relu6}
_RELU_METHODS = {"relu", "relu_"}
_NAMES = {"relu", "relu_", "relu6"}


def modularize_relu(model: nn.Module) -> nn.Module:
    """Replaces functional ReLUs by `nn.ReLU` / `nn.ReLU6` modules, in place.

    Returns:
        `model`, or its rewritten form if its own `forward` was the one with the calls.

    Raises:
        UnsupportedModelError: a `forward` that calls a functional ReLU can't be traced.
    """
    rewritten: dict[int, nn.Module] = {}
    for module in model.modules():
        if _calls_relu(type(module)):
            rewritten[id(module)] = module
    replaced = {key: _rewrite(module) for key, module in rewritten.items()}
    for parent in [*model.modules(), *replaced.values()]:
        for name, child in parent.named_children():
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
    return replaced.get(id(model), model)


def _calls_relu(module_type: type[nn.Module]) -> bool:
    if module_type.__module__.startswith(("torch.nn.", "brevitas.", "qadv.quantization.")):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(module_type.forward)))
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


def _rewrite(module: nn.Module) -> fx.GraphModule:
    was_training = module.training
    modes = {}
    for training in (True, False):
        module.train(training)
        try:
            modes[training] = fx.GraphModule(module, _ChildrenAreLeaves().trace(module), type(module).__name__)
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(module).__name__}.forward calls a functional ReLU and can't be traced "
                f"({type(error).__name__}: {error}); use nn.ReLU modules there"
            ) from error
        finally:
            module.train(was_training)
        _replace_calls(modes[training])
    if modes[True].code != modes[False].code:
        raise UnsupportedModelError(
            f"{type(module).__name__}.forward calls a functional ReLU and behaves differently in training mode; "
            "use nn.ReLU modules there"
        )
    return modes[True].train(was_training)


def _replace_calls(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        made: nn.Module | None = None
        if (node.op == "call_function" and node.target in _RELU_FUNCTIONS) or (
            node.op == "call_method" and node.target in _RELU_METHODS
        ):
            made = nn.ReLU6() if node.target is F.relu6 else nn.ReLU()
        elif node.op == "call_function" and node.target is F.dropout:
            made = nn.Dropout(_argument(node, 1, "p", 0.5))  # follows train() and eval(), as `self.training` did
        if made is None:
            continue
        name = f"{node.name}_module"
        graph_module.add_submodule(name, made)
        with graph_module.graph.inserting_after(node):
            call = graph_module.graph.call_module(name, (_argument(node, 0, "input", None),))
        node.replace_all_uses_with(call)
        graph_module.graph.erase_node(node)
    graph_module.recompile()


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
