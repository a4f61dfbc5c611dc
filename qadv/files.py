"""Files that are written whole or not at all, refused when damaged, and read without unpickling."""

import contextlib
import gzip
import io
import json
import os
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from qadv.digests import blank, check, sealed
from qadv.errors import FileFormatError, QadvError, StorageError

_HEADER = "qadv"


@dataclass(frozen=True)
class InMemory(os.PathLike[str]):
    """The content of a file in place of its path, and its name for messages."""

    name: str
    content: bytes

    def __fspath__(self) -> str:
        return self.name


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
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


def check_is_file(path: str | os.PathLike[str]) -> None:
    """Raises `StorageError` where there is no such file."""
    try:
        found = Path(path).is_file()
    except OSError as error:  # e.g. a name that is too long
        raise StorageError(f"can't read {os.fspath(path)}: {error.strerror or error}") from error
    if not found:
        raise StorageError(f"there is no file {os.fspath(path)}")


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON header, with a `format`, as one safetensors file with a digest, atomically."""
    seen: set[int] = set()
    apart = {}  # safetensors refuses tensors that share memory (tied weights): they are stored twice
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        shared = tensor.untyped_storage().data_ptr() in seen and tensor.numel() > 0
        seen.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor.clone() if shared else tensor
    write_atomically(path, sealed(save(apart, {_HEADER: json.dumps(blank(header))})))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Reads the tensors, on the CPU, and the header of a safetensors file; `None` where qadv did not write it.

    A file that is cut off, or damaged as its digest says, is a `FileFormatError`; one that can't be read a
    `StorageError`.
    """
    name = os.fspath(path)
    if not isinstance(path, InMemory):
        check_is_file(path)
    try:
        if isinstance(path, InMemory):
            tensors, length = load(path.content), int.from_bytes(path.content[:8], "little")
            metadata = json.loads(path.content[8 : 8 + length]).get("__metadata__")
            return tensors, _checked(metadata, io.BytesIO(path.content), name)
        with safe_open(name, framework="pt") as file, open(path, "rb") as content:
            header = _checked(file.metadata(), content, name)
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118  (no mapping)
    except QadvError:
        raise
    except OSError as error:
        raise StorageError(f"can't read {name}: {error.strerror or error}") from error
    except Exception as error:  # SafetensorError, and what torch says to types that it does not have
        size = len(path.content) if isinstance(path, InMemory) else os.stat(path).st_size
        raise FileFormatError(
            f"{name} is not a whole safetensors file ({size:,} bytes): {error}. It may have been "
            "cut off by a copy or download, or be of another format: pickled files are never opened here. A "
            "state dict that torch.save wrote, .pth, goes in as a checkpoint of a network that is named."
        ) from error


def check_is_whole(path: str | os.PathLike[str]) -> None:
    """Raises `FileFormatError` or `StorageError` where a safetensors file is cut off; its values are not looked at."""
    check_is_file(path)
    try:
        with safe_open(os.fspath(path), framework="numpy"):
            pass
    except Exception as error:
        raise FileFormatError(f"{os.path.basename(path)} is not a whole safetensors file: {error}") from error


def _checked(metadata: Mapping[str, str] | None, content: BinaryIO, name: str) -> Any:
    text = (metadata or {}).get(_HEADER)
    return None if text is None else check(parse_json(text, f"{name}: the header"), content, name)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes plain data, among it `format`, as a JSON file with a digest, atomically."""
    write_atomically(path, json_content(content))


def json_content(content: Mapping[str, Any]) -> bytes:
    """Returns what `write_json` writes."""
    return sealed(json.dumps(blank(content), indent=1).encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file, packed where its name ends with `.gz`; errors as of `read_tensors`.

    What `write_json` wrote is compared with its digest.
    """
    check_is_file(path)
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if os.fspath(path).endswith(".gz") else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileFormatError(f"{os.fspath(path)} is damaged: {error}") from error
    except OSError as error:
        raise StorageError(f"can't read {os.fspath(path)}: {error.strerror or error}") from error
    return check(parse_json(content, os.fspath(path)), io.BytesIO(content), os.fspath(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """Returns what a JSON text says."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, a number with thousands of digits, nested too deep
        raise FileFormatError(f"{name} is damaged: {error}") from error
