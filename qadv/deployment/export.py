"""`export`: a classifier as a file for other programs, and how small it got."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qadv.deployment.onnx_graph import onnx_graph
from qadv.errors import InvalidInputError, closest
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.storage import save_packed
from qadv.files import read_tensors, write_atomically
from qadv.quantization.layers import _QuantLayer


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the file.
        file_bytes: its size on disk.
        float_bytes: all parameters and buffers of the float network as float32.
        weights: number of quantized weights.
        weight_bytes: what their codes and scales take in the file; `None` for ONNX, whose codes are whole bytes.
        scale_bytes: the scales' part of that.
    """

    path: Path
    file_bytes: int
    float_bytes: int
    weights: int
    weight_bytes: int | None
    scale_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {**asdict(self), "path": str(self.path)}


def export(classifier: QuantizedClassifier, path: str | os.PathLike[str], to: str = "packed") -> Exported:
    """Writes a classifier as one file, atomically.

    Args:
        classifier: a `QuantizedClassifier`; its network is untouched.
        path: the file.
        to: `"packed"`: safetensors with the quantized weights as strings of bits, which `QuantizedClassifier.load`
            reads back as a frozen network with the same outputs to the bit. `"onnx"`: an ONNX graph in QCDQ form, see
            `qadv.deployment.onnx_graph`.

    Returns:
        Sizes, measured on the file.

    Raises:
        InvalidInputError: unknown form, or nothing is quantized.
        StorageError: the file could not be written.
    """
    if to not in _FORMS:
        raise InvalidInputError(f"to: expected {' or '.join(map(repr, _FORMS))}, got {to!r}{closest(to, list(_FORMS))}")
    layers = [m for m in classifier.model.modules() if isinstance(m, _QuantLayer) and m.weight_quantizer is not None]
    weights = sum(layer.weight.numel() for layer in layers)
    if to == "packed" and not layers:
        raise InvalidInputError("no weights are quantized, there is nothing to pack; use classifier.save")
    target = Path(path)
    weight_bytes, scale_bytes = _FORMS[to](classifier, target)
    # quantizers have buffers of their own: only what the float network has counts as its size
    total = sum(t.numel() for name, t in classifier.model.state_dict().items() if "_quant." not in name)
    return Exported(target, target.stat().st_size, 4 * total, weights, weight_bytes, scale_bytes)


def _packed(classifier: QuantizedClassifier, path: Path) -> tuple[int, int]:
    save_packed(classifier, path)
    tensors, _ = read_tensors(path)
    sizes = {
        end: sum(t.nbytes for n, t in tensors.items() if n.endswith(f".weight.{end}")) for end in ("codes", "scale")
    }
    return sizes["codes"] + sizes["scale"], sizes["scale"]


def _onnx(classifier: QuantizedClassifier, path: Path) -> tuple[None, None]:
    write_atomically(path, onnx_graph(classifier))
    return None, None


_FORMS: dict[str, Callable[[QuantizedClassifier, Path], tuple[int | None, int | None]]] = {
    "packed": _packed,
    "onnx": _onnx,
}
