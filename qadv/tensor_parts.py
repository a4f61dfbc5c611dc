"""State dicts as plain tensors, which files can hold: what is quantized, packed or a tensor subclass, in parts."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_JOIN = "::"


def plain_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns a state dict's tensors by name, and the parts of others by `name::part`.

    Parts are those of quantized tensors (codes, scales, zero points), of tensor subclasses that torch can take apart,
    as torchao's, and of the tuples in which torch.ao keeps packed weights. What is no tensor is left out.
    """
    return {name: tensor for key, value in state.items() for name, tensor in _parts(key, value)}


def from_plain_tensors(like: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns a state dict with the entries of `like`, made of plain tensors or their parts, and tensors that it lacks.

    A part that is missing is a `KeyError`.
    """
    made = {name: _whole(name, value, tensors) for name, value in like.items() if _has_any(name, value, tensors)}
    more = {name: tensor for name, tensor in tensors.items() if _JOIN not in name and name not in made}
    state = OrderedDict[str, Any](**made, **more)
    vars(state)["_metadata"] = getattr(like, "_metadata", {})  # versions, which modules ask for when they load
    return state


def _parts(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, tuple | list):
        for index, entry in enumerate(value):
            yield from _parts(f"{name}{_JOIN}{index}", entry)
    elif isinstance(value, Tensor) and value.is_quantized:
        for part, tensor in _of_quantized(value).items():
            yield f"{name}{_JOIN}{part}", tensor
    elif isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _parts(f"{name}{_JOIN}{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value


def _of_quantized(value: Any) -> dict[str, Tensor]:
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero_point = torch.tensor(value.q_scale(), dtype=torch.float64), torch.tensor(value.q_zero_point())
    else:
        scale, zero_point = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return {"codes": value.int_repr(), "scale": scale, "zero_point": zero_point}


def _has_any(name: str, value: Any, tensors: Mapping[str, Tensor]) -> bool:
    parts = [part for part, _ in _parts(name, value)]
    return not parts or any(part in tensors for part in parts)


def _whole(name: str, like: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(like, tuple | list):
        return type(like)(_whole(f"{name}{_JOIN}{index}", entry, tensors) for index, entry in enumerate(like))
    if isinstance(like, Tensor) and like.is_quantized:
        codes, scale, zero_point = (tensors[f"{name}{_JOIN}{part}"] for part in ("codes", "scale", "zero_point"))
        if scale.ndim:
            new = torch._empty_per_channel_affine_quantized(
                like.shape, scales=scale, zero_points=zero_point, axis=like.q_per_channel_axis(), dtype=like.dtype
            )
        else:
            new = torch._empty_affine_quantized(
                like.shape, scale=scale.item(), zero_point=int(zero_point), dtype=like.dtype
            )
        return new.copy_(_dequantized(codes, scale, zero_point, like))
    if isinstance(like, Tensor) and hasattr(like, "__tensor_flatten__"):
        names, context = like.__tensor_flatten__()
        parts = {part: _whole(f"{name}{_JOIN}{part}", getattr(like, part), tensors) for part in names}
        return type(like).__tensor_unflatten__(parts, context, like.shape, like.stride())  # type: ignore[attr-defined]
    return tensors[name] if isinstance(like, Tensor) else like


def _dequantized(codes: Tensor, scale: Tensor, zero_point: Tensor, like: Any) -> Tensor:
    if scale.ndim:
        shape = [-1 if axis == like.q_per_channel_axis() else 1 for axis in range(like.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return ((codes.double() - zero_point.double()) * scale.double()).float()
