"""How much memory damaged files take that claim to hold more than they do."""

import json
import random
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qadv
from qadv.datasets import mnist
from qadv.errors import QadvError
from qadv.files import read_tensors, write_tensors

from .trials import Trial

_ALLOWED = 300e6  # bytes beside the file's own size
_WIDE = {"name": "wide-resnet", "nb_classes": 10, "in_channels": 3}
_SIZES = [10**6, 10**8, 2**31, 2**40]


def memory(folder: Path) -> Trial:
    """Small files with large claims, and a large one with a flipped bit; 300 MB beside its size are the most."""
    torch.manual_seed(0)
    small = folder / "small.safetensors"
    qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "int:4", "relu6:4", input_shape=(1, 8, 8), image_size=8, width=2
    ).save(small)
    large = folder / "large.safetensors"
    write_tensors(large, {"weight": torch.zeros(100_000_000)}, {"format": "qadv-classifier/2"})
    claims: dict[str, Callable[[Any, int], Any]] = {
        "width": lambda header, size: header["backbone"]["options"].update(width=size),
        "image_size": lambda header, size: header["backbone"]["options"].update(image_size=size),
        "nb_classes": lambda header, size: header["backbone"].update(nb_classes=size),
        "depth": lambda header, size: header.update(backbone=_WIDE | {"options": {"depth": 6 * size + 4, "width": 1}}),
        "input_shape": lambda header, size: header["classifier"].update(input_shape=[1, size, 8]),
    }
    made: dict[str, Callable[[Path, int], Callable[[], Any]]] = {
        **{name: partial(_header, small, change) for name, change in claims.items()},
        "length": partial(_length, small),
        "archive": _archive,
        "bit": lambda path, size: _flipped(large, size),
    }

    def trial(draws: random.Random) -> str:
        name, size = draws.choice(list(made)), draws.choice(_SIZES)
        path = folder / "mnist.npz" if name == "archive" else folder / "claims.safetensors"
        use = made[name](path, size)
        before = _peak(reset=True)
        try:
            use()
            return "as written" if name == "archive" else "taken wrong"
        except QadvError:
            return "refused"
        finally:
            own = large.stat().st_size if name == "bit" else path.stat().st_size
            if (more := _peak() - before) > own + _ALLOWED:
                raise AssertionError(f"{name} of {size}: {more / 1e6:,.0f} MB for a file of {own / 1e6:,.3f} MB")

    return trial


def _peak(reset: bool = False) -> int:
    """Returns the most memory that this process has had since the last reset, in bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _header(path: Path, change: Callable[[Any, int], Any], target: Path, size: int) -> Callable[[], Any]:
    tensors, header = read_tensors(path)
    change(header, size)
    write_tensors(target, tensors, header or {})
    return lambda: qadv.QuantizedClassifier.load(target)


def _length(path: Path, target: Path, size: int) -> Callable[[], Any]:
    """A header that gives one tensor the size."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    name = next(name for name in header if name != "__metadata__")
    header[name] |= {"shape": [size], "data_offsets": [0, 4 * size]}
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    return lambda: qadv.QuantizedClassifier.load(target)


def _archive(target: Path, size: int) -> Callable[[], Any]:
    """An archive with an array besides that takes gigabytes once it is unpacked."""
    images, labels = np.zeros((2, 1, 28, 28), np.uint8), np.arange(2)
    np.savez(target, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with (
        zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("extra.npy", "w", force_zip64=True) as file,
    ):
        count = min(size, 2**31)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
        for _ in range(count >> 24):
            file.write(bytes(1 << 24))
    return lambda: mnist(target.parent)


def _flipped(path: Path, size: int) -> Callable[[], Any]:
    with path.open("r+b") as file:
        file.seek(size % (path.stat().st_size - 1000) + 500)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return lambda: qadv.QuantizedClassifier.load(path)
