"""Graphs of torchao's PT2E: which nodes quantize weights, which activations, and by what."""

import copy
import re
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import fx, nn

from qadv.frontends import fake_quantize
from qadv.frontends.fake_quantize import bits_of, integers, on_grid, spread
from qadv.frontends.frontend import QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.frontends.straight_through_mode import computing, dynamic, grid
from qadv.quantization.stand_ins import Container, StandIn, stand_in
from qadv.quantization.tracing import attribute

_ORIGIN = "torchao"
_SELF = r"^L\['self'\]\.?"  # how torch.export calls the network itself


def converts(network: nn.Module) -> bool:
    """Whether a graph in a network quantizes, by operators that have no derivative."""
    return any(
        re.match("quantized_decomposed|torchao.quantize", _name(n)) for m in network.modules() for n in _nodes(m)
    )


def _nodes(module: nn.Module) -> Iterator[fx.Node]:
    return iter(module.graph.nodes) if isinstance(module, fx.GraphModule) else iter(())


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_function" else ""


def converted(network: nn.Module, prefix: str, graph: fx.GraphModule) -> list[QuantizedTensor]:
    """Returns what the operators of a converted graph quantize: weights that are kept as codes, and activations."""
    found, constants = list[QuantizedTensor](), _constants(graph)
    for node in graph.graph.nodes:
        if node in constants:
            if "quantized_decomposed.dequantize_per" in _name(node):
                found.append(_weights(network, prefix, graph, node))
        elif "quantized_decomposed.quantize_per_tensor.default" in _name(node):
            found += _activations(network, prefix, node)
        elif re.match(r"quantized_decomposed.quantize_per_(tensor\.tensor|token)", _name(node)):
            bits = bits_of(*node.args[3:5])
            found += [dynamic(network, layer, bits, _ORIGIN) for layer, _ in _rounded(network, prefix, node)]
    return found


@torch.no_grad()
def _weights(network: nn.Module, prefix: str, graph: fx.GraphModule, node: fx.Node) -> QuantizedWeights:
    codes, scale, _, *more = (_evaluated(graph, each) for each in node.args)
    low, high = more[-3:-1]
    layer = _layer(network, prefix, next(iter(node.users)))
    left_over = network.get_submodule(layer)._parameters.get("weight")
    return QuantizedWeights(
        **integers(layer, "weights", bits_of(low, high), _ORIGIN, "none"),
        scale=spread(torch.as_tensor(scale), codes, more[0]) if len(more) > 3 else torch.as_tensor(scale),
        value=_evaluated(graph, node),
        codes=codes,
        nb_codes=high - low + 1,
        parameter=left_over if left_over is not None and left_over.shape == codes.shape else None,
    )


def _activations(network: nn.Module, prefix: str, node: fx.Node) -> Iterator[QuantizedActivation]:
    arguments: Any = node.args
    _, scale, zero_point, low, high, *_ = arguments
    known = grid(computing(network, prefix), scale, zero_point, low, high)
    for layer, role in _rounded(network, prefix, node):
        yield on_grid(known, integers(layer, role, bits_of(low, high), _ORIGIN))


def _rounded(network: nn.Module, prefix: str, node: fx.Node) -> Iterator[tuple[str, Literal["input", "output"]]]:
    """Yields the layers whose input a node quantizes, or the one whose output it is."""
    users = [user for dequantized in node.users for user in dequantized.users]
    layers = dict.fromkeys(_layer(network, prefix, user) for user in users)
    for layer in [each for each in layers if _is_leaf(network, each)] or [_layer_before(network, prefix, node)]:
        yield layer, "input" if layer in layers else "output"


def prepared(network: nn.Module, prefix: str, graph: fx.GraphModule) -> list[QuantizedTensor]:
    """Returns what the FakeQuantize modules of a prepared graph quantize."""
    found, constants = list[QuantizedTensor](), _constants(graph)
    for node in graph.graph.nodes:
        module: Any = graph.get_submodule(node.target) if node.op == "call_module" else nn.Identity()
        if not fake_quantize.is_fake_quantize(module) or not module.fake_quant_enabled.item():
            continue
        if node.args[0] in constants:
            layer = _layer(network, prefix, next(iter(node.users)))
            parameter = network.get_submodule(layer)._parameters.get("weight")
            exact = _evaluated(graph, node.args[0]).detach()
            found.append(fake_quantize.weights(layer, module, exact, parameter, _ORIGIN))
        else:
            found += fake_quantize.activation(f"{prefix}.{node.target}".lstrip("."), module, _ORIGIN)
    return found


class _Uncounted(Container):
    """A graph that leaves out what counts batches, which stays in it when it is put in evaluation mode."""

    __slots__ = ("_qadv_function",)
    _qadv_function: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._qadv_function(self, *args, **kwargs)


def uncounted(network: nn.Module) -> dict[nn.Module, StandIn]:
    """Returns stand-ins for the graphs of a network that count batches."""
    found: dict[nn.Module, StandIn] = {}
    for module in network.modules():
        if not any(map(_counts, _nodes(module))):
            continue
        made = fx.GraphModule(module, copy.deepcopy(cast(fx.GraphModule, module).graph))
        for node in filter(_counts, list(made.graph.nodes)):
            made.graph.erase_node(node)
        made.recompile()
        found[module] = stand_in(_Uncounted, module, _qadv_function=type(made).forward)
    return found


def _counts(node: fx.Node) -> bool:
    inputs = node.all_input_nodes
    return _name(node).startswith("aten.add_.") and not node.users and inputs[0].op == "get_attr"


def _layer(network: nn.Module, prefix: str, node: Any) -> str:
    """Returns the name of the module that a node was in before the export, or of the graph."""
    for path, _ in reversed(node.meta.get("nn_module_stack", {}).values()):
        name = f"{prefix}.{re.sub(_SELF, '', path)}".strip(".")
        if name in dict(network.named_modules()):
            return name
    return prefix


def _is_leaf(network: nn.Module, layer: str) -> bool:
    return not network.get_submodule(layer)._modules


def _layer_before(network: nn.Module, prefix: str, node: fx.Node) -> str:
    """Returns the name of the last layer without parts that a node depends on, or of the graph."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        if _is_leaf(network, layer := _layer(network, prefix, node)):
            return layer
    return prefix


def _constants(graph: fx.GraphModule) -> set[fx.Node]:
    """Returns the nodes that depend on no image."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op != "placeholder" and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


@torch.no_grad()
def _evaluated(graph: fx.GraphModule, node: Any) -> Any:
    """Returns what a node that depends on no image gives, and anything that is no node as it is."""
    if not isinstance(node, fx.Node):
        return node
    arguments = fx.node.map_arg(node.args, lambda each: _evaluated(graph, each))
    if node.op == "get_attr":
        return attribute(graph, node)
    function: Any = graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return function(*arguments, **node.kwargs)
