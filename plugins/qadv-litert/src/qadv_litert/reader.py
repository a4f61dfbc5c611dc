"""What a `.tflite` file says, as a graph of ONNX's operators, of which qadv makes twins; nothing is executed."""

import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.errors import FileFormatError, InvalidInputError, UnsupportedModelError, some
from qadv.files import check_is_file, parse_json
from qadv.frontends import CLIP_VALUES, LARGEST_FILE, PICTURES, Graph, Node, check_graph, needed
from qadv_litert.operators import OPERATORS
from qadv_litert.schema import DTYPES, LARGEST_VALUE, names, schema

_CODES = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-(2**15), 2**15 - 1)}
_INPUTS = {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE"}


def read_graph(path: str | os.PathLike[str], output: str | None = None) -> Graph:
    """Reads and checks a file.

    Args:
        path: the file.
        output: which output is the logits, where there are several.

    Raises:
        MissingRequirementError: LiteRT is not installed.
        StorageError: there is no such file.
        FileFormatError: it is truncated, too large, or has scales that are none.
        UnsupportedModelError: it has operators of its own, or takes something else than images.
        InvalidInputError: `output` is missing or is none of its outputs.
    """
    name = os.fspath(path)
    check_is_file(path)
    if (size := os.path.getsize(path)) > LARGEST_FILE:
        raise FileFormatError(f"{name} has {size:,} bytes; a .tflite file has at most {LARGEST_FILE:,}")
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise FileFormatError(f"{name} is no .tflite file: its identifier is {content[4:8]!r}, not b'TFL3'")
    return _Reader(schema().ModelT.InitFromPackedBuf(content, 0), content, name).graph(output)


class _Reader:
    """Writes a graph: values are real numbers; where the file has codes, they are rounded to these."""

    def __init__(self, model: Any, content: bytes, name: str) -> None:
        self.model, self.content, self.name = model, content, name
        self.main = model.subgraphs[0]
        self.tensors, self.outputs = self.main.tensors, list(self.main.outputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.types: dict[str, str] = {}
        self.values: dict[int, str] = {}  # names of the tensors' real numbers
        self.label, self.labels = "", {""}  # of the layer that is read; what nodes are called, each by itself
        for i, tensor in enumerate(self.tensors):
            sizes = self.shape(i)
            if any(size < 0 for size in sizes) or prod(sizes) > LARGEST_VALUE:
                raise FileFormatError(
                    f"{name} has a tensor of sizes {sizes} ({_text(tensor.name)!r}), too large to run"
                )

    def graph(self, output: str | None) -> Graph:
        kinds = [self._kind(operator) for operator in self.main.operators]
        if not kinds:
            raise FileFormatError(f"{self.name} is not a whole .tflite file: there is no operator in it")
        given = [_text(self.tensors[i].name) for i in self.main.inputs]
        if len(given) != 1:
            raise UnsupportedModelError(
                f"{self.name} takes {len(given)} inputs ({some(given)}); expected one, the images"
            )
        ends = [_text(self.tensors[i].name) for i in self.outputs]
        if output is None and len(ends) != 1:
            raise InvalidInputError(
                f"{self.name} has several outputs; say which are the logits, output=, of {', '.join(ends)}"
            )
        if output is not None and output not in ends:
            raise InvalidInputError(f"output: {self.name} has {', '.join(ends)}, got {output!r}")
        images, last = self.main.inputs[0], self.outputs[0 if output is None else ends.index(output)]
        shape, kind = self.shape(images), self.type(images)
        if len(shape) < 2:
            raise UnsupportedModelError(f"{self.name}: its input {given[0]!r} has no batch of images as its shape")
        self.values[images] = self._input(images)
        for index, (operator, word) in enumerate(zip(self.main.operators, kinds, strict=True)):
            self.label = _text(self.tensors[operator.outputs[0]].name).split(";")[0] or f"{word}_{index}"
            translate = OPERATORS.get(word)
            if translate is None:  # found out about by the twin, if the logits depend on it
                self._unknown(word, operator)
            else:
                translate(self, operator, operator.builtinOptions)
        grid, pictures = self.grid(images), self._pictures()
        ends_of_codes = None
        if kind in _CODES and grid is not None and CLIP_VALUES not in pictures:
            ends_of_codes = tuple(float((end - grid[1]) * grid[0]) for end in _CODES[kind])
        logits = self.real(last)
        if self.type(last) in _CODES and self.grid(last) is not None:
            logits = f"tensor {last} codes"
        graph = Graph(
            self.name, self.content, self._source(), needed(self.nodes, logits), self.constants, self.types, "images",
            _INPUTS.get(kind, kind), tuple(shape), logits, 18, ends_of_codes, self._form(kinds), pictures,
        )  # fmt: skip
        check_graph(graph)
        return graph

    # what the file says

    def _kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        word = names("BuiltinOperator").get(max(code.deprecatedBuiltinCode, code.builtinCode), "an unknown operator")
        if word == "CUSTOM":
            raise UnsupportedModelError(
                f"{self.name} has an operator of its own, {_text(code.customCode)}, which would run somebody's code; "
                "only LiteRT's operators are taken"
            )
        return word

    def _source(self) -> str:
        return f"{_text(self.model.description) or 'an unnamed producer'}, schema {self.model.version}"

    def _pictures(self) -> dict[str, Any]:
        """Returns what the file notes of its images."""
        for noted in self.model.metadata or ():
            if _text(noted.name) == PICTURES:
                data = self.model.buffers[noted.buffer].data
                return dict(parse_json(bytes(data).decode(), self.name))
        return {}

    def _form(self, kinds: list[str]) -> str:
        weighted = [
            operator
            for operator, kind in zip(self.main.operators, kinds, strict=True)
            if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        ]
        pairs = {(self.type(op.inputs[0]), self.grid(op.inputs[1]) is not None) for op in weighted}
        if ("FLOAT32", True) in pairs:
            return "dynamic range: weights in codes, inputs rounded as they come"
        integer = [kind for kind, quantized in pairs if quantized]
        stored = any(
            kind == "DEQUANTIZE" and self.is_constant(operator.inputs[0])
            for operator, kind in zip(self.main.operators, kinds, strict=True)
        )
        if not integer:
            return "weights of fewer bits, computed in floats" if stored else "not quantized at all"
        return f"{' and '.join(sorted(integer)).lower()} kernels" + (", some layers float" if len(pairs) > 1 else "")

    def type(self, i: int) -> str:
        return names("TensorType")[self.tensors[i].type]

    def shape(self, i: int) -> list[int]:
        shape = self.tensors[i].shape
        return [] if shape is None else [int(size) for size in shape]

    def grid(self, i: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Returns scale and zero point of a tensor's codes, one or one for each filter; `None` for what has none."""
        found = self.tensors[i].quantization
        if found is None or found.scale is None or not len(found.scale) or self.type(i) == "FLOAT32":
            return None
        scale = np.asarray(found.scale, np.float32)
        zero = np.zeros(len(scale), np.int64) if found.zeroPoint is None else np.asarray(found.zeroPoint)
        return (scale[0], zero[0]) if len(scale) == 1 else (scale, zero)

    def is_constant(self, i: int) -> bool:
        buffer = self.tensors[i].buffer
        return buffer != 0 and self.model.buffers[buffer].data is not None

    def array(self, i: int) -> NDArray[Any]:
        """Returns a constant as it is in the file, four-bit codes one in a byte."""
        kind, shape = self.type(i), self.shape(i)
        if self.tensors[i].sparsity is not None:
            raise UnsupportedModelError(f"{self.name} has sparse weights ({self.label}), which can't be read")
        if not self.is_constant(i):
            raise UnsupportedModelError(f"{self.name}: {self.label} has sizes or weights that are computed")
        data = np.asarray(self.model.buffers[self.tensors[i].buffer].data, np.uint8)
        if kind == "INT4":
            both = np.stack([data << 4, data & 0xF0], -1).reshape(-1).view(np.int8) >> 4
            return both[: prod(shape)].reshape(shape)
        if kind not in DTYPES:
            raise UnsupportedModelError(f"{self.name} has constants of type {kind} ({self.label}), which can't be read")
        return data.view(np.dtype(DTYPES[kind])).reshape(shape)

    def numbers(self, i: int) -> list[int]:
        """Returns a constant of whole numbers, as axes are."""
        return [int(each) for each in self.array(i).reshape(-1)]

    # what becomes of it

    def _unknown(self, word: str, operator: Any) -> None:
        given = tuple(self.values[i] for i in operator.inputs if i in self.values)
        found = tuple(f"unread {i}" for i in operator.outputs)
        self.nodes.append(Node(word, self.label, given, found, {}))
        for i, name in zip(operator.outputs, found, strict=True):
            self.rounded(i, name)

    def _input(self, i: int) -> str:
        grid = self.grid(i)
        return "images" if grid is None or self.type(i) not in _CODES else self._from_codes("images", i, grid)

    def constant(self, value: Any, kind: str = "") -> str:
        name = f"constant {len(self.constants)}"
        self.constants[name] = np.asarray(value)
        if kind:
            self.types[name] = kind
        return name

    def _scales(self, i: int, grid: tuple[NDArray[Any], NDArray[Any]]) -> list[str]:
        kind = self.type(i)
        dtype = np.int8 if kind == "INT4" else DTYPES[kind]
        return [self.constant(grid[0]), self.constant(grid[1].astype(dtype), kind)]

    def _from_codes(self, codes: str, i: int, grid: tuple[NDArray[Any], NDArray[Any]]) -> str:
        axis = self.tensors[i].quantization.quantizedDimension
        return self.node("DequantizeLinear", codes, *self._scales(i, grid), output=f"tensor {i}", axis=axis)

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds an operator; returns the name of what it gives."""
        output, label = output or f"value {len(self.nodes)}", self.label
        if label in self.labels or kind not in ("Conv", "Gemm", "MatMul"):
            label += f" {kind} {len(self.nodes)}"
        self.labels.add(label)
        self.nodes.append(Node(kind, label, inputs, (output,), attributes))
        return output

    def real(self, i: int) -> str:
        """Returns the name of a tensor's real numbers."""
        if i not in self.values:
            array, grid = self.array(i), self.grid(i)
            kind = self.type(i)
            if grid is None:
                self.values[i] = self.constant(array.astype(np.float32) if kind == "FLOAT16" else array)
            else:
                self.values[i] = self._from_codes(self.constant(array, kind), i, grid)
        return self.values[i]

    def done(self, operator: Any, name: str, activation: int = 0, moved: bool = False) -> None:
        """Says which values an operator gives: activated, and rounded where its tensor has codes.

        Args:
            operator: the file's.
            name: of its values.
            activation: what is fused behind it.
            moved: whether values are those of its first input, so that there is nothing to round.
        """
        word = names("ActivationFunctionType")[activation]
        if word in _FUSED:
            name = _FUSED[word](self, name)
        elif word != "NONE":
            name = self.node(f"fused {word}", name)
        (i,) = operator.outputs
        if moved and i not in self.outputs and self._same_grid(operator):
            self.values[i] = name
        else:
            self.rounded(i, name)

    def rounded(self, i: int, name: str) -> None:
        """Says which values a tensor has: rounded, where it has codes."""
        grid = self.grid(i)
        if grid is None or self.type(i) not in _CODES:
            self.values[i] = name
            return
        codes = self.node("QuantizeLinear", name, *self._scales(i, grid), output=f"tensor {i} codes")
        self.values[i] = self._from_codes(codes, i, grid)

    def _same_grid(self, operator: Any) -> bool:
        one, other = self.grid(operator.inputs[0]), self.grid(operator.outputs[0])
        return one is not None and other is not None and bool(np.all(one[0] == other[0]) and np.all(one[1] == other[1]))


_FUSED: dict[str, Callable[[Any, str], str]] = {
    "RELU": lambda reader, x: reader.node("Relu", x),
    "RELU6": lambda reader, x: reader.node("Clip", x, reader.constant(np.float32(0)), reader.constant(np.float32(6))),
    "RELU_N1_TO_1": lambda reader, x: reader.node(
        "Clip", x, reader.constant(np.float32(-1)), reader.constant(np.float32(1))
    ),
    "TANH": lambda reader, x: reader.node("Tanh", x),
}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
