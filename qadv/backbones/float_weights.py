"""Loads the weights of a float network from a safetensors file."""

import os

import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError
from qadv.files import read_tensors


def load_float_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights, in place; only BatchNorm's `num_batches_tracked` may be missing.

    Raises:
        FileFormatError: not a whole safetensors file, or other tensors than the model's.
        StorageError: there is no such file.
    """
    tensors, _ = read_tensors(path)
    load_state(model, tensors, os.fspath(path))


def load_state(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """`load_state_dict` that names the first differences."""
    expected = model.state_dict()
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    missing, unknown = sorted(needed - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(found)} {what}: {', '.join(found[:3])}{', …' if len(found) > 3 else ''}"
        for what, found in (("tensors missing", missing), ("tensors unknown", unknown), ("shapes differ", shapes))
        if found
    ]
    if problems:
        raise FileFormatError(f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}")
    with torch.no_grad():
        model.load_state_dict(tensors, strict=False)
