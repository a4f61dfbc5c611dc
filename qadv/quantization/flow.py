"""Where the input of each layer comes from: an activation that is quantized, the images, or something float.

The network is traced from the outside inwards. A module whose own code branches on a tensor or on its shape is followed
on each way; one that can't be traced at all is a black box: what comes out of it is unknown, and its parts are looked
at one by one. What is unknown counts as float, so that conversion quantizes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from qadv.modes import evaluation_mode
from qadv.quantization.stand_ins import has_own_forward
from qadv.quantization.tracing import (
    WayTracer,
    argument,
    attribute,
    called_name,
    changes_input,
    forward_of_class,
    left_out,
    undone,
)


@dataclass(frozen=True)
class Flow:
    """What is known about a tensor.

    Attributes:
        grid: the activation whose levels its values are, by name, or `""` for none or several with other levels.
        non_negative: no value is below 0.
        image: it is made from the network's input without any layer or quantizer.
        constant: it is made from parameters and buffers alone.
        as_wished: it is the output of an activation that the user left float.
        called: the function, by name, by which an activation was written that conversion did not see.
    """

    grid: str = ""
    non_negative: bool = False
    image: bool = False
    constant: bool = False
    as_wished: bool = False
    called: str = ""


UNKNOWN = Flow()
_WAYS = 16  # through one module's own code, before it counts as a black box


def _plain(name: str) -> str:
    """`max_pool2d` and `MaxPool2d`, `relu`, `relu_` and `ReLU` are one name."""
    return name.replace("_", "").lower()


def _names(text: str) -> set[str]:
    return {_plain(name) for name in text.split()}


# these move values, or leave some out, or put zeros between them
_MOVES = _names(
    """adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax broadcast_to channel_shuffle chunk clone
    contiguous detach expand expand_as flatten flip float gather getitem identity index_select max_pool1d max_pool2d
    max_pool3d movedim narrow permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat
    repeat_interleave replication_pad2d reshape roll select split squeeze swapaxes t tile to transpose unbind unflatten
    unfold unsqueeze upsampling_nearest2d view view_as zero_pad1d zero_pad2d zero_pad3d"""
)
# these leave their input as it is in evaluation mode, unless a call says otherwise
_DROPOUTS = _names("alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout")
_JOINS = _names("cat concat concatenate stack hstack vstack maximum minimum")
# no value below 0, whatever comes in
_NON_NEGATIVE = _names("abs exp hardsigmoid relu relu6 sigmoid softmax softplus square")
# no value below 0 where none comes in
_KEEPS_SIGN = _names(
    """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate
    lp_pool2d mean sqrt sum upsample upsampling_bilinear2d"""
)
_OVERSHOOT = {"bicubic"}  # modes of interpolation with negative weights
# no value below 0 where none comes in, nor a number
_KEEPS_SIGN_WITH_NUMBERS = _names("add clamp_max div iadd imul itruediv mul pow truediv")
_ACTIVATION_CALLS = _names(
    """abs celu clamp clamp_max clamp_min clip elu erf ge gelu gt hardshrink hardswish hardtanh heaviside le leaky_relu
    logsigmoid lt maximum minimum mish prelu relu relu6 rrelu selu sign silu sin softplus softshrink softsign tanh
    tanhshrink threshold where"""
)
_CLIPS = _names("clamp clamp_min clip hardtanh")
_GATES = _names("exp hardsigmoid sigmoid softplus softsign")
# what a layer computes, where its weights stand in the network's own code
_LAYER_CALLS = _names(
    """addmm baddbmm bilinear bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d einsum linear
    matmul mm tensordot"""
)


def input_flows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    activations: Mapping[str, Flow],
    same_grid: Callable[[str, str], bool],
    images: Flow = Flow(image=True),
) -> dict[str, Flow]:
    """Returns what flows into each of `layers` and `activations`, of all its calls together; `UNKNOWN` for none seen.

    The network is looked at in evaluation mode. An activation of images is none: it passes them on as images.

    Args:
        activations: modules that are to be replaced, or left as they are on purpose, by name, with what comes out.
        same_grid: whether two of the activations have the same levels.
        images: what the network's input counts as.
    """
    analysis = _Analysis(model, layers, activations, same_grid)
    with undone(model.modules()), evaluation_mode(model):
        analysis.look_at(model, images)
    return {name: analysis.found.get(name, UNKNOWN) for name in [*layers, *activations]}


class _Analysis:
    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        activations: Mapping[str, Flow],
        same_grid: Callable[[str, str], bool],
    ) -> None:
        self.activations = {id(module): name for name, module in model.named_modules() if name in activations}
        self.layers = {id(module): name for name, module in layers.items()}
        self.gives = activations
        self.same_grid = same_grid
        self.boxes: set[int] = set()
        self.found: dict[str, Flow] = {}
        self.passed: dict[tuple[nn.Module, Flow], Flow] = {}  # each module is traced once for all that looks like this

    def look_at(self, module: nn.Module, given: Flow) -> Flow:
        """Follows a tensor through one module, on each way through its own code; returns what comes out."""
        if id(module) in self.layers or id(module) in self.activations:
            return self._through(module, [given])
        if (module, given) not in self.passed:
            self.passed[module, given] = self._follow_all(module, given)
        return self.passed[module, given]

    def _follow_all(self, module: nn.Module, given: Flow) -> Flow:
        outputs: list[Flow] = []
        pending: list[tuple[bool, ...]] = [()]
        while pending and len(outputs) + len(pending) <= _WAYS:
            choices = pending.pop(0)  # those that leave the first way early first: they show soon where there are many
            tracer = WayTracer({*self.layers, *self.activations, *self.boxes}, choices)
            try:
                with forward_of_class(module):
                    graph = tracer.trace(module, left_out(module))
            except Exception:
                pending = [()]
                break
            taken = tuple(tracer.answers.values())
            pending += [(*taken[:i], False) for i in range(len(choices), len(taken))]
            outputs.append(self._follow(graph, module, given, tracer))
        if not pending:
            return self._joined(outputs)
        for part in module.children():  # its code can't be followed
            self.look_at(part, UNKNOWN)
        return UNKNOWN

    def _follow(self, graph: fx.Graph, root: nn.Module, given: Flow, tracer: WayTracer) -> Flow:
        flows: dict[fx.Node, Flow] = {}
        parts = dict(root.named_modules(remove_duplicate=False))
        self.boxes |= {id(parts[name]) for name in tracer.boxes}
        inside_boxes = tuple(f"{box}." for box in tracer.boxes)
        output = UNKNOWN
        for node in graph.nodes:
            name = str(node.target)
            inputs = [flows.get(each, UNKNOWN) for each in node.all_input_nodes]
            if node.op == "placeholder":
                flow = given
            elif node.op == "get_attr":
                flow = _constant(attribute(root, node))
            elif node.op == "call_module" and name.startswith(inside_boxes):
                continue  # what was traced before a box turned out to be one
            elif node.op == "call_module" and id(parts[name]) in self.boxes:
                flow = self.look_at(parts[name], self._joined(inputs))
            elif node.op == "call_module":
                flow = self._through(parts[name], inputs)
            elif node.op == "output":
                output = self._joined(inputs)
                continue
            else:
                flow = self._called(root, node, inputs)
                if node not in tracer.within_parts and not (flow.image or flow.constant):
                    flow = replace(flow, called=_activation_called(node) or flow.called)
            flows[node] = flow
            if node.all_input_nodes and changes_input(node, parts):
                flows[node.all_input_nodes[0]] = flow
        return output

    def _through(self, module: nn.Module, inputs: list[Flow]) -> Flow:
        if (layer := self.layers.get(id(module))) is not None:
            self._note(layer, self._joined(inputs))
            return UNKNOWN
        if (name := self.activations.get(id(module))) is not None:
            self._note(name, self._joined(inputs))
            return inputs[0] if inputs and inputs[0].image else self.gives[name]
        if has_own_forward(module):
            return UNKNOWN
        kind = _plain(type(module).__name__)
        return self._computed(kind, getattr(module, "mode", ""), inputs, moves=kind in _DROPOUTS)

    def _called(self, root: nn.Module, node: fx.Node, inputs: list[Flow]) -> Flow:
        name = _function(node)
        if name == "pad":
            fill: Any = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
            return inputs[0] if fill in (None, 0) else UNKNOWN
        if name in _LAYER_CALLS and any(_is_parameter(root, each) for each in node.all_input_nodes):
            return UNKNOWN
        numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, int | float)]
        keeps_sign = name in _KEEPS_SIGN_WITH_NUMBERS and all(number >= 0 for number in numbers)
        low = node.kwargs.get("min", node.kwargs.get("min_val", node.args[1] if len(node.args) > 1 else None))
        clips = name in _CLIPS and isinstance(low, int | float) and low >= 0
        moves = name in _DROPOUTS and argument(node, 2, "training", True) is False
        return self._computed(name, node.kwargs.get("mode", "nearest"), inputs, moves, clips, keeps_sign)

    def _computed(
        self, name: str, mode: Any, inputs: list[Flow], moves: bool, clips: bool = False, keeps_sign: bool = False
    ) -> Flow:
        if moves or name in _MOVES or (name in ("interpolate", "upsample") and mode == "nearest"):
            return inputs[0] if inputs else UNKNOWN
        if name in _JOINS:
            return self._joined(inputs)
        keeps_sign |= name in _KEEPS_SIGN and mode not in _OVERSHOOT
        non_negative = keeps_sign and all(flow.non_negative for flow in inputs)
        return _changed(inputs, clips or name in _NON_NEGATIVE or non_negative)

    def _joined(self, inputs: list[Flow]) -> Flow:
        """Returns what is known about several tensors together."""
        if len(inputs) == 1:
            return inputs[0]
        flow = _changed(inputs, bool(inputs) and all(each.non_negative for each in inputs))
        grids = [each.grid for each in inputs]
        same = bool(grids) and all(grid and (grid == grids[0] or self.same_grid(grids[0], grid)) for grid in grids)
        return replace(flow, grid=grids[0] if same else "")

    def _note(self, layer: str, flow: Flow) -> None:
        before = self.found.get(layer)
        self.found[layer] = flow if before is None else self._joined([before, flow])


def _changed(inputs: list[Flow], non_negative: bool) -> Flow:
    """Returns what is known about values that were computed from others."""
    return Flow(
        non_negative=non_negative,
        image=any(flow.image for flow in inputs) and all(flow.image or flow.constant for flow in inputs),
        constant=all(flow.constant for flow in inputs),
        as_wished=any(f.as_wished for f in inputs) and all(f.as_wished or f.constant for f in inputs),
        called=next((flow.called for flow in inputs if flow.called), ""),
    )


def _constant(value: Any) -> Flow:
    fixed = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.is_meta
    return Flow(constant=True, non_negative=fixed and bool((value >= 0).all()))


def _function(node: fx.Node) -> str:
    name = _plain(called_name(node))
    return "maximum" if name == "max" and len(node.all_input_nodes) == 2 else name


def _activation_called(node: fx.Node) -> str:
    """Returns the name of a call that is an activation, or of the gate in `x * sigmoid(x)`; else `""`."""
    name, inputs = _function(node), node.all_input_nodes
    if name in _ACTIVATION_CALLS:
        return called_name(node).strip("_")
    gates = [other for other in inputs if any(x in other.all_input_nodes for x in inputs)]
    names = [called_name(gate).strip("_") for gate in gates] if name in ("mul", "imul") else []
    return next((gate for gate in names if _plain(gate) in _GATES), "")


def _is_parameter(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node is a parameter, or made from one alone, as its transpose is."""
    while node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return isinstance(attribute(root, node), nn.Parameter)
