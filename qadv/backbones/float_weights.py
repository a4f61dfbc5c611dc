"""Loads the weights of a float network."""

import copy
import os
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from qadv.backbones.checkpoints import read_state
from qadv.errors import FileFormatError, InvalidInputError, some
from qadv.tensor_parts import from_plain_tensors, plain_tensors

Shape = tuple[int, ...]
_PLAIN_LOADING = (nn.Module._load_from_state_dict, nn.modules.batchnorm._NormBase._load_from_state_dict)
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def load_float_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads weights from a file, in place; see `read_state` and `load_state`."""
    load_state(model, read_state(path, model.state_dict().keys()), os.fspath(path))


def load_state(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """`load_state_dict` after `check_state`: a model that the tensors do not fit is as it was."""
    check_state(model, tensors, origin)
    with torch.no_grad():
        model.load_state_dict(from_plain_tensors(model.state_dict(), tensors), strict=False)


def check_state(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Compares names, shapes, types and values with a model's; a `FileFormatError` names the first differences.

    Only BatchNorm's `num_batches_tracked` may be missing. Modules that load in a way of their own, as Brevitas's whose
    state grows while they are trained, decide themselves what fits, on a copy of the model.
    """
    expected, found = plain_tensors(model.state_dict()), _shapes(tensors)
    if _shapes(expected) != found and any(map(_loads_itself, model.modules())):
        expected = _state_after(copy.deepcopy(model), tensors)
    shapes = _shapes(expected)
    differences = {
        "tensors missing": missing(shapes, found),
        "tensors unknown": sorted(found.keys() - shapes.keys()),
        "shapes differ": different_shapes(shapes, found),
        "types differ": [
            f"{name} is {tensor.dtype}, expected {expected[name].dtype}"
            for name, tensor in tensors.items()
            if name in expected
            and tensor.dtype not in {expected[name].dtype, *(_FLOATS if expected[name].is_floating_point() else ())}
        ],
    }
    if problems := [f"{len(names)} {what}: {some(names)}" for what, names in differences.items() if names]:
        raise FileFormatError(f"{origin} does not fit {type(model).__name__}: {'; '.join(problems)}")
    if bad := not_finite(tensors, _finite_names(model)):
        raise FileFormatError(f"{origin}: {bad}")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tensor.shape for name, tensor in state.items()}


def _loads_itself(module: nn.Module) -> bool:
    return type(module)._load_from_state_dict not in _PLAIN_LOADING


def _state_after(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state that is expected of a model which takes these tensors, by what loading them says."""
    try:
        with torch.no_grad():
            result = model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError:  # shapes, which are compared by the caller
        return model.state_dict()
    state = model.state_dict()
    taken = {name: state.get(name, tensor) for name, tensor in tensors.items() if name not in result.unexpected_keys}
    return taken | {name: state[name] for name in result.missing_keys if name in state}


def missing(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Returns the expected names that are missing."""
    return [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]


def different_shapes(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Returns the names whose shapes differ, with both shapes."""
    return [
        f"{name} is {tuple(found[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


def _finite_names(model: nn.Module) -> set[str]:
    """Returns the tensors that have to be finite: parameters and running statistics. Other buffers may be masks."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return parameters | {name for name, _ in model.named_buffers() if "running_" in name}


def not_finite(tensors: Mapping[str, Tensor], finite: Collection[str]) -> str:
    """Names the tensors with values that no network can have; `""` if there are none.

    Those whose names are in `finite` have to be finite. Others may be infinite, as masks are, but not NaN.
    """
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() and not t.is_meta}
    bad = [name for name, t in floats.items() if bool((~t.isfinite() if name in finite else t.isnan()).any())]
    why = "the training has diverged, or a file was damaged; go back to weights that are finite"
    return f"NaN or infinite values in {some(bad)}: {why}" if bad else ""


def check_finite(model: nn.Module, name: str = "model") -> None:
    """Refuses a network with weights that are NaN or infinite, and names them."""
    if bad := not_finite(plain_tensors(model.state_dict()), _finite_names(model)):
        raise InvalidInputError(f"{name}: {bad}")
