"""A `.tflite` file for a graph of integers: the same codes, scales and integer layers, channels last."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qadv.errors import UnsupportedModelError, some
from qadv.frontends import PICTURES, Graph, Node, Twin
from qadv_litert.schema import schema

_FIRST_TO_LAST, _LAST_TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_ELEMENTWISE = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}
_OF_ONE = {"Relu": "RELU", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "HardSwish": "HARD_SWISH"}
_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12, "ADD": 2, "SUB": 2, "MUL": 2, "MEAN": 2,
             "PAD": 2, "PADV2": 2, "MAX_POOL_2D": 2, "MAXIMUM": 2, "QUANTIZE": 2, "DEQUANTIZE": 2, "TRANSPOSE": 2,
             "STRIDED_SLICE": 2}  # fmt: skip
Array = NDArray[Any]


@dataclass(frozen=True)
class _Grid:
    """Codes from -128 to 127; value = (code - zero) * scale; `first` is the smallest that there is."""

    scale: float
    zero: int
    first: int = -128


@dataclass(frozen=True)
class _Value:
    """A tensor of the file; one of four dimensions has its channels last.

    Attributes:
        index: in the file.
        shape: as it is in the file.
        grid: of its codes; `None` for floats.
    """

    index: int
    shape: tuple[int, ...]
    grid: _Grid | None = None


def tflite_of(graph: Graph) -> bytes:
    """Returns a file that computes a graph on one image, (1, height, width, channels) float32, to logits as float32.

    Every integer layer has the graph's own weights, biases and scales. Codes are int8 where the graph has uint8, both
    128 less.

    Args:
        graph: as `qadv.deployment.integer_graph` writes it, the logits in codes too.

    Raises:
        MissingRequirementError: LiteRT, whose schema is used, is not installed.
        UnsupportedModelError: it has operators that are not written, which are named.
    """
    return _Writer(graph).written()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.tflite = schema()
        self.graph, twin = graph, Twin(graph, batched=False)
        self.constants = {name: value.numpy() for name, value in twin.values.items()}
        with torch.no_grad():
            seen = twin.every_value(torch.zeros(1, *(size or 1 for size in graph.input_shape[1:])))
        self.shapes = {name: tuple(value.shape) for name, value in seen.items()}
        self.constants |= {name: value.numpy() for name, value in seen.items() if not value.is_floating_point()}
        self.nodes = [node for node in graph.nodes if node.outputs[0] not in self.constants]
        self.uses = Counter(name for node in self.nodes for name in node.inputs) + Counter([graph.output])
        self.consumers = {name: node for node in self.nodes for name in node.inputs}
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.done: set[str] = set()
        self.values: dict[str, _Value] = {}
        self.floats: dict[int, _Value] = {}
        self.codes: dict[tuple[int, int], int] = {}
        self.model, self.main = self.tflite.ModelT(), self.tflite.SubGraphT()
        self.model.version, self.model.description = 3, "qadv"
        self.model.operatorCodes, self.model.buffers = [], [self.tflite.BufferT()]
        self.main.tensors, self.main.operators, self.main.name = [], [], "main"
        self.model.subgraphs = [self.main]

    def written(self) -> bytes:
        unknown = {node.kind for node in self.nodes if not hasattr(self, f"_write_{_WRITTEN_BY.get(node.kind)}")}
        if unknown:
            raise UnsupportedModelError(f"operators that are not written to .tflite files: {some(sorted(unknown))}")
        self._write_input()
        for node in self.nodes:
            if node.name not in self.done:
                getattr(self, f"_write_{_WRITTEN_BY[node.kind]}")(node)
        for name, value in self.values.items():
            self.main.tensors[value.index].name = name
        logits = self._as_float(self.graph.output)
        self.main.tensors[logits.index].name = "logits"
        self.main.outputs = [logits.index]
        if self.graph.pictures:
            noted = self.tflite.MetadataT()
            noted.name, noted.buffer = PICTURES, len(self.model.buffers)
            self.model.metadata = [noted]
            self.model.buffers.append(self.tflite.BufferT())
            self.model.buffers[-1].data = list(json.dumps(self.graph.pictures).encode())
        from flatbuffers import Builder  # comes with LiteRT

        builder = Builder(0)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    # what is there

    def _only_consumer(self, name: str) -> Node | None:
        return self.consumers.get(name) if self.uses[name] == 1 else None

    def _grid(self, node: Node, first: Any = 0) -> _Grid:
        scale, zero = (self.constants[name] for name in node.inputs[1:3])
        moved = 128 if self.graph.types.get(node.inputs[2], "UINT8") == "UINT8" else 0
        return _Grid(float(scale), int(zero) - moved, int(first) - moved)

    def _rounded(self, name: str) -> tuple[str, _Grid] | None:
        """Returns the codes that a value is rounded to before anything else is done with it, and their grid."""
        node = self._only_consumer(name)
        if node is None or node.kind != "QuantizeLinear":
            return None
        self.done.add(node.name)
        return self._cut_off(node)

    def _cut_off(self, node: Node) -> tuple[str, _Grid]:
        """Returns the codes of a `QuantizeLinear`, and of a `Clip` that alone reads them."""
        behind = self._only_consumer(node.outputs[0])
        if behind is None or behind.kind != "Clip":
            return node.outputs[0], self._grid(node)
        self.done.add(behind.name)
        return behind.outputs[0], self._grid(node, self.constants[behind.inputs[1]])

    def _shape(self, name: str) -> tuple[int, ...]:
        """Returns the sizes of a value as they are in the file."""
        shape = self.shapes[name]
        return tuple(shape[i] for i in _FIRST_TO_LAST) if len(shape) == 4 else shape

    def _as_float(self, name: str, rank: int = 0) -> _Value:
        """Returns a value as floats, or a constant beside values of so many dimensions."""
        value = self.values.get(name) or self._constant_beside(name, rank)
        if rank == 4 and len(value.shape) not in (0, 4):
            raise UnsupportedModelError(
                f"{name!r}, of fewer dimensions than what it meets, is not written to .tflite files"
            )
        if value.grid is None:
            return value
        if value.index not in self.floats:
            self.floats[value.index] = self._operator("DEQUANTIZE", [value], value.shape)
        return self.floats[value.index]

    def _constant_beside(self, name: str, rank: int) -> _Value:
        """Returns what is broadcast over other values, channels last where these have them so."""
        array = np.asarray(self.constants[name], np.float32)
        if rank == 4 and array.ndim:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(_FIRST_TO_LAST)
        return self._constant(array)

    # parts of a file

    def _tensor(
        self, shape: Sequence[int], kind: str, grid: _Grid | None = None, data: Array | None = None, scales: Any = None
    ) -> _Value:
        tensor, index = self.tflite.TensorT(), len(self.main.tensors)
        tensor.name, tensor.shape, tensor.hasRank = f"value{index}", list(shape), True
        tensor.type = getattr(self.tflite.TensorType, kind)
        if grid is not None:
            scales = np.float32([grid.scale]), np.array([grid.zero]), 0
        if scales is not None:
            tensor.quantization = found = self.tflite.QuantizationParametersT()
            found.scale, found.zeroPoint, found.quantizedDimension = scales
        if data is not None:
            tensor.buffer, buffer = len(self.model.buffers), self.tflite.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
        self.main.tensors.append(tensor)
        return _Value(index, tuple(shape), grid)

    def _constant(self, array: Array, scales: Any = None, packed: bool = False) -> _Value:
        if packed:  # two codes in a byte
            codes = np.append(array, np.int8(0))[: array.size + array.size % 2].reshape(-1, 2)
            data = (codes[:, 0] & 15) | (codes[:, 1] << 4)
            return self._tensor(array.shape, "INT4", data=data, scales=scales)
        kind = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32"}[array.dtype.name]
        return self._tensor(array.shape, kind, data=array, scales=scales)

    def _operator(
        self, code: str, inputs: Sequence[_Value], shape: Sequence[int], grid: _Grid | None = None, options: str = "",
        **given: Any,
    ) -> _Value:  # fmt: skip
        """Adds an operator; returns what it gives. Options of the schema that are not given keep their defaults."""
        operator, output = self.tflite.OperatorT(), self._tensor(shape, "FLOAT32" if grid is None else "INT8", grid)
        operator.inputs, operator.outputs = [each.index for each in inputs], [output.index]
        if options:
            operator.builtinOptionsType = getattr(self.tflite.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.tflite, f"{options}T")()
            vars(operator.builtinOptions).update(given)
        number = getattr(self.tflite.BuiltinOperator, code)
        key = number, 1 if grid is None and code != "DEQUANTIZE" else _VERSIONS.get(code, 1)
        if key not in self.codes:
            self.codes[key] = len(self.model.operatorCodes)
            entry = self.tflite.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = number, min(number, 127), key[1]
            self.model.operatorCodes.append(entry)
        operator.opcodeIndex = self.codes[key]
        self.main.operators.append(operator)
        return output

    def _activated(
        self, rounded: tuple[str, _Grid], code: str, inputs: Sequence[_Value], options: str, **given: Any
    ) -> None:
        """Adds an operator whose codes are cut off below, by itself where that is a ReLU."""
        name, grid = rounded
        cut = grid.first > -127  # of 255 levels there is one more at the lower end
        relu = cut and grid.first == grid.zero
        given["fusedActivationFunction"] = int(relu)
        value = self._operator(code, inputs, self._shape(name), grid, options, **given)
        self.values[name] = self._above(value) if cut and not relu else value

    def _above(self, value: _Value) -> _Value:
        assert value.grid is not None
        scales = np.float32([value.grid.scale]), np.array([value.grid.zero]), 0
        least = self._constant(np.int8([value.grid.first]), scales)
        return self._operator("MAXIMUM", [value, least], value.shape, value.grid, "MaximumMinimumOptions")

    # operators

    def _write_input(self) -> None:
        name = self.graph.input
        self.shapes[name] = tuple(size or 1 for size in (1, *self.graph.input_shape[1:]))
        if self.graph.input_type == "FLOAT":
            value = self.values[name] = self._tensor(self._shape(name), "FLOAT32")
        else:
            grid = self._grid(next(node for node in self.nodes if node.kind == "DequantizeLinear"))
            value = self._tensor(self._shape(name), "UINT8", _Grid(grid.scale, grid.zero + 128))
            self.values[name] = self._operator("QUANTIZE", [value], value.shape, grid, "QuantizeOptions")
        self.main.inputs = [value.index]

    def _write_rounding(self, node: Node) -> None:
        (name, grid), source = self._cut_off(node), self.values[node.inputs[0]]
        decoder = self._only_consumer(name)
        if decoder is not None and decoder.kind == "DequantizeLinear":
            decoded = self._grid(decoder)
            if grid.scale == 1 != decoded.scale and grid.zero == decoded.zero:
                self._write_levels(node, grid, decoder)
                return
        value = source
        if source.grid is None or (source.grid.scale, source.grid.zero) != (grid.scale, grid.zero):
            value = self._operator("QUANTIZE", [source], source.shape, grid, "QuantizeOptions")
        self.values[name] = self._above(value) if grid.first > -127 else value

    def _write_levels(self, node: Node, grid: _Grid, decoder: Node) -> None:
        """Writes levels without one at 0, which graphs count in steps of 1 from the lowest: no codes stand for them."""
        clip = self._only_consumer(node.outputs[0])
        last = self._grid(node, 255 if clip is None or clip is decoder else self.constants[clip.inputs[2]]).first
        value = self._clipped(self._as_float(node.inputs[0]), grid.first - grid.zero, last - grid.zero)
        value = self._operator("ROUND", [value], value.shape)
        step = self._constant(np.float32([self._grid(decoder).scale]))
        self.values[decoder.outputs[0]] = self._operator("MUL", [value, step], value.shape, None, "MulOptions")
        self.done.add(decoder.name)

    def _write_decoding(self, node: Node) -> None:
        value, grid = self.values[node.inputs[0]], self._grid(node)
        if value.grid is None or (value.grid.scale, value.grid.zero) != (grid.scale, grid.zero):
            raise UnsupportedModelError(
                f"codes read in other steps than they were made in ({node.name}) are not written to .tflite files"
            )
        self._write_same(node)

    def _write_same(self, node: Node) -> None:
        self.values[node.outputs[0]] = self.values[node.inputs[0]]

    def _write_layer(self, node: Node) -> None:
        """A convolution or linear layer, in integers where its input and output are codes."""
        output, source = node.outputs[0], self.values[node.inputs[0]]
        is_conv, bias_name = node.kind == "Conv", node.inputs[2] if len(node.inputs) > 2 else ""
        behind = self._only_consumer(output) if node.kind == "MatMul" else None
        if behind is not None and behind.kind == "Add" and behind.inputs[1] in self.constants:
            bias_name, output = behind.inputs[1], behind.outputs[0]
            self.done.add(behind.name)
        rounded = self._rounded(output) if source.grid is not None else None
        if node.inputs[1] not in self.constants or self.constants[node.inputs[1]].ndim != (4 if is_conv else 2):
            raise UnsupportedModelError(
                f"weights that are computed, or of three dimensions ({node.name}), are not written"
            )
        weight, turned = self.constants[node.inputs[1]], node.kind == "MatMul" or not node.attributes.get("transB", 0)
        weight = weight.T if not is_conv and turned else weight
        bias = self.constants[bias_name].reshape(-1) if bias_name else np.zeros(len(weight), np.float32)
        depthwise = is_conv and node.attributes.get("group", 1) > 1 and weight.shape[1] == 1
        scale, packed = None, False
        if rounded is not None and source.grid is not None:
            coder = self.producers[node.inputs[1]]
            cast = self.producers.get(coder.inputs[0])
            packed = cast is not None and self.graph.types.get(cast.inputs[0]) == "INT4"
            scale = np.broadcast_to(self.constants[coder.inputs[1]].astype(np.float32), (len(weight),))
            weight = np.round(weight / scale.reshape((-1,) + (1,) * (weight.ndim - 1))).astype(np.int8)
            bias_scale = np.float32(source.grid.scale) * scale
            bias = np.round(bias.astype(np.float64) / bias_scale).astype(np.int32)
        if is_conv:
            weight = weight.transpose((1, 2, 3, 0) if depthwise else _FIRST_TO_LAST)
        scales = [None, None]
        if scale is not None:
            zeros = np.zeros(len(scale), np.int64)
            scales = [(scale, zeros, 3 if depthwise else 0), (bias_scale, zeros, 0)]
        else:
            source, weight = self._as_float(node.inputs[0]), weight.astype(np.float32)
        options: dict[str, Any] = {"keepNumDims": len(source.shape) > 2}
        code, name = ("FULLY_CONNECTED", "FullyConnectedOptions")
        if is_conv:
            code, name = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
            source, options = self._window(node, source, weight.shape[1:3])
            height, width = node.attributes.get("dilations") or (1, 1)
            options |= {"dilationHFactor": height, "dilationWFactor": width}
            options |= {"depthMultiplier": weight.shape[3] // source.shape[3]} if depthwise else {}
        inputs = [source, self._constant(weight, scales[0], packed), self._constant(bias, scales[1])]
        if rounded is not None:
            self._activated(rounded, code, inputs, name, **options)
        else:
            self.values[output] = self._operator(code, inputs, self._shape(output), None, name, **options)

    def _window(self, node: Node, source: _Value, kernel: Sequence[int], lowest: bool = False) -> tuple[_Value, Any]:
        """Returns what a window moves over, padded by an operator of its own where the file has no other way."""
        a = node.attributes
        strides, dilations = a.get("strides") or (1, 1), a.get("dilations") or (1, 1)
        pads = a.get("pads") or (0, 0, 0, 0)
        sizes = source.shape[1:3]
        totals = [
            max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)
        ]
        same = [total // 2 for total in totals] + [total - total // 2 for total in totals]
        is_same = a.get("auto_pad") == "SAME_UPPER" or list(pads) == same
        if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", "SAME_UPPER"):
            raise UnsupportedModelError(f"padding {a['auto_pad']!r} ({node.name}) is not written to .tflite files")
        if not is_same and any(pads):
            around = [(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)]
            source = self._padded(source, around, lowest)
        padding = getattr(self.tflite.Padding, "SAME" if is_same and any(same) else "VALID")
        return source, {"padding": padding, "strideH": strides[0], "strideW": strides[1]}

    def _padded(self, source: _Value, around: Sequence[tuple[int, int]], lowest: bool = False) -> _Value:
        amounts = [source, self._constant(np.array(around, np.int32))]
        shape = [size + sum(pair) for size, pair in zip(source.shape, around, strict=True)]
        if not lowest:
            return self._operator("PAD", amounts, shape, source.grid, "PadOptions")
        if source.grid is None:
            value = self._constant(np.float32([np.finfo(np.float32).min]))
        else:
            value = self._constant(np.int8([-128]), (np.float32([source.grid.scale]), np.array([source.grid.zero]), 0))
        return self._operator("PADV2", [*amounts, value], shape, source.grid, "PadV2Options")

    def _write_pool(self, node: Node) -> None:
        is_max, source = node.kind == "MaxPool", self.values[node.inputs[0]]
        pads, kernel = any(node.attributes.get("pads", ())), node.attributes["kernel_shape"]
        if node.attributes.get("ceil_mode") or (not is_max and pads) or max(node.attributes.get("dilations", [1])) > 1:
            raise UnsupportedModelError(f"{node.kind} ({node.name}) is not written to .tflite files with its options")
        output, grid = node.outputs[0], source.grid if is_max else None
        source = source if is_max else self._as_float(node.inputs[0])
        source, options = self._window(node, source, kernel, lowest=True)
        options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
        code = "MAX_POOL_2D" if is_max else "AVERAGE_POOL_2D"
        self.values[output] = self._operator(code, [source], self._shape(output), grid, "Pool2DOptions", **options)

    def _write_mean(self, node: Node) -> None:
        output, source = node.outputs[0], self.values[node.inputs[0]]
        axes = [2, 3] if node.kind == "GlobalAveragePool" else self._axes(node)
        keeps = bool(node.attributes.get("keepdims", 1))
        of_rank_4 = len(source.shape) == 4
        if of_rank_4 and not keeps and axes != [2, 3]:
            raise UnsupportedModelError(f"means over {axes} ({node.name}) are not written to .tflite files")
        axes = [_FIRST_TO_LAST.index(axis) for axis in axes] if of_rank_4 else axes
        rounded = self._rounded(output) if source.grid is not None else None
        source = source if rounded is not None else self._as_float(node.inputs[0])
        inputs = [source, self._constant(np.array(sorted(axes), np.int32))]
        name, grid = (output, None) if rounded is None else rounded
        value = self._operator("MEAN", inputs, self._shape(name), grid, "ReducerOptions", keepDims=keeps)
        self.values[name] = self._above(value) if grid is not None and grid.first > -127 else value

    def _axes(self, node: Node) -> list[int]:
        given = self.constants[node.inputs[1]] if len(node.inputs) > 1 else np.array(node.attributes["axes"])
        rank = len(self.shapes[node.inputs[0]])
        return sorted(int(axis) % rank for axis in given.reshape(-1))

    def _write_elementwise(self, node: Node) -> None:
        code, output = _ELEMENTWISE[node.kind], node.outputs[0]
        in_codes = all(name in self.values and self.values[name].grid is not None for name in node.inputs)
        rounded = self._rounded(output) if in_codes and node.kind != "Div" else None
        options = f"{code.capitalize()}Options"
        if rounded is not None:
            self._activated(rounded, code, [self.values[name] for name in node.inputs], options)
        else:
            inputs = [self._as_float(name, len(self.shapes[output])) for name in node.inputs]
            self.values[output] = self._operator(code, inputs, self._shape(output), None, options)

    def _write_batch_norm(self, node: Node) -> None:
        gamma, beta, mean, variance = (self.constants[name].astype(np.float64) for name in node.inputs[1:5])
        factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        value = self._as_float(node.inputs[0])
        for code, array in (("MUL", factor), ("ADD", beta - mean * factor)):
            inputs = [value, self._constant(array.astype(np.float32))]  # channels are last
            value = self._operator(code, inputs, value.shape, None, f"{code.capitalize()}Options")
        self.values[node.outputs[0]] = value

    def _write_one(self, node: Node) -> None:
        output = node.outputs[0]
        self.values[output] = self._operator(_OF_ONE[node.kind], [self._as_float(node.inputs[0])], self._shape(output))

    def _write_clip(self, node: Node) -> None:
        ends = [float(self.constants[name]) if name else None for name in node.inputs[1:]]
        self.values[node.outputs[0]] = self._clipped(self._as_float(node.inputs[0]), *ends)

    def _clipped(self, value: _Value, low: float | None = None, high: float | None = None) -> _Value:
        for code, end in (("MAXIMUM", low), ("MINIMUM", high)):
            if end is not None:
                value = self._operator(
                    code, [value, self._constant(np.float32([end]))], value.shape, None, "MaximumMinimumOptions"
                )
        return value

    def _write_concat(self, node: Node) -> None:
        output = node.outputs[0]
        rank, axis = len(self.shapes[output]), node.attributes["axis"]
        axis = _FIRST_TO_LAST.index(axis % 4) if rank == 4 else axis % rank
        inputs = [self._as_float(name, rank) for name in node.inputs]
        self.values[output] = self._operator(
            "CONCATENATION", inputs, self._shape(output), None, "ConcatenationOptions", axis=axis
        )

    def _write_reshape(self, node: Node) -> None:
        value, output = self.values[node.inputs[0]], node.outputs[0]
        sizes = self.shapes[output]
        if len(value.shape) == 4 and value.shape[3] > 1 and math.prod(value.shape[1:3]) > 1:
            value = self._transposed(value, _LAST_TO_FIRST)
        value = self._operator(
            "RESHAPE", [value, self._constant(np.array(sizes, np.int32))], sizes, value.grid, "ReshapeOptions",
            newShape=list(sizes),
        )  # fmt: skip
        self.values[output] = self._transposed(value, _FIRST_TO_LAST) if len(sizes) == 4 else value

    def _write_transpose(self, node: Node) -> None:
        value, perm = self.values[node.inputs[0]], node.attributes["perm"]
        if len(perm) == 4:
            perm = [_FIRST_TO_LAST.index(perm[axis]) for axis in _FIRST_TO_LAST]
        self.values[node.outputs[0]] = self._transposed(value, perm)

    def _transposed(self, value: _Value, perm: Sequence[int]) -> _Value:
        inputs = [value, self._constant(np.array(perm, np.int32))]
        shape = [value.shape[axis] for axis in perm]
        return self._operator("TRANSPOSE", inputs, shape, value.grid, "TransposeOptions")

    def _write_slice(self, node: Node) -> None:
        value, rank = self.values[node.inputs[0]], len(self.shapes[node.inputs[0]])
        starts, ends, *more = (self.constants[name].reshape(-1).tolist() for name in node.inputs[1:] if name)
        axes, steps = more[0] if more else range(len(starts)), more[1] if len(more) > 1 else [1] * len(starts)
        begin, end, stride = [0] * rank, list(value.shape), [1] * rank
        for i, axis in enumerate(axes):
            place = _FIRST_TO_LAST.index(axis % 4) if rank == 4 else axis % rank
            begin[place], end[place], stride[place] = slice(starts[i], ends[i], steps[i]).indices(value.shape[place])
        if min(stride) < 1:
            raise UnsupportedModelError(f"steps backwards ({node.name}) are not written to .tflite files")
        parts = [self._constant(np.array(each, np.int32)) for each in (begin, end, stride)]
        self.values[node.outputs[0]] = self._operator(
            "STRIDED_SLICE", [value, *parts], self._shape(node.outputs[0]), value.grid, "StridedSliceOptions"
        )

    def _write_pad(self, node: Node) -> None:
        value, amounts = self.values[node.inputs[0]], self.constants[node.inputs[1]].reshape(2, -1).T.tolist()
        given = self.constants[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(())
        zero = 0 if value.grid is None else value.grid.zero + 128
        if node.attributes.get("mode", "constant") != "constant" or given.item() != zero or len(node.inputs) > 3:
            raise UnsupportedModelError(f"padding but by 0 ({node.name}) is not written to .tflite files")
        amounts = [amounts[axis] for axis in _FIRST_TO_LAST] if len(amounts) == 4 else amounts
        self.values[node.outputs[0]] = self._padded(value, amounts)


_WRITTEN_BY = {
    "QuantizeLinear": "rounding", "DequantizeLinear": "decoding", "Identity": "same", "Conv": "layer", "Gemm": "layer",
    "MatMul": "layer", "MaxPool": "pool", "AveragePool": "pool", "GlobalAveragePool": "mean", "ReduceMean": "mean",
    "Reshape": "reshape", "Flatten": "reshape", "Squeeze": "reshape", "Unsqueeze": "reshape", "Transpose": "transpose",
    "Slice": "slice", "Pad": "pad", "Clip": "clip", "Concat": "concat",
    "BatchNormalization": "batch_norm", **dict.fromkeys(_ELEMENTWISE, "elementwise"),
    **dict.fromkeys(_OF_ONE, "one"),
}  # fmt: skip
