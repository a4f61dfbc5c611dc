"""`export`: a classifier as a file for other programs, and how small it got."""

import json
import os
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.backbones.float_weights import check_finite
from qadv.backbones.standardisation import picture_settings
from qadv.checks import check_choice, check_flag
from qadv.deployment.integer_graph import AFFINE, IntegerOptions, integer_graph
from qadv.deployment.onnx_graph import onnx_graph
from qadv.errors import InvalidInputError, MissingRequirementError, UnsupportedModelError, closest
from qadv.estimators.checks import check_images
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.storage import save_packed
from qadv.files import read_tensors, write_atomically
from qadv.frontends.find import file_writers, files, frontend_of, quantized_weights
from qadv.frontends.onnx.graph import BY_PIXEL, CLIP_VALUES, PICTURES, Graph, graph_of
from qadv.frontends.onnx.runtime import Runtime
from qadv.modes import held_network
from qadv.quantization.layers import weight_quantizers
from qadv.quantization.quantizer import _Quantizer
from qadv.units import limits

FORMS = ("packed", "onnx", "qcdq")
PIXELS = ("float", "uint8")
_LAYERS = ("QLinear", "QGemm", "Conv", "Gemm", "MatMul", "Fused")


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        file_bytes: its size on disk.
        float_bytes: all parameters and buffers of the float network as float32.
        weights: number of quantized weights.
        code_bytes: what their integer codes take in the file; `None` for ONNX.
        scale_bytes: what their scales take in the file, likewise.
        runtime: for integer kernels: what they were tried on, and whether 8-bit sums are exact there; "" where
            onnxruntime is missing, or another form was written.
        kernels: how often each kernel ran in one pass, likewise.
        standardisation: share of that pass, of one image, that standardising it took; 0 where the first layer does it.
    """

    path: Path
    file_bytes: int
    float_bytes: int
    weights: int
    code_bytes: int | None = None
    scale_bytes: int | None = None
    runtime: str = ""
    kernels: dict[str, int] = field(default_factory=dict)
    standardisation: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export(
    classifier: QuantizedClassifier,
    path: str | os.PathLike[str],
    to: str = "packed",
    *,
    images: NDArray[Any] | None = None,
    float_ends: bool = False,
    packed_weights: bool = False,
    reduce_range: bool = False,
    pixels: str = "float",
) -> Exported:
    """Writes a classifier as one file, atomically.

    Args:
        classifier: a `QuantizedClassifier`; its network is untouched.
        path: the file.
        to: `"packed"`: safetensors with the quantized weights as strings of bits, which `QuantizedClassifier.load`
            reads back as a frozen network with the same outputs to the bit. `"onnx"`: an ONNX graph that runs in
            integer kernels, see `qadv.deployment.integer_graph`. `"qcdq"`: an ONNX graph that says what the simulation
            computes and no more, see `qadv.deployment.onnx_graph`; float kernels run it.
        images: for `"onnx"`: (N, *input_shape) in `clip_values`, some hundred, for the ranges of what the network does
            not quantize and integer kernels do; `None` for drawn ones.
        float_ends: for `"onnx"`: float weights of the first and last layer stay float.
        packed_weights: for `"onnx"`: codes of at most 4 bits are stored as int4.
        reduce_range: for `"onnx"`: weights of 7 bits, for processors without VNNI, whose sums of 8 bits saturate.
        pixels: for `"onnx"`: `"uint8"` for a graph that takes images as bytes, 0 to 255 from one end of `clip_values`
            to the other; `"float"` for images in `clip_values`.

    Returns:
        Sizes, measured on the file, and the kernels that run it here.

    Raises:
        InvalidInputError: unknown form, no classifier, nothing is quantized, or weights are not finite.
        UnsupportedModelError: a network of a toolkit that has an export of its own.
        SchemeError: a plugin's scheme whose weights are not what its integer codes and scales say.
        StorageError: the file could not be written.
    """
    writers = file_writers()
    if to not in (forms := (*FORMS, *writers)):
        raise InvalidInputError(f"to: expected {' or '.join(map(repr, forms))}, got {to!r}{closest(to, forms)}")
    if not isinstance(classifier, QuantizedClassifier):
        raise InvalidInputError(
            f"classifier: expected a QuantizedClassifier, got {type(classifier).__name__}; a network becomes one with "
            "QuantizedClassifier(network, loss, input_shape, nb_classes)"
        )
    if not isinstance(path, str | os.PathLike):
        raise InvalidInputError(f"path: expected a file name, got {path!r}")
    check_exports(classifier.model)
    given = {"float_ends": float_ends, "packed_weights": packed_weights, "reduce_range": reduce_range}
    flags = {name: check_flag(name, value) for name, value in given.items()}
    options = IntegerOptions(**flags, takes_bytes=check_choice("pixels", pixels, PIXELS) == "uint8")
    if to in ("packed", "qcdq") and (images is not None or options != IntegerOptions()):
        raise InvalidInputError(f"images, {', '.join(given)}, pixels: only for a graph of integer kernels, to='onnx'")
    if images is not None:
        images = check_images(images, classifier.input_shape, classifier.clip_values, "images").astype(np.float32)
    check_finite(classifier.model, "classifier")
    quantized = quantized_weights(classifier.model)
    if to == "packed" and not weight_quantizers(classifier.model):
        whose = f" by qadv, but by {quantized[0].origin}: use to='onnx'" if quantized else ": use classifier.save"
        raise InvalidInputError(f"there is nothing to pack, since no weights are quantized{whose}")
    weights = sum(each.value.numel() for each in quantized)
    target = Path(path)
    more: dict[str, Any] = {}
    if to == "packed":
        more = _packed(classifier, target)
    else:
        if to in writers:
            integers = in_integers(classifier, images, replace(options, all_codes=True))
            content = writers[to].written(_graph(_with_pictures(integers, classifier)))
        else:
            content = in_integers(classifier, images, options) if to == "onnx" else onnx_graph(classifier)
            content = _with_pictures(content, classifier)
        more = _kernels(content, classifier.input_shape) if to == "onnx" else {}
        write_atomically(target, content)
    return Exported(target, target.stat().st_size, _float_bytes(classifier.model), weights, **more)


def check_exports(model: nn.Module) -> None:
    """Refuses networks that are files already, and those of toolkits that write their own."""
    if shipped := files(model):
        raise InvalidInputError(f"the network is the file {', '.join(shipped)} already: nothing to export")
    frontend = frontend_of(held_network(model))
    if not frontend.exports:
        toolkit = frontend.name or "several toolkits"
        raise UnsupportedModelError(f"there is no export for networks of {toolkit}: what its own tools write ships")


def _float_bytes(model: nn.Module) -> int:
    """Parameters and buffers without those of quantizers, which the float network does not have."""
    quantizers = [module for module in model.modules() if isinstance(module, _Quantizer)]
    not_counted = {id(tensor) for quantizer in quantizers for tensor in quantizer.state_dict(keep_vars=True).values()}
    tensors: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return 4 * sum(tensor.numel() for tensor in tensors.values() if id(tensor) not in not_counted)


def _packed(classifier: QuantizedClassifier, path: Path) -> dict[str, int]:
    save_packed(classifier, path)
    tensors, _ = read_tensors(path)
    codes, scales = (
        sum(tensor.nbytes for name, tensor in tensors.items() if name.endswith(f".weight.{end}"))
        for end in ("codes", "scale")
    )
    return {"code_bytes": codes, "scale_bytes": scales}


def in_integers(classifier: QuantizedClassifier, images: NDArray[Any] | None, options: IntegerOptions) -> bytes:
    """Returns what `export(..., to="onnx")` writes."""
    content = onnx_graph(classifier)  # says what lacks, if anything
    ends = classifier.clip_values or (0.0, 1.0)
    pixels = limits(ends)
    if options.takes_bytes and any(np.ndim(end) for end in ends):
        raise InvalidInputError("pixels='uint8': the range of clip_values has to be the same for all pixels")
    try:
        return integer_graph(_graph(content), pixels, images, options)
    except UnsupportedModelError as error:
        if options.takes_bytes or options.all_codes:
            raise
        warnings.warn(f"the graph is written as to='qcdq' writes it, for float kernels: {error}", stacklevel=3)
        return content


def _graph(content: bytes) -> Graph:
    from onnx import load_model_from_string

    return graph_of(load_model_from_string(content), content, None, "the graph")


def _with_pictures(content: bytes, classifier: QuantizedClassifier) -> bytes:
    """Returns a graph that says how photographs are resized and cropped for it, and which pixels there are."""
    from onnx import helper, load_model_from_string

    said, ends = picture_settings(classifier.model), classifier.clip_values
    if ends is not None:
        said[CLIP_VALUES] = BY_PIXEL if any(np.ndim(end) for end in ends) else ends
    if not said:
        return content
    model = load_model_from_string(content)
    helper.set_model_props(model, {PICTURES: json.dumps(said)})
    return bytes(model.SerializeToString())


def _kernels(content: bytes, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns what runs a graph here, and how much of the time its standardisation takes."""
    try:
        runtime = Runtime(content, "the graph")
    except MissingRequirementError:
        return {}
    takes_bytes = "uint8" in runtime.session.get_inputs()[0].type
    found = runtime.profile(np.zeros((1, *input_shape), np.uint8 if takes_bytes else np.float32))
    steps = (*AFFINE, "DequantizeLinear", "QuantizeLinear") if takes_bytes else AFFINE
    first = takewhile(lambda each: not each[0].startswith(_LAYERS), found)
    return {
        "runtime": runtime.version + runtime.remark(),
        "kernels": dict(Counter(kernel for kernel, _ in found).most_common()),
        "standardisation": sum(time for kernel, time in first if kernel in steps) / sum(time for _, time in found),
    }
