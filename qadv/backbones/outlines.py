"""What decides what a network computes, but its weights: its modules, their settings, names and shapes of tensors."""

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import nn

_PLAIN = (bool, int, float, str, type(None))
_IN_TRAINING_ONLY = {"training", "drop_rate", "drop_path_rate", "qadv_backbone", "qadv_parts"}
_OF_NO_MATTER = {"momentum", "inplace", "dropout", "drop_prob", "grad_checkpointing", "fused_attn", "memory_efficient"}
_QUANTIZERS = ("brevitas.", "qadv.quantization.")  # their settings are those of the schemes
_KNOWN = (
    "torch.",
    "torchvision.",
    "timm.",
    "qadv.",
)  # of others an attribute may be a state, as a precision that is set


def outline(model: nn.Module) -> list[Any]:
    """Returns what two networks have alike that compute the same with the same weights, dropout aside."""
    found: list[Any] = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    for name, module, plain in _parts(model, _IN_TRAINING_ONLY):
        found.append((name, type(module), sorted(vars(module).keys() - _IN_TRAINING_ONLY), plain))
    return found


def note_recipe(model: nn.Module, recipe: dict[str, Any]) -> None:
    """Notes with which arguments a network is made, and which parts it has then; copies carry it along."""
    model.qadv_backbone = recipe  # type: ignore[assignment]  # plain data
    model.qadv_parts = _digest(model)  # type: ignore[assignment]


def is_as_noted(model: nn.Module) -> bool:
    """Whether a network has the parts, quantizers aside, that `note_recipe` found; `True` where nothing is noted."""
    return getattr(model, "qadv_parts", None) in (None, _digest(model))


def _digest(model: nn.Module) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name, module, plain in _parts(model, {*_IN_TRAINING_ONLY, *_OF_NO_MATTER}):
        if not type(module).__module__.startswith(_QUANTIZERS):
            shapes = [
                (key, tuple(t.shape))
                for key, t in [*module._parameters.items(), *module._buffers.items()]
                if t is not None
            ]
            settings = sorted(plain.items()) if type(module).__module__.startswith(_KNOWN) else []
            found.update(repr((name, type(module).__qualname__, settings, shapes)).encode())
    return found.hexdigest()


def _parts(model: nn.Module, left_out: set[str]) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    for name, module in model.named_modules():
        if type(module).__name__ not in ("Dropout", "DropPath", "Identity"):
            yield (
                name,
                module,
                {key: value for key, value in vars(module).items() if key not in left_out and _is_plain(value)},
            )


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(each, _PLAIN) for each in value))
