"""What an ONNX file says, read without executing anything; files that would do more than compute are refused."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.errors import FileFormatError, InvalidInputError, MissingRequirementError, UnsupportedModelError, some
from qadv.files import check_is_file, parse_json
from qadv.frontends.onnx.sequences import without_sequences

PICTURES = "qadv.pictures"  # the key of what a file notes of its images, as JSON
CLIP_VALUES = "clip_values"  # and therein of the smallest and the largest pixel
BY_PIXEL = "others for each pixel"
INTEGERS = {"UINT8": (0, 255), "INT8": (-128, 127), "INT16": (-(2**15), 2**15 - 1)}  # of images
MOVERS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")  # what leaves numbers as they are
LARGEST_FILE = 2**31 - 1  # what one protobuf message can hold
_LARGEST_VALUE = 2**28  # numbers in one tensor for one image
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_SCALES = {  # which inputs are scales
    "QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7), "QLinearAdd": (1, 4, 6), "QLinearMul": (1, 4, 6), "QLinearGlobalAveragePool": (1, 3),
    "QLinearAveragePool": (1, 3), "QLinearSigmoid": (1, 3), "QLinearLeakyRelu": (1, 3), "QLinearSoftmax": (1, 3),
}  # fmt: skip


def import_onnx() -> Any:
    """Returns the module, or raises `MissingRequirementError`."""
    try:
        import onnx
    except ImportError as error:
        raise MissingRequirementError("reading ONNX files needs onnx: pip install 'qadv[onnx]'") from error
    return onnx


@dataclass
class Node:
    """One operator of a graph."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """A graph with one input and one output.

    Attributes:
        name: the file's path, for messages.
        content: the file as the runtime takes it, what it kept in other files included.
        source: who wrote it, and the operators' version.
        nodes: operators in the order in which they are computed.
        constants: arrays by name; int4 and uint4 as int8 and uint8.
        types: the element type of constants, as ONNX names it, e.g. `"INT4"`.
        input: name of the images.
        input_type: their element type.
        input_shape: their sizes, the batch first; `None` where the file leaves it open.
        output: name of the logits.
        output_type: their element type, where the file says it.
        opset: version of the standard operators.
        input_ends: the numbers that the smallest and the largest integer of the images stand for, where the file says,
            and notes no `clip_values`.
        form: how it is quantized, in words, where the operators do not say.
        pictures: how photographs are made its images, and the ends of its pixels, `clip_values`: what `export` notes.
    """

    name: str
    content: bytes = field(repr=False)
    source: str
    nodes: list[Node]
    constants: dict[str, NDArray[Any]]
    types: dict[str, str]
    input: str
    input_type: str
    input_shape: tuple[int | None, ...]
    output: str
    opset: int
    input_ends: tuple[float, float] | None = None
    form: str = ""
    pictures: dict[str, Any] = field(default_factory=dict)
    output_type: str = ""


def read_graph(path: str | os.PathLike[str], output: str | None = None) -> Graph:
    """Reads and checks a file; tensors that it keeps in other files have to lie in its folder.

    Where there are several outputs, `output` says which is the logits.

    Raises:
        MissingRequirementError: onnx is not installed.
        StorageError: there is no such file.
        FileFormatError: it is truncated, too large, keeps data outside its folder, or has scales that are none.
        UnsupportedModelError: it has operators of its own, or takes something else than images.
    """
    onnx, name = import_onnx(), os.fspath(path)
    check_is_file(path)
    if (size := os.path.getsize(path)) > LARGEST_FILE:
        raise FileFormatError(f"{name} has {size:,} bytes; an ONNX file has at most {LARGEST_FILE:,}")
    content = Path(path).read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise FileFormatError(f"{name} is not a whole ONNX file ({size:,} bytes): {error}") from error
    if not model.graph.node:
        raise FileFormatError(f"{name} is not a whole ONNX file ({size:,} bytes): there is no graph in it")
    texts = (each for n in _all_nodes(model) for each in (n.op_type, n.domain, n.name, *n.input, *n.output))
    if any(isinstance(each, bytes) for each in texts):  # what protobuf makes of text that is no UTF-8
        raise FileFormatError(f"{name} is not a whole ONNX file ({size:,} bytes): names in it are no text")
    local = {function.domain for function in model.functions}
    foreign = {f"{node.domain}.{node.op_type}" for node in _all_nodes(model) if node.domain not in {*_DOMAINS, *local}}
    if foreign:
        raise UnsupportedModelError(
            f"{name} has operators of its own, {some(sorted(foreign))}, which would run somebody's code; only ONNX's "
            "and onnxruntime's operators are taken"
        )
    if _load_external(onnx, model, Path(path)):
        content = model.SerializeToString()
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = graph_of(model, content, output, name)
    check_graph(graph)
    return graph


def _all_nodes(model: Any) -> Iterator[Any]:
    def within(nodes: Any) -> Iterator[Any]:
        for node in nodes:
            yield node
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    yield from within(graph.node)

    yield from within(model.graph.node)
    for function in model.functions:
        yield from within(function.node)


def _load_external(onnx: Any, model: Any, path: Path) -> bool:
    """Reads what the file keeps in other files of its folder; returns whether there was any."""
    held = [a.t for node in _all_nodes(model) for a in node.attribute if a.HasField("t")]
    subgraphs = [g for node in _all_nodes(model) for a in node.attribute for g in (a.g, *a.graphs)]
    held += [tensor for graph in (model.graph, *subgraphs) for tensor in graph.initializer]
    outside = [tensor for tensor in held if tensor.data_location == onnx.TensorProto.EXTERNAL]
    folder, total = path.parent.resolve(), path.stat().st_size
    for tensor in outside:
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        where = (folder / location).resolve()
        if not location or not where.is_relative_to(folder) or not where.is_file():
            raise FileFormatError(
                f"{path} keeps {tensor.name!r} in {location!r}, which is no file in its own folder; such files are "
                "not read"
            )
        total += prod(tensor.dims)
    if total > LARGEST_FILE:
        raise FileFormatError(f"{path} has, with the files beside it, more than {LARGEST_FILE:,} bytes")
    if outside:
        try:
            onnx.external_data_helper.load_external_data_for_model(model, os.fspath(folder))
        except Exception as error:
            raise FileFormatError(f"{path}: its data can't be read from the files beside it: {error}") from error
    return bool(outside)


def graph_of(model: Any, content: bytes, output: str | None, name: str) -> Graph:
    """Returns the graph of a model that is in memory; `read_graph` checks more."""
    onnx, graph = import_onnx(), model.graph
    type_name = onnx.TensorProto.DataType.Name
    constants = {tensor.name: _array(onnx, tensor) for tensor in graph.initializer}
    types = {tensor.name: type_name(tensor.data_type) for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) != 1:
        names = some(each.name for each in inputs)
        raise UnsupportedModelError(f"{name} takes {len(inputs)} inputs ({names}); expected one, the images")
    found = [each.name for each in graph.output]
    if output is None and len(found) != 1:
        raise InvalidInputError(f"{name} has several outputs; say which are the logits, output=, of {', '.join(found)}")
    if output is not None and output not in found:
        raise InvalidInputError(f"output: {name} has {', '.join(found)}, got {output!r}")
    for value in (*graph.value_info, *graph.output):
        sizes = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        if prod(sizes) > _LARGEST_VALUE:
            raise FileFormatError(f"{name} would compute a tensor of sizes {sizes} ({value.name!r}), too large to run")
    nodes, counts = [], Counter(node.name for node in graph.node)
    for index, node in enumerate(graph.node):
        attributes = {each.name: _attribute(onnx, each) for each in node.attribute}
        if node.op_type == "Constant":
            tensor = node.attribute[0].t if "value" in attributes else None
            ((key, value),) = attributes.items()
            constants[node.output[0]] = np.asarray(value, np.float32 if key.startswith("value_float") else None)
            if tensor is not None:
                types[node.output[0]] = type_name(tensor.data_type)
            continue
        if node.op_type == "Identity" and node.input[0] in types:
            types[node.output[0]] = types[node.input[0]]
        label = node.name if counts[node.name] == 1 and node.name else f"{node.op_type}_{index}"
        nodes.append(Node(node.op_type, label, tuple(node.input), tuple(node.output), attributes))
    tensor = inputs[0].type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) < 2:
        raise UnsupportedModelError(f"{name}: its input {inputs[0].name!r} has no batch of images as its shape")
    versions = {each.domain: each.version for each in model.opset_import}
    source = f"{model.producer_name or 'an unnamed producer'} {model.producer_version}".strip()
    opset = versions.get("", versions.get("ai.onnx", 1))
    noted = {each.key: each.value for each in model.metadata_props}
    pictures = parse_json(noted.get(PICTURES, "{}"), name)
    images, kind = inputs[0].name, type_name(tensor.elem_type)
    nodes = needed(without_sequences(nodes, constants), output or found[0])
    return Graph(
        name, content, f"{source}, opset {opset}", nodes, constants, types, images, kind,
        tuple(dim.dim_value or None for dim in tensor.shape.dim), output or found[0], opset,
        None if CLIP_VALUES in pictures else _ends(images, kind, nodes, constants), pictures=pictures,
        output_type=type_name(graph.output[found.index(output or found[0])].type.tensor_type.elem_type),
    )  # fmt: skip


def needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """Returns the operators that an output comes of."""
    names, found = {output}, []
    for node in reversed(nodes):
        if names & set(node.outputs):
            found.append(node)
            names |= set(node.inputs)
    return found[::-1]


def _ends(
    images: str, kind: str, nodes: Sequence[Node], constants: Mapping[str, NDArray[Any]]
) -> tuple[float, float] | None:
    """Returns what numbers the smallest and the largest integer of the images are, where one scale says it."""
    if kind not in INTEGERS:
        return None
    names, grids, same = {images}, set[tuple[float, float] | None](), dict(constants)
    for node in nodes:
        if node.kind == "Identity" and node.inputs[0] in same:
            same[node.outputs[0]] = same[node.inputs[0]]
        if node.kind == "Shape" or not node.inputs or node.inputs[0] not in names:
            continue
        if node.kind in (*MOVERS, "MaxPool"):
            names.add(node.outputs[0])
            continue
        given = [same.get(name) for name in node.inputs[1:3] if name]
        numbers = [float(each.item()) for each in given if each is not None and each.size == 1]
        says = _SCALES.get(node.kind, (0,))[0] == 1 and len(numbers) == len(given)
        grids.add((numbers[0], sum(numbers[1:])) if says else None)
    if len(grids) != 1 or (grid := grids.pop()) is None:
        return None
    low, high = ((end - grid[1]) * grid[0] for end in INTEGERS[kind])
    return low, high


def _array(onnx: Any, tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind in ("INT4", "INT2"):
        return array.astype(np.int8)
    if kind in ("UINT4", "UINT2"):
        return array.astype(np.uint8)
    return array.astype(np.float32) if kind in ("FLOAT16", "BFLOAT16", "DOUBLE") else array


def _attribute(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _array(onnx, value).copy()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def check_graph(graph: Graph) -> None:
    """Refuses operators out of order, scales that are no positive numbers, and weights that are not finite."""
    known = {graph.input, "", *graph.constants}
    for node in graph.nodes:
        if missing := set(node.inputs) - known:
            takes = f"{node.name} takes {some(sorted(missing))}"
            raise FileFormatError(f"{graph.name} is damaged: {takes}, which nothing before gives")
        if again := set(node.outputs) & known - {""}:
            raise FileFormatError(f"{graph.name} is damaged: {node.name} gives {some(sorted(again))} once more")
        known.update(node.outputs)
    for node in graph.nodes:
        for index in _SCALES.get(node.kind, ()):
            scale = graph.constants.get(node.inputs[index]) if index < len(node.inputs) else None
            if scale is not None and not (scale.size and np.isfinite(scale).all() and (scale > 0).all()):
                raise FileFormatError(
                    f"{graph.name}: the scale {node.inputs[index]!r} of {node.name} should be positive numbers, and is "
                    f"{np.array2string(scale, threshold=4)}"
                )
    used = {each for node in graph.nodes if node.kind in _WEIGHTED for each in node.inputs}
    for each, array in graph.constants.items():
        if each in used and array.dtype == np.float32 and not np.isfinite(array).all():
            raise FileFormatError(f"{graph.name}: the weights {each!r} are not finite")


_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Add", "Mul")
