"""The twin of an ONNX graph: a torch module with its values, nearly, and gradients straight through its roundings."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError, UnsupportedModelError, some
from qadv.frontends.onnx.graph import MOVERS, Graph, Node
from qadv.frontends.onnx.operators import OPERATORS, Operator
from qadv.frontends.onnx.quantized import (
    QUANTIZED,
    RANGES,
    TYPE_OF_ZERO_POINT,
    Grid,
    conv_of_codes,
    log_softmax,
    to_values,
)

_TABLE: dict[str, Operator] = {
    **OPERATORS, **QUANTIZED, "QLinearLogSoftmax": log_softmax, "ConvOfCodes": conv_of_codes,
    "Rounded": lambda a, x: a["grid"].quantize(x),
}  # fmt: skip
_WHOLE = (*RANGES, "INT64", "UINT32", "UINT64")
_TYPES = (*_WHOLE, "FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL")
_TOGETHER = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "Equal", "Greater", "Less", "Concat", "MatMul")
_BEHIND_SOFTMAX = ("QuantizeLinear", "DequantizeLinear", "Identity", "Clip", "Cast", "Reshape", "Flatten", "Squeeze")
_FROM_CODES = ("Cast", "DequantizeLinear", "Transpose", "Reshape", "Identity", "Mul")
_OF_ONE_SCALE = ("Slice", "Gather", "Clip", "Max", "Min")  # what gives some of the codes that it is given
_CODES = RANGES.keys() - {"INT32"}  # which sums have
_OF_THE_HOST = (torch.int64, torch.bool)  # shapes, indices and axes stay on the CPU


@dataclass
class _Step(Node):
    """One that can be run."""

    def __call__(self, values: dict[str, Tensor]) -> Any:
        operator: Operator = _TABLE[self.kind]
        given = [values[name] if name else None for name in self.inputs]
        if self.kind in _TOGETHER:  # what is computed from shapes meets what is computed from images
            device = next((each.device for each in given if each is not None and each.device.type != "cpu"), None)
            given = [each if each is None or device is None else each.to(device) for each in given]
        found = operator(self.attributes, *given)
        return found if isinstance(found, tuple) else (found,)


class Twin(nn.Module):
    """Computes a graph in float32: images as the file takes them in, logits out.

    Roundings have the gradient of the identity within the ends of their range and none beyond; a graph that ends in a
    softmax gives its logarithm, which are logits. If `batched`, sizes that are written for the file's own batch are
    those of any batch.

    Attributes:
        values: constants of the graph by name, as long as `forget` was not called.
        heard: modules that are given what an operator gives, by the operator's name, so that hooks on them see it.
        grids: of the operators that round to levels of one scale, by the operator's name.

    Raises:
        UnsupportedModelError: the graph has operators that are not known here.
    """

    def __init__(self, graph: Graph, batched: bool) -> None:
        super().__init__()
        unknown = {node.kind for node in graph.nodes if node.kind not in {**OPERATORS, **QUANTIZED}}
        unknown |= {f"{n.kind} to {t}" for n in graph.nodes if (t := type_of_codes(n, graph)) and t not in RANGES}
        types = {each: graph.types.get(each, "FLOAT") for node in graph.nodes for each in node.inputs}
        unknown |= {f"{n.kind} of {types[i]}" for n in graph.nodes for i in n.inputs if types[i] not in _TYPES}
        if unknown:
            raise UnsupportedModelError(f"the graph has operators that can't be read: {some(sorted(unknown), 5)}")
        self.name, self.input, self.output = graph.name, graph.input, graph.output
        self.values = {name: _tensor(array) for name, array in graph.constants.items()}
        of_images = _of_images(graph)
        steps = _narrowed([_step(node, graph, of_images) for node in graph.nodes], self.values, graph.output)
        if (softmax := final_softmax(graph)) is not None:
            self.output = softmax.outputs[0]
            (step,) = (each for each in steps if self.output in each.outputs)
            step.kind = step.kind.replace("Softmax", "LogSoftmax")
        joined = _joined(steps, self.values, graph.output)
        steps = self._folded(joined)
        _put_on_codes(steps, {name: step for step in joined for name in step.outputs}, self.values)
        batch = graph.input_shape[0]
        if batched and batch is not None:
            for step in steps:
                sizes = self.values.get(step.inputs[1]) if step.kind == "Reshape" else None
                if sizes is not None and len(sizes) and sizes[0] == batch:
                    self.values[step.inputs[1]] = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[1:]])
        self._steps, self.heard = steps, dict[str, nn.Module]()
        self.grids = {step.name: grid for step in steps if (grid := _grid(step, self.values)) is not None}
        used = {name for step in steps for name in step.inputs if name in self.values}
        self._host = {name: self.values[name] for name in used if self.values[name].dtype in _OF_THE_HOST}
        self._device = {name: f"constant{i}" for i, name in enumerate(sorted(used - self._host.keys()))}
        for name, buffer in self._device.items():
            self.register_buffer(buffer, self.values[name])
        last = {name: index for index, step in enumerate(steps) for name in step.inputs if name}
        self._done = [
            [name for name, at in last.items() if at == index and name != self.output] for index in range(len(steps))
        ]

    def of_codes(self, node: Node, index: int, producers: dict[str, Node]) -> "OfCodes | None":
        """Returns how an operator's weights, its input `index`, come of the file's codes; `None` where they do not."""
        step = next((each for each in self._steps if each.name == node.name), None)
        on_codes = step is not None and step.kind == "ConvOfCodes"
        name = node.inputs[index]
        given = "" if step is None else step.inputs[1] if on_codes else name
        if given not in self._device:
            return None
        nodes: list[Node] = []
        while (before := producers.get(name)) is not None and before.inputs[0] in self.values:
            nodes, name = [before, *nodes], before.inputs[0]
        if any(node.kind not in _FROM_CODES for node in nodes):
            return None
        constants = {each: self.values[each] for node in nodes for each in node.inputs[1:] if each}
        found = OfCodes(self._device[given], on_codes, nodes, constants)
        return found if torch.equal(found(self.values[name]), self.values[given].float()) else None

    def forget(self) -> None:
        """Lets constants go that are not computed with."""
        self.values = {}

    def forward(self, x: Tensor) -> Tensor:
        y = self._computed(x, self._done)[self.output].float()
        if y.ndim < 2:
            raise FileFormatError(f"{self.name}: expected logits (N, classes), got an output of shape {tuple(y.shape)}")
        return y.flatten(1)

    def every_value(self, x: Tensor) -> dict[str, Tensor]:
        """Returns what each operator gives, by name."""
        return self._computed(x, [[]] * len(self._steps))

    def _computed(self, x: Tensor, done: list[list[str]]) -> dict[str, Tensor]:
        values = {self.input: x, **self._host}
        values |= {name: getattr(self, buffer) for name, buffer in self._device.items()}
        for step, names in zip(self._steps, done, strict=True):
            found = _asked(step, values)
            if step.name in self.heard:
                found = (self.heard[step.name](found[0]), *found[1:])
            values.update(zip(step.outputs, found, strict=False))
            for name in names:
                del values[name]
        return values

    @torch.no_grad()
    def _folded(self, steps: list[_Step]) -> list[_Step]:
        """Computes what does not depend on the images, and leaves out what the logits do not depend on."""
        left = []
        for step in steps:
            if (
                step.kind == "CastLike" and step.inputs[1] not in self.values
            ):  # values that are computed are floats here
                step.kind, step.inputs, step.attributes = "Cast", step.inputs[:1], {"to": 1}
            if all(not name or name in self.values for name in step.inputs):
                self.values.update(zip(step.outputs, _asked(step, self.values), strict=False))
            else:
                left.append(step)
        needed, kept = {self.output}, []
        for step in reversed(left):
            if needed & set(step.outputs):
                kept.append(step)
                needed |= set(step.inputs)
        if not kept:
            raise FileFormatError(f"{self.name}: the output {self.output!r} does not depend on the images")
        return kept[::-1]


@dataclass(frozen=True, eq=False)
class OfCodes:
    """Makes of codes of weights, with their graph, what a twin has in its buffer of that name.

    Attributes:
        unscaled: the twin computes with the codes, and scales the sums.
        nodes, constants: operators from the codes to the weights, and their other inputs.
    """

    buffer: str
    unscaled: bool
    nodes: list[Node]
    constants: dict[str, Tensor]

    def __call__(self, codes: Tensor) -> Tensor:
        value = codes.float()
        for node in self.nodes:
            others = [self.constants.get(name) for name in node.inputs[1:]]
            if self.unscaled and node.kind == "DequantizeLinear":
                value = to_values(node.attributes, value, torch.ones(1), *others[1:])
            elif node.kind != "Cast":  # to another type of codes
                value = _TABLE[node.kind](node.attributes, value, *others)
        return value


def with_real_output(graph: Graph) -> tuple[Graph, float, float]:
    """Returns a graph whose output is numbers where it is codes, and their scale and zero point, else 1 and 0.

    The codes may have been moved, brought into another type, or clipped.

    Raises:
        UnsupportedModelError: what the codes stand for can't be told from the graph.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}
    node = producers.get(graph.output)
    while node is not None and node.kind in (*MOVERS, "Cast", *_OF_ONE_SCALE):
        node = producers.get(_moved(node, graph))
    index = None if node is None else TYPE_OF_ZERO_POINT.get(node.kind)
    names = () if node is None or index is None else node.inputs[index - 1 : index + 1]
    if not names or any(name not in graph.constants or graph.constants[name].size != 1 for name in names if name):
        if graph.output_type in _CODES:
            raise UnsupportedModelError(
                f"{graph.name}: its output {graph.output!r} is codes, {graph.output_type}, of which no one scale says "
                "what logits they stand for; give the file without the rounding of its output"
            )
        return graph, 1.0, 0.0
    scale, zero = (float(graph.constants[name].item()) if name else 0.0 for name in (*names, "")[:2])
    real = Node(
        "DequantizeLinear", "numbers of the output", (graph.output, *names), (f"numbers of {graph.output}",), {}
    )
    return replace(graph, nodes=[*graph.nodes, real], output=real.outputs[0]), scale, zero


def _moved(node: Node, graph: Graph) -> str:
    """Returns the input whose numbers an operator moves or picks from; `""` where it picks from several."""
    if node.kind not in ("Max", "Min"):
        return node.inputs[0]
    computed = [name for name in node.inputs if name not in graph.constants]
    return computed[0] if len(computed) == 1 else ""


def final_softmax(graph: Graph) -> Node | None:
    """Returns the softmax that a graph ends in, maybe with its probabilities rounded or in another shape."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    node = producers.get(graph.output)
    kinds = []
    while node is not None and node.kind in _BEHIND_SOFTMAX:
        kinds.append(node.kind)
        node = producers.get(node.inputs[0])
    known = ("Softmax", "QLinearSoftmax") if "DequantizeLinear" in kinds else ("Softmax",)
    return node if node is not None and node.kind in known else None


def _asked(step: _Step, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
    try:
        found: tuple[Tensor, ...] = step(values)
    except NotImplementedError as error:
        raise UnsupportedModelError(f"the graph has operators that can't be read: {error} ({step.name})") from error
    except (RuntimeError, IndexError, ValueError, TypeError, KeyError) as error:
        raise UnsupportedModelError(f"{step.kind} ({step.name}) can't be computed: {error}") from error
    return found


def _tensor(array: Any) -> Tensor:
    if array.dtype in (np.uint16, np.uint32, np.uint64):  # of which torch has not much more than the names
        array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
    return torch.from_numpy(np.array(array, order="C"))


def type_of_codes(node: Node, graph: Graph) -> str | None:
    """Returns the element type of the codes that an operator rounds to, `None` for one that does not."""
    index = TYPE_OF_ZERO_POINT.get(node.kind)
    if index is None:
        return None
    if index < len(node.inputs) and node.inputs[index]:
        return graph.types.get(node.inputs[index], "UINT8")
    from onnx import TensorProto

    given = node.attributes.get("output_dtype", 0)
    return str(TensorProto.DataType.Name(given)) if given else "UINT8"


def _of_images(graph: Graph) -> set[str]:
    """Returns the names of the values that come of the images, and not of their shape alone."""
    found = {graph.input}
    for node in graph.nodes:
        if node.kind not in ("Shape", "Size") and found & set(node.inputs):
            found |= set(node.outputs)
    return found


def _step(node: Node, graph: Graph, of_images: set[str]) -> _Step:
    attributes = {**node.attributes, "opset": graph.opset}
    if node.kind in ("Cast", "CastLike") and node.inputs[0] in of_images:
        attributes["of_images"] = True
    if node.kind == "Div" and any(graph.types.get(name, "FLOAT") in _WHOLE for name in node.inputs):
        attributes["whole"] = True
    if (kind := type_of_codes(node, graph)) is not None:
        attributes["range"] = RANGES[kind]
    if node.kind == "Split":
        attributes["outputs"] = len(node.outputs)
    return _Step(node.kind, node.name, node.inputs, node.outputs, attributes)


def _grid(step: _Step, constants: dict[str, Tensor]) -> Grid | None:
    """Gives an operator the grid that it rounds to, where that has one scale, and returns it."""
    index = TYPE_OF_ZERO_POINT.get(step.kind)
    if index is not None and "grid" not in step.attributes:
        numbers = [constants.get(name) for name in step.inputs[index - 1 : index + 1] if name]
        if numbers and all(number is not None and number.numel() == 1 for number in numbers):
            scale, zero = (*(number.item() for number in numbers if number is not None), 0.0)[:2]
            step.attributes["grid"] = Grid(scale, zero, *step.attributes["range"])
    found: Grid | None = step.attributes.get("grid")
    return found


def _narrowed(steps: list[_Step], constants: dict[str, Tensor], output: str) -> list[_Step]:
    """Joins roundings with a `Clip` of their codes, so that no gradient passes beyond the ends of the levels."""
    uses = Counter(name for step in steps for name in step.inputs) + Counter([output])
    producers = {name: step for step in steps for name in step.outputs}
    for step in steps:
        source = producers.get(step.inputs[0]) if step.inputs else None
        ends = step.inputs[1:]
        if step.kind != "Clip" or source is None or source.kind != "QuantizeLinear" or uses[step.inputs[0]] > 1:
            continue
        if ends and all(name in constants for name in ends if name):
            low, high = source.attributes["range"]
            given = [constants[name].item() if name else None for name in (*ends, "")[:2]]
            low, high = (low if given[0] is None else given[0]), (high if given[1] is None else given[1])
            source.attributes["range"] = (low, high)
            source.outputs, step.kind = step.outputs, ""
    return [step for step in steps if step.kind]


def _joined(steps: list[_Step], constants: dict[str, Tensor], output: str) -> list[_Step]:
    """Makes one operator of roundings to codes and back, which is what takes time in a twin."""
    consumers: dict[str, list[_Step]] = {}
    for step in steps:
        for name in step.inputs:
            consumers.setdefault(name, []).append(step)
    for step in steps:
        behind = consumers.get(step.outputs[0], [])
        grids = {each.inputs[1:3] for each in (step, *behind)} if step.kind == "QuantizeLinear" else set()
        values = [[constants.get(name) for name in grid if name] for grid in grids]
        if not behind or step.outputs[0] == output or any(each.kind != "DequantizeLinear" for each in behind):
            continue
        if not values or any(value is None or value.numel() != 1 for grid in values for value in grid):
            continue
        numbers = {tuple(float(value) for value in grid if value is not None) for grid in values}
        if len(numbers) == 1:
            _grid(step, constants)
            step.kind, step.inputs = "Rounded", step.inputs[:1]
            for each in behind:
                each.kind, each.inputs = "Identity", each.inputs[:1]
    return steps


def _put_on_codes(steps: list[_Step], producers: dict[str, _Step], constants: dict[str, Tensor]) -> None:
    """Lets convolutions compute with codes where a runtime does: between roundings, with weights and bias in codes."""
    uses = Counter(name for step in steps for name in step.inputs)
    rounded = {step.inputs[0]: step.attributes["grid"] for step in steps if step.kind == "Rounded"}
    given = {step.outputs[0]: step.attributes["grid"] for step in steps if step.kind == "Rounded"}
    for step in steps:
        if step.kind == "Identity" and step.inputs[0] in given:
            given[step.outputs[0]] = given[step.inputs[0]]
        if step.kind == "DequantizeLinear":  # of codes that were moved, or that others move
            source: _Step | None = step
            while source is not None and source.kind != "QuantizeLinear":
                source = producers.get(source.inputs[0])
            grid, own = None if source is None else _grid(source, constants), constants.get(step.inputs[1])
            if grid is not None and own is not None and own.numel() == 1 and own.item() == grid.scale:
                given[step.outputs[0]] = grid
        parts = [producers.get(name) for name in step.inputs[1:] if name]
        if (
            step.kind != "Conv"
            or step.inputs[0] not in given
            or step.outputs[0] not in rounded
            or uses[step.outputs[0]] > 1
            or any(each is None or each.kind != "DequantizeLinear" for each in parts)
        ):
            continue
        (weight, scale, *zero), *bias = ([constants[name] for name in each.inputs] for each in parts if each)
        before, behind = given[step.inputs[0]], rounded[step.outputs[0]]
        attributes = parts[0].attributes if parts[0] else {}
        product = torch.tensor(before.scale) * scale
        if product.ndim > 1 or (product.numel() > 1 and attributes.get("axis", 1) != 0):
            continue
        if any(not torch.allclose(each[1].flatten(), product.flatten(), 1e-5, 0) for each in bias):
            continue
        codes = to_values(attributes, weight, torch.ones(1), *zero)
        found = [codes, (product / behind.scale).reshape(-1, 1, 1), *(each[0].float() for each in bias)]
        names = [f"{step.name} {part}" for part in ("codes", "factor", "bias")[: len(found)]]
        constants.update(zip(names, found, strict=True))
        step.kind, step.inputs = "ConvOfCodes", (step.inputs[0], *names)
        step.attributes = {**step.attributes, "given": before, "rounded": behind}
