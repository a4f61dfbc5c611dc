"""What is quantized in an ONNX graph, layer by layer."""

import math
from typing import Any

import torch

from qadv.frontends.onnx.graph import Graph, Node
from qadv.frontends.onnx.quantized import RANGES, TYPE_OF_ZERO_POINT
from qadv.frontends.onnx.twin import Twin
from qadv.frontends.summary import LayerSummary

_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
            "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # fmt: skip
_KEEPING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Relu", "Cast", "Clip", "Pad")
_BITS = {name: round(math.log2(high - low + 1)) for name, (low, high) in RANGES.items()}


def layers_of(graph: Graph, twin: Twin) -> tuple[LayerSummary, ...]:
    """Returns a row for each convolution and linear layer whose weights are in the file."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    rows = [_row(node, graph, twin.values, producers) for node in graph.nodes if node.kind in _WEIGHTS]
    found = [row for row in rows if row is not None]
    total = sum(row["parameters"] for row in found) or 1
    return tuple(LayerSummary(**row, share=row["parameters"] / total) for row in found)


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


def _row(
    node: Node, graph: Graph, values: dict[str, torch.Tensor], producers: dict[str, Node]
) -> dict[str, Any] | None:
    index = _WEIGHTS[node.kind]
    name = node.inputs[index]
    if name not in values:
        return None  # a product of activations
    weight, scale, kind = values[name], None, graph.types.get(name, "FLOAT")
    if node.kind.startswith("Q"):
        scale = values[node.inputs[index + 1]]
    while (source := producers.get(name)) is not None and source.inputs[0] in values:
        name = source.inputs[0]
        if source.kind == "DequantizeLinear":
            weight, scale = values[name], values[source.inputs[1]]
        kind = graph.types.get(name, kind)
    quantized, count = kind in _BITS, weight.numel()
    bits = _BITS[kind] if quantized else 32
    scales = 0 if scale is None else scale.numel()
    scheme = f"{kind.lower()}{' per channel' if scales > 1 else ''}" if quantized else "float"
    levels = (len(torch.unique(weight)), 2**bits) if quantized else None
    ends = (float(scale.min()), float(scale.max())) if scale is not None and quantized else None
    return {
        "name": node.name, "kind": node.kind, "scheme": scheme, "bits": bits, "levels": levels, "scale": ends,
        "input_scheme": _input_scheme(node.inputs[0], graph, values, producers), "parameters": count,
        "packed_bytes": count * bits // 8 + 4 * scales * quantized, "float_bytes": 4 * count,
    }  # fmt: skip


def _input_scheme(name: str, graph: Graph, values: dict[str, torch.Tensor], producers: dict[str, Node]) -> str:
    ends: list[float | None] = [None, None]
    while (node := producers.get(name)) is not None and node.kind in ("DequantizeLinear", *_KEEPING):
        if node.kind == "Clip":
            ends = [values[end].item() if end in values else None for end in (*node.inputs[1:], "", "")[:2]]
        name = node.inputs[0]
    if node is None:
        return "float" if graph.input_type == "FLOAT" else graph.input_type.lower()
    if node.kind == "DynamicQuantizeLinear":
        return "uint8, dynamic"
    index = TYPE_OF_ZERO_POINT.get(node.kind)
    if index is None:
        return "float"
    kind = graph.types.get(node.inputs[index], "UINT8") if index < len(node.inputs) else "UINT8"
    low, high = RANGES.get(kind, (0, 0))
    least, most = low if ends[0] is None else ends[0], high if ends[1] is None else ends[1]
    return kind.lower() if most - least == high - low else f"{kind.lower()}, {most - least + 1:.0f} levels"
