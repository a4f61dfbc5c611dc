"""Flipped bits of stored weights: a list of them as a file, applied to a packed file or an ONNX graph, and undone."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qadv.digests import blanked, sealed
from qadv.errors import FileFormatError, InvalidInputError, UnsupportedModelError, some
from qadv.files import read_json, read_tensors, write_atomically, write_json
from qadv.frontends.find import file_frontend, quantized_weights
from qadv.frontends.onnx.frontend import OnnxFrontend
from qadv.frontends.onnx.graph import import_onnx, read_graph
from qadv.frontends.onnx.quantized import RANGES
from qadv.quantization.packed import CODES, FORMAT
from qadv.quantization.packing import packed_size, unpack

FLIPS = "qadv-flips/2"
_TYPES = ("INT8", "UINT8", "INT4", "UINT4")

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Flip:
    """One bit of one weight: the code before the flip, and the code behind it.

    Attributes:
        layer: its name in the network that the flip was found on.
        index: of the weight in the layer's codes, counted row by row.
        bit: of its code as stored, the lowest is 0.
    """

    layer: str
    index: int
    bit: int
    code: int
    flipped: int


@dataclass(frozen=True)
class Applied:
    """What `apply_flips` did: `flips` bits of weights in `layers` layers, or took them back if `undone`."""

    path: Path
    flips: int
    layers: int
    undone: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {**asdict(self), "path": str(self.path)}


def write_flips(
    path: str | os.PathLike[str], classifier: Any, flips: Iterable[Flip], about: Mapping[str, Any] | None = None
) -> None:
    """Writes flips, in order, as JSON, with digests of the codes of the network that they belong to.

    `classifier` is an ART classifier of that network as it is without the flips; `about` is plain data that goes with
    them, e.g. accuracies.

    Raises:
        InvalidInputError: a flip is not of a weight of that network.
        StorageError: the file could not be written.
    """
    found = {each.layer: each.codes for each in quantized_weights(classifier.model) if each.codes is not None}
    codes = {name: each.cpu().numpy().astype(np.int64) for name, each in found.items()}
    listed = list(flips)
    for each in listed:
        if each.layer not in codes or not 0 <= each.index < codes[each.layer].size:
            raise InvalidInputError(f"flips: the network has no weight {each.index} in a layer {each.layer!r}")
    for (layer, index), (before, _) in _changes(listed).items():
        if codes[layer].flat[index] != before:
            raise InvalidInputError(f"flips: {layer!r} has {codes[layer].flat[index]} at {index}, expected {before}")
    network = {name: _digest(each) for name, each in codes.items()}
    rows = [asdict(each) for each in listed]
    write_json(path, {"format": FLIPS, "network": network, "flips": rows, "about": dict(about or {})})


def read_flips(path: str | os.PathLike[str]) -> tuple[dict[str, str], list[Flip], dict[str, Any]]:
    """Returns digests of the network's codes by layer, the flips, and what goes with them; errors as of `read_json`."""
    data = read_json(path)
    try:
        if data["format"] != FLIPS:
            raise ValueError(f"expected the format {FLIPS}, found {data['format']}")
        flips = [Flip(**each) for each in data["flips"]]
        if any(type(number) is not int for each in data["flips"] for name, number in each.items() if name != "layer"):
            raise ValueError("expected whole numbers as index, bit and codes")
        if missing := {each.layer for each in flips} - data["network"].keys():
            raise ValueError(f"no digest of {some(sorted(missing))}")
        return dict(data["network"]), flips, dict(data["about"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{os.fspath(path)} is no list of flips: {error}") from error


def apply_flips(model: str | os.PathLike[str], flips: str | os.PathLike[str], out: str | os.PathLike[str]) -> Applied:
    """Flips bits of the weights in a file; where they are flipped already, flips them back.

    Nothing else changes, scales and zero points neither: a file to which a list is applied twice is the same to the
    byte.

    Args:
        model: a packed file, or an ONNX graph with weights in int8, uint8, int4 or uint4.
        flips: a list that `write_flips` wrote, of this network: layers of an ONNX graph are found by their codes.
        out: the file to write.

    Raises:
        InvalidInputError: the list is of another network, or was applied in part.
        UnsupportedModelError: the file can't store a code.
        FileFormatError, StorageError: a file is damaged, of another kind, or not there.
    """
    network, listed, _ = read_flips(flips)
    changes = _changes(listed)
    frontend = file_frontend(model)
    if frontend is not None and frontend.name != OnnxFrontend.name:
        raise UnsupportedModelError(
            f"{os.fspath(model)} is of {frontend.name}: flips are of packed files and ONNX graphs"
        )
    stored = _Packed(model) if frontend is None else _Onnx(model)
    states, places = set(), {}
    for layer, digest in network.items():
        own = {index: codes for (name, index), codes in changes.items() if name == layer and codes[0] != codes[1]}
        found = [(name, state) for name in stored.find(layer) if (state := _state(stored.codes[name], own, digest))]
        if not found or (own and len(found) > 1):
            what = "several layers with the codes" if found else "no layer with the codes"
            raise InvalidInputError(
                f"{os.fspath(flips)} is of another network: {os.fspath(model)} has {what} of {layer!r}. A graph of "
                "integer kernels may have codes of another sign, or transposed: find the flips on that file"
            )
        states |= {found[0][1]} if own else set()
        places[layer] = found[0][0]
    if "mixed" in states or len(states) > 1:
        raise InvalidInputError(f"{os.fspath(model)} has some of the flips of {os.fspath(flips)}; take the whole file")
    undone = states == {"flipped"}
    for (layer, index), (before, after) in changes.items():
        stored.put(places[layer], index, before if undone else after)
    write_atomically(out, stored.content())
    return Applied(Path(out), len(listed), len({each.layer for each in listed}), undone)


def _changes(flips: Iterable[Flip]) -> dict[tuple[str, int], tuple[int, int]]:
    """Returns the code before all flips of a weight, and that behind them."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for each in flips:
        place = each.layer, each.index
        found[place] = found.get(place, (each.code, 0))[0], each.flipped
    return found


def _digest(codes: Codes) -> str:
    return hashlib.sha256(f"{codes.shape}".encode() + codes.astype("<i4").tobytes()).hexdigest()


def _state(codes: Codes, changes: Mapping[int, tuple[int, int]], digest: str) -> str:
    """Returns whether codes are those of a digest "as they were" or "flipped", or in part "mixed"; "" for others."""
    if any(not 0 <= index < codes.size for index in changes):
        return ""
    index, (before, after) = list(changes), np.array(list(changes.values()), np.int64).reshape(-1, 2).T
    restored = codes.copy()
    restored.flat[index] = before
    if _digest(restored) != digest:
        return ""
    now = codes.flat[index]
    return "as they were" if (now == before).all() else "flipped" if (now == after).all() else "mixed"


class _Packed:
    """The codes of a packed file by the name of what they are stored in; its bytes are changed in place."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        tensors, header = read_tensors(path)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise InvalidInputError(
                f"{os.fspath(path)} has no stored codes: flips are of a packed file (qadv export --to packed) or of an "
                "ONNX graph"
            )
        self._tables = {name: header["schemes"][each["scheme"]] for name, each in header["layers"].items()}
        self.codes: dict[str, Codes] = {}
        for name, each in header["layers"].items():
            table = self._tables[name]
            found = unpack(tensors[f"{name}{CODES}"], torch.tensor(table["codes"]), table["bits"], each["shape"])
            self.codes[name] = found.numpy().astype(np.int64)
        content = Path(path).read_bytes()
        self._start = 8 + int.from_bytes(content[:8], "little")
        self._places = json.loads(content[8 : self._start])
        self._bytes = bytearray(blanked(content, json.loads(self._places["__metadata__"]["qadv"])))

    def find(self, layer: str) -> Iterable[str]:
        """Returns where the codes of a layer may be stored."""
        return [layer] if layer in self.codes else []

    def put(self, name: str, index: int, code: int) -> None:
        bits, codes = self._tables[name]["bits"], self._tables[name]["codes"]
        if code not in codes:
            raise UnsupportedModelError(f"layer {name!r}: a packed file can't store the code {code}, which none has")
        first, last = (self._start + at for at in self._places[f"{name}{CODES}"]["data_offsets"])
        assert last - first == packed_size(self.codes[name].size, bits)
        for place, digit in enumerate(f"{codes.index(code):0{bits}b}", index * bits):
            byte, mask = first + place // 8, 128 >> place % 8
            self._bytes[byte] = self._bytes[byte] & ~mask | mask * int(digit)

    def content(self) -> bytes:
        return sealed(bytes(self._bytes))


class _Onnx:
    """The same of an ONNX graph, whose tensors are changed in place."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        read_graph(path)  # refuses what is damaged
        onnx, content = import_onnx(), Path(path).read_bytes()
        self._model = onnx.load_model_from_string(content)
        if self._model.SerializeToString() != content:
            raise UnsupportedModelError(
                f"{os.fspath(path)} is not written as onnx writes it, so that flips could not be undone to the byte: "
                "write it anew with onnx.save(onnx.load(path), path)"
            )
        constants = (each for node in self._model.graph.node if node.op_type == "Constant" for each in node.attribute)
        tensors = [*self._model.graph.initializer, *(each.t for each in constants if each.HasField("t"))]
        kinds = [onnx.TensorProto.DataType.Name(each.data_type) for each in tensors]
        kept = [pair for pair in zip(tensors, kinds, strict=True) if pair[1] in _TYPES]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor, _ in kept):
            raise UnsupportedModelError(f"{os.fspath(path)} keeps weights in files beside it; save it as one file")
        self._tensors = {str(number): pair for number, pair in enumerate(kept)}
        self.codes = {
            name: np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.int64)
            for name, (tensor, _) in self._tensors.items()
        }

    def find(self, layer: str) -> Iterable[str]:
        return self.codes

    def put(self, name: str, index: int, code: int) -> None:
        tensor, kind = self._tensors[name]
        if not RANGES[kind][0] <= code <= RANGES[kind][1]:
            raise UnsupportedModelError(f"{tensor.name!r}: {kind} can't store the code {code}")
        half = kind.endswith("4")
        at, shift = (index // 2, 4 * (index % 2)) if half else (index, 0)
        mask = 15 << shift if half else 255
        if tensor.HasField("raw_data"):
            content = bytearray(tensor.raw_data)
            content[at] = content[at] & ~mask | (code << shift & mask)
            tensor.raw_data = bytes(content)
        elif half:
            tensor.int32_data[at] = tensor.int32_data[at] & ~mask | (code << shift & mask)
        else:
            tensor.int32_data[at] = code

    def content(self) -> bytes:
        return bytes(self._model.SerializeToString())
