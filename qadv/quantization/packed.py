"""The packed file: a classifier's weights as integer codes, bit by bit, with their scales."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from qadv.backbones.float_weights import load_state
from qadv.errors import FileFormatError, SchemeError
from qadv.quantization.convert import rebuild
from qadv.quantization.frozen import Quantized, freeze, is_frozen
from qadv.quantization.layers import weight_quantizers
from qadv.quantization.packing import pack, unpack
from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scales import check_scale, check_scales
from qadv.quantization.scheme import parse_scheme

FORMAT = "qadv-packed/2"
CODES, _SCALE = ".weight.codes", ".weight.scale"


def packed_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Returns what a packed file holds of a network that `quantize` or `freeze` made.

    That is the tensors: of each quantized layer `NAME.weight.codes`, (bytes,) uint8, `bits` per weight with the first
    weight's high bit first, and `NAME.weight.scale`, float32; everything else as it is. And for the header, scheme and
    shape of each quantized layer, and bits and codes, in the order of their index, of each scheme.

    Raises:
        SchemeError: a layer's codes and scale do not say all about its weights.
    """
    frozen = model if is_frozen(model) else freeze(model)
    tensors = dict(frozen.state_dict())
    layers: dict[str, Any] = {}
    schemes: dict[str, Any] = {}
    for name, layer, quantizer in weight_quantizers(frozen):
        codes, scale = layer.quantized()
        scale = scale.float().contiguous()
        _check_portable(name, quantizer, codes, scale)
        prefix = f"{name}." if name else ""
        del tensors[f"{prefix}weight"]
        tensors[f"{name}{CODES}"] = pack(codes, quantizer.code_values(), quantizer.bits)
        tensors[f"{name}{_SCALE}"] = scale
        layers[name] = {"scheme": quantizer.spec, "shape": list(codes.shape)}
        schemes[quantizer.spec] = _code_table(quantizer)
    return {name: tensor.cpu() for name, tensor in tensors.items()}, layers, schemes


def _code_table(quantizer: WeightQuantizer) -> dict[str, Any]:
    return {"bits": quantizer.bits, "codes": quantizer.code_values().long().tolist()}


def _check_portable(name: str, quantizer: WeightQuantizer, codes: Tensor, scale: Tensor) -> None:
    """Whoever reads the file makes the quantizer from its name: what it knows besides is lost."""
    fresh = _for_weights(quantizer.spec).to(codes.device)
    values = quantizer.code_values()
    problem = ""
    if not torch.equal(values, values.round()):
        problem = "code_values has numbers that are not whole"
    elif _code_table(fresh) != _code_table(quantizer):
        problem = "bits and code_values differ from layer to layer; they may only depend on the scheme"
    else:
        try:
            same = torch.equal(fresh.decode(codes, scale), quantizer.decode(codes, scale))
        except Exception as error:
            same, problem = False, f"a new quantizer's decode fails with {type(error).__name__}: {error}"
        if not same and not problem:
            problem = "decode depends on more than codes and scale"
    if problem:
        raise SchemeError(f"layer {name!r} can't be packed: scheme {quantizer.spec!r}: {problem}")


def _for_weights(spec: str) -> WeightQuantizer:
    scheme = parse_scheme(spec, "weights")
    assert scheme is not None
    return scheme.for_weights()


def frozen_from_packed(
    model: nn.Module,
    header: dict[str, Any],
    tensors: dict[str, Tensor],
    path: str | os.PathLike[str],
) -> nn.Module:
    """Returns the frozen network of a packed file, its header and tensors, made from a float `model` with any weights.

    Raises:
        FileFormatError: the file does not fit the network.
    """
    quantized = rebuild(model, header["quantization"])
    layers = {name: (layer, quantizer) for name, layer, quantizer in weight_quantizers(quantized)}
    described = header["layers"]
    if described.keys() != layers.keys():
        name = sorted(described.keys() ^ layers.keys())[0]
        has = "the network has no quantized layer" if name in described else "the file has no quantized layer"
        raise FileFormatError(f"{os.fspath(path)} does not fit {type(model).__name__}: {has} {name!r}")
    rest = dict(tensors)
    codes: dict[str, Quantized] = {}
    for name, (layer, quantizer) in layers.items():
        missing = [key for key in (f"{name}{CODES}", f"{name}{_SCALE}") if key not in rest]
        if missing:
            raise FileFormatError(f"{os.fspath(path)} does not fit {type(model).__name__}: no tensor {missing[0]}")
        own = described[name]
        packed, scale = rest.pop(f"{name}{CODES}"), rest.pop(f"{name}{_SCALE}")
        try:
            codes[name] = _unpacked(layer, quantizer, own, header["schemes"][own["scheme"]], packed, scale)
        except FileFormatError as error:
            raise FileFormatError(f"{os.fspath(path)}: layer {name!r}: {error}") from error
    frozen = freeze(quantized, codes)
    decoded = {f"{name}.weight".lstrip("."): layer.weight for name, layer, _ in weight_quantizers(frozen)}
    load_state(frozen, {**rest, **decoded}, os.fspath(path))
    check_scales(frozen, os.fspath(path))
    return frozen


def _unpacked(
    layer: Any, quantizer: WeightQuantizer, described: Any, table: Any, packed: Tensor, scale: Tensor
) -> Quantized:
    """Returns codes and scale after checking what the file says of them against the layer, before using any of it."""
    codes, like = layer.quantized()
    for what, found, expected in (
        ("scheme", described["scheme"], quantizer.spec),
        ("shape", described["shape"], list(codes.shape)),
        ("bits and codes", table, _code_table(quantizer)),
    ):
        if found != expected:
            raise FileFormatError(f"expected the {what} {expected}, found {found}")
    if scale.dtype != torch.float32 or scale.shape != like.shape:
        raise FileFormatError(
            f"expected a float32 scale of shape {tuple(like.shape)}, found {scale.dtype} {tuple(scale.shape)}"
        )
    check_scale(quantizer, scale, layer.weight)
    return unpack(packed, quantizer.code_values(), quantizer.bits, tuple(codes.shape)), scale
