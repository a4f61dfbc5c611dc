"""The packed file: a classifier's weights as integer codes, bit by bit, with their scales."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from qadv.backbones.float_weights import load_state
from qadv.errors import FileFormatError
from qadv.quantization.convert import convert
from qadv.quantization.frozen import FrozenLayer, freeze
from qadv.quantization.layers import _QuantLayer
from qadv.quantization.packing import pack, unpack

FORMAT = "qadv-packed/1"
_CODES, _SCALE = ".weight.codes", ".weight.scale"


def packed_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Returns what a packed file holds of a quantized network.

    Args:
        model: a network that `quantize` or `freeze` made.

    Returns:
        The tensors: of each quantized layer `NAME.weight.codes`, (bytes,) uint8, `bits` per weight with the first
        weight's high bit first, and `NAME.weight.scale`, float32; everything else as it is. And for the header, scheme
        and shape of each quantized layer, and bits and codes, in the order of their index, of each scheme.
    """
    frozen = model if any(isinstance(module, FrozenLayer) for module in model.modules()) else freeze(model)
    tensors = dict(frozen.state_dict())
    layers: dict[str, Any] = {}
    schemes: dict[str, Any] = {}
    for name, layer in frozen.named_modules(remove_duplicate=False):
        quantizer = layer.weight_quantizer if isinstance(layer, FrozenLayer) else None
        if not isinstance(layer, FrozenLayer) or quantizer is None:
            continue
        codes, scale = layer.quantized()
        values = quantizer.code_values()
        prefix = f"{name}." if name else ""
        del tensors[f"{prefix}weight"]
        tensors[f"{name}{_CODES}"] = pack(codes, values, quantizer.bits)
        tensors[f"{name}{_SCALE}"] = scale.float().contiguous()
        layers[name] = {"scheme": quantizer.spec, "shape": list(codes.shape)}
        schemes[quantizer.spec] = {"bits": quantizer.bits, "codes": [int(value) for value in values.tolist()]}
    return {name: tensor.cpu() for name, tensor in tensors.items()}, layers, schemes


def frozen_from_packed(
    model: nn.Module,
    header: dict[str, Any],
    tensors: dict[str, Tensor],
    path: str | os.PathLike[str],
) -> nn.Module:
    """Returns the frozen network that a packed file holds.

    Args:
        model: the float network it was made from, with any weights.
        header: the file's header.
        tensors: the file's tensors.
        path: the file, for messages.

    Raises:
        FileFormatError: the file does not fit the network.
    """
    quantized = convert(model, **header["quantization"], fit=False)
    found = {name for name, layer in quantized.named_modules() if isinstance(layer, _QuantLayer)}
    rest = dict(tensors)
    codes: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in header["layers"].items():
        missing = [key for key in (f"{name}{_CODES}", f"{name}{_SCALE}") if key not in rest]
        if name not in found or missing:
            what = f"the network has no quantized layer {name!r}" if name not in found else f"no tensor {missing[0]}"
            raise FileFormatError(f"{os.fspath(path)} does not fit {type(model).__name__}: {what}")
        try:
            scheme, shape = header["schemes"][layer["scheme"]], tuple(layer["shape"])
            values = torch.tensor(scheme["codes"])
            unpacked = unpack(rest.pop(f"{name}{_CODES}"), values, int(scheme["bits"]), shape)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{os.fspath(path)}: the header is damaged at layer {name!r}: {error}") from error
        codes[name] = unpacked, rest.pop(f"{name}{_SCALE}")
    frozen = freeze(quantized, codes)
    decoded = {
        f"{name}.weight" if name else "weight": layer.weight
        for name, layer in frozen.named_modules()
        if isinstance(layer, FrozenLayer) and name in codes
    }
    load_state(frozen, {**rest, **decoded}, os.fspath(path))
    return frozen
