"""Whether two results are the same, whatever they are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qadv.tensor_parts import plain_tensors


def difference(a: Any, b: Any, where: str = "result") -> str | None:
    """Returns the first difference in words, or `None` where two results are equal to the bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        a, b = _arrays(a), _arrays(b)
    if type(a) is not type(b):
        return f"{where} is a {type(a).__name__} and a {type(b).__name__}"
    if isinstance(a, np.ndarray):
        return _array_difference(a, b, where)
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a) if field.compare]
        return _first((getattr(a, name), getattr(b, name), f"{where}.{name}") for name in names)
    if isinstance(a, Mapping):
        if list(a) != list(b):
            return f"{where} has the keys {list(a)} and {list(b)}"
        return _first((a[key], b[key], f"{where}[{key!r}]") for key in a)
    if isinstance(a, Sequence) and not isinstance(a, str | bytes):
        if len(a) != len(b):
            return f"{where} has {len(a)} and {len(b)} entries"
        return _first((x, y, f"{where}[{index}]") for index, (x, y) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, float) and a != a and b != b:
        return None
    if getattr(type(a), "__eq__") is getattr(object, "__eq__") and hasattr(a, "__dict__"):  # noqa: B009
        return difference(vars(a), vars(b), where)
    return None if a == b else f"{where} is {_short(a)} and {_short(b)}"


def _arrays(tensor: torch.Tensor) -> Any:
    """Returns a tensor as an array, and one of a class of its own as those of its parts."""
    parts = {name: part.detach().cpu().numpy() for name, part in plain_tensors({"": tensor}).items()}
    return parts.get("", parts)


def _array_difference(a: Any, b: Any, where: str) -> str | None:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return f"{where} has shape {a.shape}, {a.dtype}, and {b.shape}, {b.dtype}"
    if a.dtype == object:
        return difference(a.tolist(), b.tolist(), where)
    numbers = np.issubdtype(a.dtype, np.inexact)
    if np.array_equal(a, b, equal_nan=numbers):
        return None
    different = (a != b) & ~((a != a) & (b != b))
    size = f", by up to {np.nanmax(np.abs(a - b)):.3g}" if numbers else ""
    return f"{where} differs in {int(different.sum())} of {a.size} values{size}"


def _first(pairs: Any) -> str | None:
    return next((found for pair in pairs if (found := difference(*pair)) is not None), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
