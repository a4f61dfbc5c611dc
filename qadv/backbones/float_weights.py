"""Loads the weights of a float network from a safetensors file."""

import os
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from qadv.errors import FileFormatError, InvalidInputError
from qadv.files import read_tensors


def load_float_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights, in place; only BatchNorm's `num_batches_tracked` may be missing.

    Raises:
        FileFormatError: not a whole safetensors file, other tensors than the model's, or values that are not finite.
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
    if bad := not_finite(tensors, {name for name, _ in model.named_parameters(remove_duplicate=False)}):
        raise FileFormatError(f"{origin}: {bad}")
    with torch.no_grad():
        model.load_state_dict(tensors, strict=False)


def not_finite(tensors: Mapping[str, Tensor], parameters: Collection[str]) -> str:
    """Returns which tensors of a network have values that no network can have; `""` where none has.

    Args:
        tensors: a state dict.
        parameters: names of those that are parameters: they have to be finite. Buffers may be infinite, as masks are.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not tensor.is_meta
        and bool((~tensor.isfinite() if name in parameters else tensor.isnan()).any())
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
    parameters = {each for each, _ in model.named_parameters(remove_duplicate=False)}
    if bad := not_finite(model.state_dict(), parameters):
        raise InvalidInputError(f"{name}: {bad}")
