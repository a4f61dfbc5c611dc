"""Loads the weights of a float network from a safetensors file."""

import os
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError, InvalidInputError
from qadv.files import read_tensors

Shape = tuple[int, ...]
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def load_float_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights, in place; only BatchNorm's `num_batches_tracked` may be missing.

    Raises:
        FileFormatError: not a whole safetensors file, other tensors than the model's, or values that are not finite.
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
    if bad := not_finite(tensors, _finite_names(model)):
        raise FileFormatError(f"{origin}: {bad}")
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


def _finite_names(model: nn.Module) -> set[str]:
    """Returns the tensors that have to be finite: parameters and running statistics. Other buffers may be masks."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return parameters | {name for name, _ in model.named_buffers() if "running_" in name}


def _refuse(model: nn.Module, origin: str, found: Mapping[str, list[str]]) -> None:
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in found.items()
        if names
    ]
    if problems:
        raise FileFormatError(f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}")


def not_finite(tensors: Mapping[str, Tensor], finite: Collection[str]) -> str:
    """Returns which tensors of a network have values that no network can have; `""` where none has.

    Args:
        tensors: a state dict.
        finite: names of those that have to be finite. Others may be infinite, as masks are, but not NaN.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not tensor.is_meta
        and bool((~tensor.isfinite() if name in finite else tensor.isnan()).any())
    ]
    if not bad:
        return ""
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"NaN or infinite values in {', '.join(bad[:3])}{more}: the training has diverged, or a file was damaged; go "
        "back to weights that are finite"
    )


def check_finite(model: nn.Module, name: str = "model") -> None:
    """Refuses a network with weights that are NaN or infinite.

    Raises:
        InvalidInputError: some are; names their layers.
    """
    if bad := not_finite(model.state_dict(), _finite_names(model)):
        raise InvalidInputError(f"{name}: {bad}")
