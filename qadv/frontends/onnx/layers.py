"""What is quantized in an ONNX graph, layer by layer."""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from qadv.frontends.fake_quantize import on_grid
from qadv.frontends.frontend import QuantizedTensor, QuantizedWeights
from qadv.frontends.onnx.graph import Graph, Node
from qadv.frontends.onnx.operators import Attributes
from qadv.frontends.onnx.quantized import RANGES, TYPE_OF_ZERO_POINT, to_values
from qadv.frontends.onnx.twin import OfCodes, Twin, type_of_codes

_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
            "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # fmt: skip
_KEEPING = ("DequantizeLinear", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity",
            "Relu", "Cast", "Clip", "Pad")  # fmt: skip
_BITS = {name: round(math.log2(high - low + 1)) for name, (low, high) in RANGES.items()}
_MOST_LEVELS = 2**16
_STORED = 16  # bits of weights; more are a product of others


class FileLayer(nn.Module):
    """The weights of a convolution or linear layer as a file has them; the twin computes it, and hands the result on.

    They are codes, or floats, which become a parameter, of an element type that ONNX names; `grid` is the codes' scale,
    and maybe zero point, as `to_values` takes them with the attributes `along`.

    Attributes:
        of_codes: how a twin computes with the codes, `None` where it does not.
    """

    of_codes: OfCodes | None = None

    def __init__(self, kind: str, weight: Tensor, type_: str, grid: list[Tensor], along: Attributes) -> None:
        super().__init__()
        self.kind, self.element, self.along = kind, type_, along
        if type_ in _BITS:
            for name, tensor in zip(("codes", "scale", "zero"), (weight, *grid), strict=False):
                self.register_buffer(name, tensor)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)

    def _get_name(self) -> str:
        return self.kind

    def forward(self, x: Tensor) -> Tensor:
        """What the twin's operator gives → the same."""
        return x

    def quantizers(self, name: str, twin: Twin) -> Iterator[QuantizedWeights]:
        """Yields what quantizes the weights, of a layer of that name, if they are codes."""
        if self.element not in _BITS:
            return
        codes, *grid = cast(list[Tensor], list(self._buffers.values()))
        scale, bits = (grid[0] if grid else None), _BITS[self.element]
        also: dict[str, Any] = {}
        if self.of_codes is not None and bits <= _STORED:
            place = cast(dict[str, Any], twin._buffers), self.of_codes.buffer
            low, high = RANGES[self.element]
            also = {"place": place, "made": self.of_codes, "code_values": torch.arange(low, high + 1)}
        each = " per block" if self.along.get("block_size") else " per channel"
        scheme = self.element.lower() + (each if scale is not None and scale.numel() > 1 else "")
        yield QuantizedWeights(
            layer=name, role="weights", scheme=scheme, bits=bits, scale=scale, estimator="none", origin="onnx",
            value=to_values(self.along, codes, *grid) if grid else codes.float(), codes=codes, nb_codes=2**bits,
            **also,
        )  # fmt: skip


class FileLayers(nn.Module):
    """The layers of a graph whose weights are in the file, by their operators' names.

    Attributes:
        roundings: layer, role, operator and element type of each rounding of activations; `""` for the layer's images.
    """

    def __init__(self, graph: Graph | None = None, twin: Twin | None = None) -> None:
        super().__init__()
        self.roundings: list[tuple[str, Any, str, str]] = []
        if graph is None or twin is None:
            return
        producers = {name: node for node in graph.nodes for name in node.outputs}
        names: dict[str, str] = {}
        for node in graph.nodes:
            if node.kind in _WEIGHTS and node.inputs[_WEIGHTS[node.kind]] in twin.values:
                name = node.name.replace(".", "_")
                while hasattr(self, name):
                    name += "_"
                names[node.name] = name
                twin.heard[node.name] = layer = _layer(node, graph, twin.values, producers)
                layer.of_codes = twin.of_codes(node, _WEIGHTS[node.kind], producers)
                self.add_module(name, layer)
                self._note_input(name, node.inputs[0], graph, producers)
        noted = {rounding[2] for rounding in self.roundings}
        for node in graph.nodes if names else ():
            if node.name in twin.grids.keys() - noted:  # of a sum, say, or of what a layer gives
                before: Node | None = node
                while before is not None and before.name not in names:
                    before = producers.get(before.inputs[0])
                at, role = (next(iter(self._modules)), "input") if before is None else (names[before.name], "output")
                self.roundings.insert(0, (at, role, node.name, _type_of(node, graph)))

    def _note_input(self, layer: str, name: str, graph: Graph, producers: dict[str, Node]) -> None:
        while (node := producers.get(name)) is not None and node.kind in _KEEPING:
            name = node.inputs[0]
        if node is not None and (node.kind in TYPE_OF_ZERO_POINT or node.kind == "DynamicQuantizeLinear"):
            self.roundings.append((layer, "input", node.name, _type_of(node, graph)))
        elif node is None and graph.input_type in _BITS:
            self.roundings.append((layer, "input", "", graph.input_type))

    def quantizers(self, twin: Twin) -> Iterator[QuantizedTensor]:
        """Yields all quantizers; those of activations can be replaced in the twin."""
        for name, layer in self._modules.items():
            yield from cast(FileLayer, layer).quantizers(name, twin)
        for name, role, operator, type_ in self.roundings:
            grid = twin.grids.get(operator)
            about: dict[str, Any] = {"layer": name, "role": role, "origin": "onnx"}
            count = 2 ** _BITS.get(type_, 8) if grid is None else round(grid.high - grid.low) + 1
            about |= {"bits": (count - 1).bit_length(), "scheme": type_.lower()}
            if count < 2 ** _BITS.get(type_, 8):
                about["scheme"] += f", {count} levels"
            if grid is None or count > _MOST_LEVELS:
                yield QuantizedTensor(scale=None, **about)
            else:
                yield on_grid(grid, about | {"estimator": "straight-through, clipped"})


def _layer(node: Node, graph: Graph, values: dict[str, Tensor], producers: dict[str, Node]) -> FileLayer:
    index = _WEIGHTS[node.kind]
    name = node.inputs[index]
    weight, type_, grid, along = values[name], graph.types.get(name, "FLOAT"), list[Tensor](), Attributes()
    if node.kind.startswith("Q"):
        grid = [values[each] for each in node.inputs[index + 1 : index + 3] if each]
        first = node.kind == "QLinearConv" or bool(node.attributes.get("transB"))
        along = {"axis": 0 if first else -1}
    while (source := producers.get(name)) is not None and source.inputs[0] in values:
        name = source.inputs[0]
        if source.kind == "DequantizeLinear":
            weight, grid = values[name], [values[each] for each in source.inputs[1:] if each]
            along = source.attributes
        type_ = graph.types.get(name, type_)
    return FileLayer(node.kind, weight, type_, grid, along)


def form_of(graph: Graph) -> str:
    """Returns in which form a file is quantized."""
    kinds = {node.kind for node in graph.nodes}
    if graph.form:
        return graph.form
    if kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}:
        return "dynamic quantization"
    if any(kind.startswith("QLinear") or kind == "QGemm" for kind in kinds):
        return "QOperator form"
    return "QDQ form" if "DequantizeLinear" in kinds else "not quantized at all"


def _type_of(node: Node, graph: Graph) -> str:
    """Returns the element type of the codes that an operator rounds to."""
    return type_of_codes(node, graph) or "UINT8, dynamic"
