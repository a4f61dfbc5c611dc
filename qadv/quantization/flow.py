"""Where the input of each layer comes from: an activation that is quantized, the images, or something float.

The network is traced symbolically (`torch.fx`), from the outside inwards. A module whose own code branches on a tensor
or on its shape is followed on each way; one that can't be traced at all is a black box: what comes out of it is
unknown, and its parts are looked at one by one. What is unknown counts as float, so that conversion quantizes it.
"""

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from qadv.modes import evaluation_mode


@dataclass(frozen=True)
class Flow:
    """What is known of a tensor.

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

# these move values, or leave some out, or put zeros between them
_MOVES = {
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax", "broadcast_to", "channel_shuffle",
    "chunk", "clone", "contiguous", "detach", "expand", "expand_as", "flatten", "flip", "float", "gather", "getitem",
    "index_select", "max_pool1d", "max_pool2d", "max_pool3d", "movedim", "narrow", "permute", "pixel_shuffle",
    "pixel_unshuffle", "repeat", "repeat_interleave", "reshape", "roll", "select", "split", "squeeze", "swapaxes",
    "t", "tile", "to", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as",
}  # fmt: skip
_MOVING_MODULES = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.UpsamplingNearest2d,
    nn.modules.dropout._DropoutNd, nn.Unfold,
)  # fmt: skip
_JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "maximum", "minimum"}
# no value below 0, whatever comes in
_NON_NEGATIVE = {
    "abs", "exp", "hardsigmoid", "relu", "relu6", "sigmoid", "softmax", "softplus", "square",
}  # fmt: skip
_NON_NEGATIVE_MODULES = (nn.Hardsigmoid, nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax, nn.Softplus)
# no value below 0 where none comes in
_KEEPS_SIGN = {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "interpolate", "lp_pool2d", "mean", "sqrt", "sum",
}  # fmt: skip
# nor a number
_KEEPS_SIGN_WITH_NUMBERS = {"add", "clamp_max", "div", "iadd", "imul", "itruediv", "mul", "pow", "truediv"}
_OVERSHOOT = {"bicubic"}  # modes of interpolation with negative weights
_SIGN_KEEPING_MODULES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.LPPool2d, nn.Upsample,
)  # fmt: skip
_ACTIVATION_CALLS = {
    "abs", "celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "erf", "ge", "gelu", "gt", "hardshrink",
    "hardswish", "hardtanh", "heaviside", "le", "leaky_relu", "logsigmoid", "lt", "maximum", "minimum", "mish",
    "prelu", "relu", "relu6", "rrelu", "selu", "sign", "silu", "sin", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold", "where",
}  # fmt: skip
_GATES = {"exp", "hardsigmoid", "sigmoid", "softplus", "softsign"}
# these leave their input as it is in evaluation mode, unless the call says otherwise
_DROPOUTS = {"alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"}
# what a layer computes, where its weights stand in the network's own code
_LAYER_CALLS = {
    "addmm", "baddbmm", "bilinear", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "einsum", "linear", "matmul", "mm", "tensordot",
}  # fmt: skip


def input_flows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    activations: Mapping[str, Flow],
    same_grid: Callable[[str, str], bool],
) -> dict[str, Flow]:
    """Returns what flows into each layer.

    Args:
        model: the network; it is looked at in evaluation mode.
        layers: the layers that are asked for, by name.
        activations: modules that are to be replaced, or left as they are on purpose, by name, with what comes out.
        same_grid: whether two of the activations have the same levels.

    Returns:
        One `Flow` for the name of each layer and activation, of all its calls together; `UNKNOWN` for one that is not
        seen. An activation of images is none: it passes them on as images.
    """
    names: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), name)
    analysis = _Analysis({id(m): name for name, m in layers.items()}, activations, same_grid, names)
    with undone(model.modules()), evaluation_mode(model):
        analysis.look_at(model, Flow(image=True))
    return {name: analysis.found.get(name, UNKNOWN) for name in [*layers, *activations]}


@contextmanager
def undone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Takes back what code that is traced sets on modules."""
    before = [(own, dict(own)) for m in modules for own in (vars(m), m._parameters, m._buffers, m._modules)]
    try:
        yield
    finally:
        for own, entries in before:
            if own.keys() != entries.keys() or any(own[name] is not entries[name] for name in own):
                own.clear()
                own.update(entries)


def _augmented(operation: Any) -> Any:
    """A function of its own for `x += y`: fx writes torch's as a statement, which is wrong for numbers."""

    def change(x: Any, y: Any) -> Any:
        return operation(x, y)

    change.__name__ = operation.__name__
    return change


_AUGMENTED = {
    each.__name__: _augmented(each)
    for each in (
        operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow
    )
}  # fmt: skip


class _Proxy(fx.Proxy):
    pass


for _name, _function in _AUGMENTED.items():
    setattr(
        _Proxy,
        f"__{_name}__",
        lambda self, other, function=_function: self.tracer.create_proxy("call_function", function, (self, other), {}),
    )


class CodeTracer(fx.Tracer):
    """Takes `x += y` for the change of x that it is, whatever other names x has; `fx` takes it for `x = x + y`."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Tracer(CodeTracer):
    """Traces through all modules but torch's own and those given; what can't be traced becomes a black box.

    Where the outermost module's own code branches on a tensor, it goes the ways that `choices` says, then the first.
    """

    def __init__(self, leaves: set[int], choices: tuple[bool, ...]) -> None:
        super().__init__()
        self.leaves = leaves
        self.choices = choices
        self.taken: list[bool] = []
        self.boxes: set[str] = set()
        self.within_parts: set[fx.Node] = set()  # code of modules that have no parts: activations, not networks
        self._depth = self._part_depth = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        if self._depth:
            return super().to_bool(obj)
        index = len(self.taken)
        self.taken.append(self.choices[index] if index < len(self.choices) else True)
        return self.taken[-1]

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


class _Analysis:
    def __init__(
        self,
        layers: dict[int, str],
        activations: Mapping[str, Flow],
        same_grid: Callable[[str, str], bool],
        names: dict[int, str],
    ) -> None:
        self.layers = layers
        self.activations = activations
        self.same_grid = same_grid
        self.names = names
        self.known = set(layers) | {i for i, name in names.items() if name in activations}
        self.found: dict[str, Flow] = {}

    def look_at(self, module: nn.Module, given: Flow) -> Flow:
        """Follows a tensor through one module, on each way through its own code; returns what comes out."""
        if id(module) in self.known:
            return self._through(module, [given])
        outputs: list[Flow] = []
        pending: list[tuple[bool, ...]] = [()]
        while pending:
            choices = pending.pop()
            tracer = _Tracer(self.known, choices)
            try:
                with _forward_of_class(module):
                    graph = tracer.trace(module, left_out(module))
            except Exception:
                break
            pending += [(*tracer.taken[:i], False) for i in range(len(choices), len(tracer.taken))]
            outputs.append(self._follow(graph, module, given, tracer))
            if len(outputs) + len(pending) > _WAYS:
                break
        else:
            return self._joined(outputs)
        for part in module.children():  # its code can't be followed
            self.look_at(part, UNKNOWN)
        return UNKNOWN

    def _follow(self, graph: fx.Graph, root: nn.Module, given: Flow, tracer: _Tracer) -> Flow:
        flows: dict[fx.Node, Flow] = {}
        parts = dict(root.named_modules(remove_duplicate=False))
        inside_boxes = tuple(f"{box}." for box in tracer.boxes)
        output = UNKNOWN
        for node in graph.nodes:
            name = str(node.target)
            inputs = [flows.get(each, UNKNOWN) for each in node.all_input_nodes]
            if node.op == "placeholder":
                flow = given
            elif node.op == "get_attr":
                flow = _constant(root, name)
            elif node.op == "call_module" and name.startswith(inside_boxes):
                continue  # what was traced before a box turned out to be one
            elif node.op == "call_module" and name in tracer.boxes:
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
            if node.all_input_nodes and _changes_input(node, parts):
                flows[node.all_input_nodes[0]] = flow
        return output

    def _through(self, module: nn.Module, inputs: list[Flow]) -> Flow:
        layer = self.layers.get(id(module))
        if layer is not None:
            self._note(layer, self._joined(inputs))
            return UNKNOWN
        name = self.names[id(module)]
        if name in self.activations:
            self._note(name, self._joined(inputs))
            return inputs[0] if inputs and inputs[0].image else self.activations[name]
        first = inputs[0] if inputs else UNKNOWN
        if isinstance(module, _MOVING_MODULES) or (isinstance(module, nn.Upsample) and module.mode == "nearest"):
            return first
        return _changed(
            inputs,
            isinstance(module, _NON_NEGATIVE_MODULES)
            or (
                isinstance(module, _SIGN_KEEPING_MODULES)
                and getattr(module, "mode", "") not in _OVERSHOOT
                and first.non_negative
            ),
        )

    def _called(self, root: nn.Module, node: fx.Node, inputs: list[Flow]) -> Flow:
        name = called_name(node).strip("_")
        name = "maximum" if name == "max" and len(inputs) == 2 else name
        first = inputs[0] if inputs else UNKNOWN
        if name == "pad":
            fill: Any = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
            return first if fill in (None, 0) else UNKNOWN
        if name == "interpolate" and node.kwargs.get("mode", "nearest") == "nearest":
            return first
        if name in _MOVES or (name in _DROPOUTS and argument(node, 2, "training", True) is False):
            return first
        if name in _JOINS:
            return self._joined(inputs)
        if name in _LAYER_CALLS and any(_is_parameter(root, each) for each in node.all_input_nodes):
            return UNKNOWN
        numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, int | float)]
        keeps_sign = (name in _KEEPS_SIGN and node.kwargs.get("mode") not in _OVERSHOOT) or (
            name in _KEEPS_SIGN_WITH_NUMBERS and all(number >= 0 for number in numbers)
        )
        clips = name in _NON_NEGATIVE or _clips_at_zero(node, name)
        return _changed(inputs, clips or (keeps_sign and all(flow.non_negative for flow in inputs)))

    def _joined(self, inputs: list[Flow]) -> Flow:
        """Returns what is known of the values of several tensors together."""
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
    """Returns what is left to know of values that were computed from others."""
    return Flow(
        non_negative=non_negative,
        image=any(flow.image for flow in inputs) and all(flow.image or flow.constant for flow in inputs),
        constant=all(flow.constant for flow in inputs),
        as_wished=bool(inputs) and any(f.as_wished for f in inputs) and all(f.as_wished or f.constant for f in inputs),
        called=next((flow.called for flow in inputs if flow.called), ""),
    )


def _activation_called(node: fx.Node) -> str:
    """Returns the name of a call that is an activation, or of the gate in `x * sigmoid(x)`; else `""`."""
    name, inputs = called_name(node).strip("_"), node.all_input_nodes
    if name in _ACTIVATION_CALLS or (name == "max" and len(inputs) == 2):
        return name
    gates = [other for other in inputs if any(x in other.all_input_nodes for x in inputs)]
    names = [called_name(gate).strip("_") for gate in gates] if name in ("mul", "imul") else []
    return next((gate for gate in names if gate in _GATES), "")


def _clips_at_zero(node: fx.Node, name: str) -> bool:
    low = node.kwargs.get("min", node.kwargs.get("min_val", node.args[1] if len(node.args) > 1 else None))
    return name in {"clamp", "clamp_min", "clip", "hardtanh"} and isinstance(low, int | float) and low >= 0


def _changes_input(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(parts[str(node.target)], "inplace", False))
    name = called_name(node)
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _AUGMENTED
    return in_place or node.kwargs.get("inplace") is True


def _constant(root: nn.Module, target: str) -> Flow:
    value = attribute(root, target)
    fixed = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.is_meta
    return Flow(constant=True, non_negative=fixed and bool((value >= 0).all()))


def _is_parameter(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node is a parameter, or made from one alone, as its transpose is."""
    while node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr" and isinstance(attribute(root, str(node.target)), nn.Parameter)


def attribute(holder: Any, name: str) -> Any:
    """Returns what a dotted name stands for, or `None`."""
    for part in name.split("."):
        holder = getattr(holder, part, None)
    return holder


@contextmanager
def _forward_of_class(module: nn.Module) -> Iterator[None]:
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


def called_name(node: fx.Node) -> str:
    """Returns the name of the function or method that a node calls, `""` for any other node."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """Returns what a call was given for one of its arguments."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def left_out(module: nn.Module) -> dict[str, Any] | None:
    """Returns the optional arguments of a module, as masks, with their defaults: they are taken to be left out."""
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} or None
