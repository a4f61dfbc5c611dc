"""An ONNX graph in integers: convolutions, linear layers, sums and pools from codes to codes."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qadv.deployment.integer_parts import Array, Grid, Layer, Range
from qadv.deployment.value_ranges import drawn, measured
from qadv.errors import InvalidInputError
from qadv.frontends.onnx.graph import Graph, Node
from qadv.frontends.onnx.operators import whole_windows
from qadv.frontends.onnx.twin import Twin

AFFINE = ("Sub", "Div", "Mul", "Add")
_SAME = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Pad", "MaxPool", "Gather")
_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")


@dataclass(frozen=True)
class IntegerOptions:
    """How a graph of integers is written; others are as of `qadv.export`.

    Attributes:
        all_codes: linear layers give codes too, the logits included, for runtimes whose integer kernels give no floats.
        takes_bytes: images are uint8, 0 the smallest pixel and 255 the largest.
    """

    float_ends: bool = False
    packed_weights: bool = False
    reduce_range: bool = False
    all_codes: bool = False
    takes_bytes: bool = False


def integer_graph(
    graph: Graph, pixels: Range, images: Array | None = None, options: IntegerOptions = IntegerOptions()
) -> bytes:
    """Returns a graph in codes, in QCDQ form as `onnx_graph` writes it, as onnxruntime runs it in integer kernels.

    BatchNorms and biases are part of the layer before them; biases are whole multiples of input scale times weight
    scale. Weights keep their codes; float weights of the first and last layer, and those whose codes don't fit, become
    int8, one scale for each filter. Levels that are fewer than 256 are the last ones of uint8, where the kernels cut
    off by themselves, with a `Clip` of the codes below. What a kernel needs in codes and the network does not quantize
    (sums, pools, inputs of the first and last layer) gets 256 levels over its range: the part that matters, where that
    follows from the quantizer behind a sum, and what it is on `images`, as `graph` takes them, or on some drawn from a
    fixed seed. Pixels have 256 levels from the smallest to the largest, `pixels`; their standardisation is part of the
    first layer where that is the same, see `_Writer._folded_pixels`.

    Raises:
        UnsupportedModelError: the graph has operators that qadv can't read.
        InvalidInputError: bytes are asked for, and no pixel value is 0.
    """
    return _Writer(graph, pixels, images, options).written()


class _Writer:
    def __init__(self, graph: Graph, pixels: Range, images: Array | None, options: IntegerOptions) -> None:
        twin = Twin(graph, batched=False)
        self.graph, self.pixels, self.twin = graph, pixels, twin
        self.options = options
        self.values = {name: value.numpy() for name, value in twin.values.items()}
        needed, nodes = {graph.output}, []
        for node in reversed(graph.nodes):  # those that depend on the images, and the logits on them
            if needed & set(node.outputs) - self.values.keys():
                nodes.append(node)
                needed |= set(node.inputs)
        self.nodes = nodes[::-1]
        reading = [node for node in self.nodes if node.kind != "Shape"]  # which any form of a value has
        self.uses = Counter(name for node in reading for name in node.inputs) + Counter([graph.output])
        self.consumers = {name: node for node in reading for name in node.inputs}
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.real_images = images is not None
        self.images = images if images is not None else drawn(graph, pixels)
        self.measured: dict[str, Range] = {}
        self.codes: dict[str, tuple[str, Grid]] = {}
        self.done: set[str] = set()
        self.layers = {node.name: layer for node in self.nodes if (layer := self._layer(node)) is not None}
        names = list(self.layers)
        self.ends = {names[0], names[-1]} if names else set()
        self.written_nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def written(self) -> bytes:
        from onnx import TensorProto, helper

        self._write_pixels()
        for node in self.nodes:
            if node.name not in self.done:
                self._write(node)
        output = self.graph.output
        if output in self.codes:
            real = self._real(output)
            output = real if self.options.all_codes else self._node("Identity", [real], output)
        shape = ["batch", *self.graph.input_shape[1:]]
        kind = TensorProto.UINT8 if self.options.takes_bytes else TensorProto.FLOAT
        made = helper.make_graph(
            self.written_nodes,
            "qadv",
            [helper.make_tensor_value_info(self.graph.input, kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None])],
            list(self.initializers.values()),
        )
        opset = max(self.graph.opset, 21 if self.options.packed_weights else 0)
        model = helper.make_model(
            made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10, producer_name="qadv"
        )
        return bytes(model.SerializeToString())

    # what is there

    def _layer(self, node: Node) -> Layer | None:
        """Returns a layer with all that is folded into it, `None` for what is none or stays float."""
        if node.kind not in ("Conv", "Gemm", "MatMul") or node.inputs[1] not in self.values:
            return None
        weight, codes, scale = self.values[node.inputs[1]].astype(np.float64), None, None
        source = self.producers.get(node.inputs[1])
        turned = source is not None and source.kind == "Transpose"
        source = self.producers.get(source.inputs[0]) if source is not None and turned else source
        if source is not None and source.kind == "DequantizeLinear":
            codes = self.values[source.inputs[0]].astype(np.float64)
            scale = np.broadcast_to(self.values[source.inputs[1]].astype(np.float64), (len(codes),))
            codes = codes.T if turned else codes
        if node.kind != "Conv" and not node.attributes.get("transB"):
            weight, codes = weight.T, None if codes is None else codes.T
        if scale is None or codes is None or codes.shape[0] != len(scale):
            codes, scale = None, np.ones(len(weight))
        bias = self.values[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1)
        bias = np.broadcast_to(bias.astype(np.float64).reshape(-1), (len(weight),))
        if weight.ndim == 2 and node.attributes.get("alpha", 1.0) * node.attributes.get("beta", 1.0) != 1:
            return None
        layer = Layer(node, node.outputs[0], codes, weight, scale, bias)
        while (behind := self._only_consumer(layer.output)) is not None:
            other = [self.values[name].astype(np.float64) for name in behind.inputs if name in self.values]
            per_filter = (1, len(weight), 1, 1) if weight.ndim == 4 else (len(weight),)
            if behind.kind == "BatchNormalization" and node.kind == "Conv":
                gamma, beta, mean, var = other
                factor = gamma / np.sqrt(var + behind.attributes.get("epsilon", 1e-5))
                layer = layer.folded(factor, beta - mean * factor, behind.outputs[0])
            elif behind.kind == "Add" and len(other) == 1 and _fits(other[0].shape, per_filter):
                shift = np.broadcast_to(other[0], per_filter).reshape(-1)
                layer = layer.folded(np.ones(len(weight)), shift, behind.outputs[0])
            else:
                break
            self.done.add(behind.name)
        return layer

    def _only_consumer(self, name: str) -> Node | None:
        return self.consumers.get(name) if self.uses[name] == 1 else None

    def _quantizer(self, node: Node) -> tuple[str, Grid] | None:
        """Returns the output of a `QuantizeLinear`, `Clip`, `DequantizeLinear` and its grid; `None` for other uses."""
        scale, zero = (self.values.get(name) for name in node.inputs[1:3])
        ends, passed, behind = (0, 255), [], self._only_consumer(node.outputs[0])
        if behind is not None and behind.kind == "Clip":
            ends = tuple(int(self.values[name]) for name in behind.inputs[1:])  # type: ignore[assignment]
            passed, behind = [behind], self._only_consumer(behind.outputs[0])
        if behind is None or behind.kind != "DequantizeLinear" or scale is None or zero is None:
            return None
        if scale.size != 1 or not np.array_equal(scale, self.values[behind.inputs[1]]):
            return None  # levels without one at 0
        self.done |= {each.name for each in (*passed, behind)}
        moved = 255 - ends[1]  # to the upper end, where the kernels cut off
        return behind.outputs[0], Grid(float(scale), int(zero) + moved, ends[0] + moved)

    def _range(self, name: str) -> Range:
        """Returns the part of a value's range that matters."""
        if not self.measured:
            self.measured = measured(self.twin, self.images)
        low, high = self.measured[name]
        behind = self._only_consumer(name)
        if behind is not None and behind.kind == "Add":
            other = next((each for each in behind.inputs if each != name), name)
            while other not in self.codes and (moved := self.producers.get(other)) and moved.kind in _SAME:
                other = moved.inputs[0]  # which is written later, maybe
            quantizer = self._only_consumer(behind.outputs[0])
            if other in self.codes and quantizer is not None and quantizer.kind == "QuantizeLinear":
                grid = self._quantizer(quantizer)
                if grid is not None:
                    (first, last), (least, most) = grid[1].ends, self.codes[other][1].ends
                    known = first - most, last - least
                    return (max(low, known[0]), min(high, known[1])) if self.real_images else known
        return low, high

    def _standardisation(self, source: str) -> list[Node] | None:
        """Returns what stands between the images and a value, last first; `None` where it is more than affine."""
        passed: list[Node] = []
        while source != self.graph.input:
            node = self.producers[source]
            inputs = [name for name in node.inputs if name not in self.values]
            if node.kind not in (*AFFINE, "Reshape", "Flatten") or len(inputs) != 1:
                return None
            if node.kind == "Div" and inputs[0] != node.inputs[0]:
                return None
            passed.append(node)
            source = inputs[0]
        return passed

    def _folded_pixels(self) -> list[Node] | None:
        """Returns what standardises images, made part of the first layer, `None` where it can't be.

        Weights take the factor of each channel, and the bias what is added. That is exact, but for the rounding of
        float weights, unless zeros are padded that were not 0 as pixels, or weights have codes and channels factors of
        their own.
        """
        layer = next(iter(self.layers.values()), None)
        if layer is None or not self._in_integers(layer):
            return None
        attributes, passed = layer.node.attributes, self._standardisation(layer.node.inputs[0])
        if passed is None or not any(node.kind in AFFINE for node in passed):
            return passed
        if any(self.uses[name] > 1 for name in (self.graph.input, *(node.outputs[0] for node in passed))):
            return None
        low, high = (each[layer.node.inputs[0]].astype(np.float64) for each in self._flat_images())
        spatial = tuple(range(2, layer.weight.ndim))
        factor = ((high - low) / (self.pixels[1] - self.pixels[0])).mean(spatial, keepdims=True)
        at_zero = (low - factor * self.pixels[0]).mean(spatial, keepdims=True)
        of_all = np.full(len(layer.weight), factor.flat[0])
        is_one = np.allclose(factor, factor.flat[0], rtol=1e-6)
        is_padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", "NOTSET") != "NOTSET"
        if (
            (layer.codes is not None and not is_one)
            or (is_padded and np.abs(at_zero).max() > 1e-6)
            or attributes.get("group", 1) > 1
            or any(np.ptp(each, spatial).any() for each in (low, high) if spatial)
        ):
            return None
        if is_one:
            folded = replace(layer.folded(of_all, 0 * of_all, layer.output), bias=layer.bias)
        else:
            folded = replace(layer, weight=layer.weight * factor)
        folded = folded.in_codes_up_to(self._most)
        assert folded.codes is not None
        sums = (folded.codes * (at_zero / factor)).reshape(len(of_all), -1).sum(1) * folded.scale
        self.layers[layer.node.name] = replace(folded, bias=folded.bias + sums)
        return passed

    # what is written

    def _write_pixels(self) -> None:
        """Makes codes of the images, where the first layer reads them as they come."""
        low, high = self.pixels
        grid, name = Grid.over(self.pixels), self.graph.input
        has_zero = low <= 0 <= high and math.isclose(grid.zero * grid.scale, -low, abs_tol=1e-3 * grid.scale)
        if not has_zero:
            if self.options.takes_bytes:
                raise InvalidInputError(
                    f"images of bytes: of 256 pixel values from {low:g} to {high:g} none is 0, which integer kernels "
                    "need; use clip_values=(0, 1), and preprocessing for the rest"
                )
            return
        if self.options.takes_bytes:
            self.codes[name] = name, grid
        if (passed := self._folded_pixels()) is None:
            return
        self.codes[name] = self.codes.get(name) or (self._quantized(name, grid, name), grid)
        for node in reversed(passed):
            if node.kind in AFFINE:
                self.codes[node.outputs[0]] = self.codes[next(each for each in node.inputs if each in self.codes)]
            else:
                self._on_codes(node)
            self.done.add(node.name)

    def _write(self, node: Node) -> None:
        source, output = node.inputs[0] if node.inputs else "", node.outputs[0]
        if node.kind == "QuantizeLinear" and (found := self._quantizer(node)) is not None:
            grid = found[1].off_ties if self._is_average(source) else found[1]
            self.codes[found[0]] = self._quantized(self._real(source), grid, found[0]), grid
        elif node.kind in _SAME and source in self.codes and self._on_codes(node):
            pass
        elif node.name in self.layers and self._in_integers(self.layers[node.name]):
            self._write_layer(self.layers[node.name])
        elif node.name in self.layers:
            self._write_float_layer(self.layers[node.name])
        elif node.kind == "Add" and all(name in self.codes for name in node.inputs):
            self._node("Add", [self._real(name) for name in node.inputs], output)
            # for sums that are always 0: kernels multiply by the ratio of steps, and XNNPACK takes one below 256
            least = max(self.codes[name][1].scale for name in node.inputs) / 128
            self._quantize_behind(output, least=least)
        elif _is_global_pool(node, self.values) and source in self.codes:
            self._node("GlobalAveragePool", [self._real(source)], output)
            self._quantize_behind(output, self.codes[source][1].ends)
        elif (whole := self._whole_windows(node)) is not None:
            attributes, factor = whole
            pooled = self._node("AveragePool", [self._real(source)], f"{output}_whole", **attributes)
            self._node("Mul", [pooled, self._constant(factor.numpy(), "factor")], output)
        else:
            in_codes = node.kind == "Shape" and source in self.codes
            names = [self.codes[source][0]] if in_codes else [self._real(name) if name else "" for name in node.inputs]
            self._node(node.kind, names, *node.outputs, **node.attributes)

    def _is_average(self, name: str) -> bool:
        while (node := self.producers.get(name)) is not None and node.kind in _SAME:
            name = node.inputs[0]
        return node is not None and node.kind in _AVERAGES

    @property
    def _most(self) -> int:
        return 63 if self.options.reduce_range else 127

    def _in_integers(self, layer: Layer) -> bool:
        given_codes = layer.codes is not None or self.producers.get(layer.node.inputs[1]) is not None
        if layer.node.name in self.ends:
            return not (self.options.float_ends and not given_codes)
        return given_codes and layer.node.inputs[0] in self.codes

    def _write_layer(self, layer: Layer) -> None:
        node, source = layer.node, layer.node.inputs[0]
        if source not in self.codes:
            if self._standardisation(source) is None:
                ends = self._range(source)
            else:
                flat = [each[source] for each in self._flat_images()]
                ends = float(np.min(flat)), float(np.max(flat))
            grid = Grid.over(ends)
            self.codes[source] = self._quantized(source, grid, source), grid
        scale = self.codes[source][1].scale
        layer = layer.in_codes_up_to(self._most).with_bias_in_32_bits(scale)
        assert layer.codes is not None
        weights, bias_scale = self._weights(layer), np.float32(scale) * layer.scale.astype(np.float32)
        names, bias = [self._real(source), weights], ""
        if node.kind != "MatMul":
            codes_of_bias = np.round(layer.bias / bias_scale.astype(np.float64)).astype(np.int32)
            parts = [self._constant(codes_of_bias, "bias"), self._constant(bias_scale, "bias_scale")]
            parts.append(self._constant(np.zeros(len(bias_scale), np.int32), "zeros"))
            bias = self._node("DequantizeLinear", parts, f"{layer.output}_bias", axis=0)
        elif layer.bias.any():
            bias = self._constant(layer.bias.astype(np.float32), "bias")
        self._write_operator(layer, names, bias)
        if node.kind == "Conv" or self.options.all_codes:
            self._quantize_behind(layer.output)

    def _weights(self, layer: Layer) -> str:
        """Writes a layer's codes and scales; returns the name of the weights."""
        assert layer.codes is not None
        codes, axis = layer.codes.astype(np.int8), 0
        if layer.node.kind == "MatMul":
            codes, axis = codes.T, 1
        few = self.options.packed_weights and np.abs(codes).max() <= 7
        name = self._constant(np.ascontiguousarray(codes), "weight", "INT4" if few else None)
        if few:
            from onnx import TensorProto

            name = self._node("Cast", [name], f"{layer.output}_codes", to=TensorProto.INT8)
        scale, zeros = layer.scale.astype(np.float32), np.zeros(len(layer.scale), np.int8)
        parts = [name, self._constant(scale, "weight_scale"), self._constant(zeros, "zeros")]
        return self._node("DequantizeLinear", parts, f"{layer.output}_weight", axis=axis)

    def _write_float_layer(self, layer: Layer) -> None:
        weight = layer.weight.T if layer.node.kind == "MatMul" else layer.weight
        names = [self._real(layer.node.inputs[0]), self._constant(weight.astype(np.float32), "weight")]
        self._write_operator(layer, names, self._constant(layer.bias.astype(np.float32), "bias"))

    def _write_operator(self, layer: Layer, names: list[str], bias: str) -> None:
        """Writes what computes a layer from its input and weights, `names`, and its bias, `""` for none."""
        if layer.node.kind == "MatMul":
            product = self._node("MatMul", names, f"{layer.output}_product" if bias else layer.output)
            if bias:
                self._node("Add", [product, bias], layer.output)
        else:
            attributes = layer.node.attributes if layer.node.kind == "Conv" else {"transB": 1}
            self._node(layer.node.kind, [*names, bias], layer.output, **attributes)

    def _on_codes(self, node: Node) -> bool:
        """Writes an operator that moves values, or takes the largest, on the codes; returns whether it can."""
        codes, grid = self.codes[node.inputs[0]]
        names = [codes, *(self._real(name) if name else "" for name in node.inputs[1:])]
        if node.kind == "Pad":
            value = self.values.get(node.inputs[2], np.zeros(())) if len(node.inputs) > 2 else np.zeros(())
            if node.attributes.get("mode", "constant") != "constant" or value.any():
                return False
            names[2:3] = [self._constant(np.uint8(grid.zero), "zero")]
        output = self._node(node.kind, names, f"{node.outputs[0]}_codes", **node.attributes)
        self.codes[node.outputs[0]] = output, grid
        return True

    def _quantize_behind(self, name: str, ends: Range | None = None, least: float = 0.0) -> None:
        """Rounds what the network does not round itself."""
        behind = self._only_consumer(name)
        is_rounded = behind is not None and behind.kind == "QuantizeLinear"
        if is_rounded or (name == self.graph.output and not self.options.all_codes):
            return
        grid = Grid.over(self._range(name) if ends is None else ends, least)
        grid = grid.off_ties if self._is_average(name) else grid
        self.codes[name] = self._quantized(name, grid, name), grid

    def _quantized(self, name: str, grid: Grid, label: str) -> str:
        scale, zero = self._constant(np.float32(grid.scale), "scale"), self._constant(np.uint8(grid.zero), "zero")
        codes = self._node("QuantizeLinear", [name, scale, zero], f"{label}_rounded")
        if grid.first <= 1:  # of 255 levels there is one more at the lower end, as everywhere in integer networks
            return codes
        return self._node("Clip", [codes, self._constant(np.uint8(grid.first), "first")], f"{label}_codes")

    def _real(self, name: str) -> str:
        """Returns the name of a value as float, from its codes where it has some."""
        if name in self.codes:
            codes, grid = self.codes[name]
            scale, zero = self._constant(np.float32(grid.scale), "scale"), self._constant(np.uint8(grid.zero), "zero")
            return self._node("DequantizeLinear", [codes, scale, zero], f"{name}_real{len(self.written_nodes)}")
        if name in self.values:
            return self._constant(self.values[name], "constant")
        return name

    @torch.no_grad()
    def _flat_images(self) -> list[dict[str, Array]]:
        """Returns all values for an image of the smallest pixel, and for one of the largest."""
        flat = torch.ones(1, *(size or 1 for size in self.graph.input_shape[1:]))
        return [{k: v.numpy() for k, v in self.twin.every_value(flat * end).items()} for end in self.pixels]

    def _whole_windows(self, node: Node) -> tuple[dict[str, Any], Tensor] | None:
        """Returns what stands for a pool whose windows may end behind the image, `None` for any other operator."""
        if node.kind != "AveragePool" or not node.attributes.get("ceil_mode"):
            return None  # the sizes are known of an image that was computed
        return whole_windows(node.attributes, torch.from_numpy(self._flat_images()[0][node.inputs[0]]))

    def _node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        from onnx import helper, numpy_helper

        given = {
            key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
        }
        self.written_nodes.append(helper.make_node(kind, inputs, list(outputs), f"{kind}_{outputs[0]}", **given))
        return outputs[0]

    def _constant(self, value: Any, label: str, kind: str | None = None) -> str:
        from onnx import TensorProto, helper, numpy_helper

        array = np.asarray(value)
        key = f"{label}_{kind}_{array.dtype}_{array.shape}_{hash(array.tobytes())}"
        if key not in self.initializers:
            name = f"{label}{len(self.initializers)}"
            if kind == "INT4":
                tensor = helper.make_tensor(name, TensorProto.INT4, array.shape, array.flatten().tolist())
            else:
                tensor = numpy_helper.from_array(array, name)
            self.initializers[key] = tensor
        return str(self.initializers[key].name)


def _is_global_pool(node: Node, values: dict[str, Array]) -> bool:
    if node.kind == "GlobalAveragePool":
        return True
    if node.kind != "ReduceMean" or not node.attributes.get("keepdims", 1) or len(node.inputs) < 2:
        return False
    return sorted(values[node.inputs[1]].reshape(-1).tolist()) in ([2, 3], [-2, -1])


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, whole) == whole or math.prod(shape) == 1
    except ValueError:
        return False
