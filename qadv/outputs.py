"""The logits in what a network returns: a tensor, Brevitas's QuantTensor, or an output of transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qadv.errors import InvalidInputError


def logits_of(output: Any) -> Tensor:
    """Returns the logits, (N, classes); an output with none, or several tensors that may be them, is refused.

    What is shorter than float32, as of autocast, becomes float32, in which losses are computed.
    """
    found = _found(output)
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _found(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple) and isinstance(value := getattr(output, "value", None), Tensor):
        return value  # a QuantTensor is a tuple of value, scale, zero point, …
    named = dict(output) if isinstance(output, Mapping) else {}
    if isinstance(named.get("logits"), Tensor):
        return named["logits"]  # type: ignore[no-any-return]
    entries = list(named.values()) if named else list(output) if isinstance(output, tuple | list) else []
    found = [entry for entry in entries if isinstance(entry, Tensor) and entry.ndim == 2 and entry.is_floating_point()]
    if len(found) == 1:
        return found[0]
    raise InvalidInputError(
        f"the model gives a {type(output).__name__} with {len(found)} tensors that may be the logits, (N, classes); "
        "expected logits. Put it into a module whose forward returns the logits alone, as model(x)[0]; where it gives "
        "more in training mode only, switch auxiliary heads off (torchvision: aux_logits=False)"
    )
