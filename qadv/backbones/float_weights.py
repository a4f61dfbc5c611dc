"""Loads the weights of a float network from a safetensors file."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError
from qadv.files import read_tensors

Shape = tuple[int, ...]
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def load_float_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights, in place; only BatchNorm's `num_batches_tracked` may be missing.

    Raises:
        FileFormatError: not a whole safetensors file, or other tensors than the model's.
        StorageError: there is no such file.
    """
    tensors, _ = read_tensors(path)
    load_state(model, tensors, os.fspath(path))


def load_state(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """`load_state_dict` that compares names, shapes, types and values first, and names the first differences.

    Raises:
        FileFormatError: the tensors do not fit the model, which is as it was.
    """
    expected = model.state_dict()
    shapes, found = ({name: tensor.shape for name, tensor in state.items()} for state in (expected, tensors))
    known = [name for name in tensors if name in expected]
    _refuse(
        model,
        origin,
        {
            "tensors missing": missing(shapes, found),
            "tensors unknown": sorted(found.keys() - shapes.keys()),
            "shapes differ": different_shapes(shapes, found),
            "types differ": [
                f"{name} is {tensors[name].dtype}, expected {expected[name].dtype}"
                for name in known
                if not _fits(tensors[name].dtype, expected[name].dtype)
            ],
        },
    )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    bad = [name for name in known if _is_bad(tensors[name], name in parameters or "running_" in name)]
    _refuse(model, origin, {"tensors with values that are NaN or infinite": bad})
    with torch.no_grad():
        model.load_state_dict(tensors, strict=False)


def missing(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Returns the names that are not found; only BatchNorm's `num_batches_tracked` may be missing."""
    return [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]


def different_shapes(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Returns the names that are in both with other shapes, and these."""
    return [
        f"{name} is {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


def _fits(found: torch.dtype, expected: torch.dtype) -> bool:
    """Whether one type may be read as another: the same, or a float of 16 bits or more where a float is expected."""
    return found == expected or (expected.is_floating_point and found in _FLOATS)


def _is_bad(tensor: Tensor, must_be_finite: bool) -> bool:
    """Whether values are not finite; infinities in other buffers are masks, as of attention."""
    if not tensor.is_floating_point():
        return False
    return not bool(tensor.isfinite().all()) if must_be_finite else bool(tensor.isnan().any())


def _refuse(model: nn.Module, origin: str, found: Mapping[str, list[str]]) -> None:
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in found.items()
        if names
    ]
    if problems:
        raise FileFormatError(f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}")
