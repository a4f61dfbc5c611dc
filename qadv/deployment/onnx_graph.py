"""An ONNX graph of a quantized classifier in QCDQ form: QuantizeLinear, Clip, DequantizeLinear."""

import copy
import math
from typing import Any

import torch
from timm.layers import pad_same
from torch import Tensor, nn

from qadv.errors import (
    InvalidInputError,
    MissingRequirementError,
    QadvError,
    SchemeError,
    UnsupportedModelError,
    describe,
)
from qadv.estimators.protocol import Classifier
from qadv.estimators.storage import leaves_pixels, mean_std
from qadv.modes import held_network
from qadv.postprocessors.softmax import Softmax
from qadv.quantization.frozen import FrozenActivation, FrozenConv2d, FrozenLinear, freeze, is_frozen
from qadv.quantization.layers import QuantActivation, _QuantLayer, swapped
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.versions import require_onnx_export

INPUT, OUTPUT = "images", "logits"
_OPSET = 18


def onnx_graph(classifier: Classifier) -> bytes:
    """Returns an ONNX model: images (N, *input_shape) float32 in `clip_values` in, what `predict` gives out.

    That is logits (N, nb_classes), or with `probabilities` their softmax. Standardisation is part of the graph. Weights
    are int8 initializers behind a DequantizeLinear with one scale per filter; where codes don't fit into int8 or a
    value is more than code times scale (`dorefa:8`, `pwlq`), the graph computes it from the codes. Activations are
    QuantizeLinear (uint8), Clip to the levels, DequantizeLinear; what has no grid (`binary-net`, plugins' own) is the
    operations that it is made of.

    Raises:
        MissingRequirementError: onnx or onnxscript is not installed, or torch is older than 2.8.
        InvalidInputError: the classifier has ART defences, which are not part of a graph.
        SchemeError: a plugin's scheme has codes that are not whole numbers of 16 bits.
        UnsupportedModelError: torch can't export the network.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingRequirementError(f"exporting to ONNX needs {error.name}: pip install 'qadv[onnx]'") from error
    require_onnx_export()
    defences = [*(classifier.preprocessing_defences or []), *(classifier.postprocessing_defences or [])]
    defences = [defence for defence in defences if not isinstance(defence, Softmax)]
    if defences:
        names = ", ".join(type(defence).__name__ for defence in defences)
        raise InvalidInputError(f"{names} would not be part of the graph; export a classifier without defences")
    network = _Standardised(classifier).eval()
    images = torch.zeros(2, *classifier.input_shape)
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                opset_version=_OPSET,
                optimize=False,  # it would fold the codes of small layers into float weights
                verbose=False,
            )
    except QadvError:
        raise
    except Exception as error:
        name, reason = type(held_network(classifier.model)).__name__, error
        while isinstance(reason.__cause__, Exception):  # torch puts pages round it
            reason = reason.__cause__
        raise UnsupportedModelError(
            f"torch can't export {name} to ONNX ({describe(reason).splitlines()[0]}): write its forward in operations "
            "that ONNX has, without branches on what tensors hold; or ship it packed, to='packed'"
        ) from error
    assert program is not None
    return _without_traces(program.model_proto)


def _without_traces(model: Any) -> bytes:
    """Returns the serialized model without the exporter's notes on where each node came from."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]:
        part.ClearField("metadata_props")
    return bytes(model.SerializeToString())


class _Standardised(nn.Module):
    """The network in a form that can be exported, behind its standardisation, maybe before a softmax; on the CPU."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        mean, std = mean_std(classifier)
        sides = [1] * (len(classifier.input_shape) - 1)
        for name, value in (("image_mean", mean), ("image_std", std)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).reshape(-1, *sides))
        self.standardises = not leaves_pixels(classifier)
        self.network = _exportable(held_network(classifier.model))
        after = classifier.postprocessing_defences or []
        self.gives_probabilities = any(isinstance(defence, Softmax) for defence in after)

    def forward(self, images: Tensor) -> Tensor:
        if self.standardises:
            images = (images - self.image_mean) / self.image_std
        logits: Tensor = self.network(images)
        return logits.softmax(1) if self.gives_probabilities else logits


def _exportable(model: nn.Module) -> nn.Module:
    quantized = any(isinstance(module, _QuantLayer | QuantActivation) for module in model.modules())
    result = (freeze(model) if quantized and not is_frozen(model) else copy.deepcopy(model)).cpu()
    others: dict[nn.Module, nn.Module] = {}
    for module in result.modules():
        if isinstance(module, FrozenConv2d | FrozenLinear):
            others[module] = _Layer(module)
        elif isinstance(module, FrozenActivation):
            others[module] = _Activation(module.quantizer)
    return swapped(result, others)


class _Layer(nn.Module):
    """A convolution or linear layer whose weight comes from integer codes in the graph.

    Its bias is added after it: onnxruntime rounds the bias of a convolution between two quantized tensors to a multiple
    of input scale times weight scale, which for one-bit weights is as coarse as the activations' own levels.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, layer: FrozenConv2d | FrozenLinear) -> None:
        super().__init__()
        self._computes = (layer,)  # not a part: its decoded weight stays out of the graph
        self.bias = layer.bias
        self.quantize_input = None if layer.input_quantizer is None else _Activation(layer.input_quantizer)
        self.quantizer = layer.weight_quantizer
        self.dequantizes = False
        if self.quantizer is None:
            self.weight = layer.weight
            return
        codes, scale = layer.quantized()
        largest = codes.abs().max()
        if not torch.equal(codes, codes.round()) or largest >= 2**15:
            raise SchemeError(f"scheme {self.quantizer.spec!r}: expected codes that are whole numbers of 16 bits")
        per_filter = scale.ndim == codes.ndim and len(scale) == scale.numel()
        if per_filter or scale.numel() == 1:
            exact = torch.equal(codes * scale, self.quantizer.decode(codes, scale))
            self.dequantizes = exact and bool(largest <= 127)
        self.register_buffer("codes", codes.to(torch.int8 if self.dequantizes else torch.int16))
        if self.dequantizes:
            scale = scale.flatten().expand(len(codes))
            self.register_buffer("zero_point", torch.zeros(len(codes), dtype=torch.int8))
        self.register_buffer("scale", scale.float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.quantize_input is None else self.quantize_input(x)
        weight, (layer,) = self._weight(), self._computes
        if isinstance(layer, FrozenLinear):
            product = nn.functional.linear(x, weight)
            return product if self.bias is None else product + self.bias
        if layer.is_same_padded_strided:
            x = pad_same(x, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
        y: Tensor = layer._conv_forward(x, weight, None)
        return y if self.bias is None else y + self.bias.reshape(-1, 1, 1)

    def _weight(self) -> Tensor:
        if self.quantizer is None:
            return self.weight
        if not self.dequantizes:
            return self.quantizer.decode(self.codes.float(), self.scale)
        return _dequantize(self.codes, self.scale, self.zero_point, {"axis": 0})


class _Activation(nn.Module):
    """QuantizeLinear, Clip, DequantizeLinear; what is not evenly spaced stays the operations it is made of."""

    scale: Tensor
    zero_point: Tensor
    one: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        grid = quantizer.grid()
        self.grid = grid if grid is not None and grid[2] <= 255 else None  # its codes are uint8
        if self.grid is None:
            return
        low, high, intervals = self.grid
        step = (high - low) / intervals
        zero = round(-low / step)
        # without a level at 0 (one bit with a sign, tanh), levels are counted from the lowest one; 0 is then half-way
        # between two, where a division by the step may fall to either side, so that the graph divides as quantize does
        self.from_lowest = not (0 <= zero <= 255 and math.isclose(zero, -low / step, abs_tol=1e-6))
        self.register_buffer("scale", torch.tensor(step))
        self.register_buffer("one", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0 if self.from_lowest else zero, dtype=torch.uint8))
        self.register_buffer("lowest", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("highest", torch.tensor(intervals, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            return self.quantizer.quantize(x)
        low, high, intervals = self.grid
        x = self.quantizer.squash(x)
        if self.from_lowest:
            x = (x - low) * intervals / (high - low)
        inputs = (x, self.one if self.from_lowest else self.scale, self.zero_point)
        codes = torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=x.shape)
        bounded = torch.onnx.ops.symbolic("Clip", (codes, self.lowest, self.highest), dtype=torch.uint8, shape=x.shape)
        y = _dequantize(bounded, self.scale, self.zero_point, {})
        return y + low if self.from_lowest else y


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, attributes: dict[str, Any]) -> Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (codes, scale, zero_point), attributes, dtype=torch.float32, shape=codes.shape
    )
