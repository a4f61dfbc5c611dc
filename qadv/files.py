"""Files that are written whole or not at all, and read without unpickling."""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qadv.errors import FileFormatError, StorageError

_HEADER = "qadv"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Raises:
        StorageError: the disk is full, or the folder can't be written; what was there before is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StorageError(
                f"could not write {target} ({len(content):,} bytes): {error.strerror or error}; what was saved there "
                "before is untouched. Free some space or choose another path."
            ) from error
        raise


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON header as one safetensors file, atomically."""
    seen: set[int] = set()
    apart = {}  # safetensors refuses tensors that share memory (tied weights): they are stored twice
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        shared = tensor.untyped_storage().data_ptr() in seen and tensor.numel() > 0
        seen.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor.clone() if shared else tensor
    write_atomically(path, save(apart, {_HEADER: json.dumps(header)}))


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raises `StorageError` where there is no such file."""
    try:
        found = Path(path).is_file()
    except OSError as error:  # e.g. a name that is too long
        raise StorageError(f"can't read {os.fspath(path)}: {error.strerror or error}") from error
    if not found:
        raise StorageError(f"there is no file {os.fspath(path)}")


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Reads a safetensors file.

    Returns:
        The tensors, on the CPU, and the header; `None` for a file that qadv did not write.

    Raises:
        FileFormatError: not a safetensors file, truncated, or its header is damaged.
        StorageError: there is no such file, or it can't be read.
    """
    target = Path(path)
    check_is_file(target)
    try:
        with safe_open(str(target), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            text = (file.metadata() or {}).get(_HEADER)
    except SafetensorError as error:
        raise FileFormatError(
            f"{target} is not a whole safetensors file ({target.stat().st_size:,} bytes): {error}. It may have been "
            "cut off by a copy or download, or be of another format (pickled .pt and .pth files are never opened)."
        ) from error
    try:
        header = None if text is None else json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{target}: the header is damaged: {error}") from error
    return tensors, header
