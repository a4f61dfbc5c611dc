"""What decides what a network computes, but its weights: its modules, their settings, names and shapes of tensors."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

_PLAIN = (bool, int, float, str, type(None))
_IN_TRAINING_ONLY = {"training", "drop_rate", "drop_path_rate", "qadv_backbone", "qadv_parts"}
_OF_NO_MATTER = {"momentum", "inplace", "dropout", "drop_prob", "grad_checkpointing", "fused_attn", "memory_efficient",
                 "distilled_training"}  # fmt: skip
_QUANTIZERS = ("brevitas.", "qadv.quantization.")  # their settings are those of the schemes
# whose attributes are settings: those of others may be a state, as a precision that is set
_KNOWN = ("torch.", "torchvision.", "timm.", "qadv.")
_Part = tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]  # what it is, shapes of its own tensors, settings
_NORM = re.compile(r"(Sync|Frozen)?BatchNorm(\dd)?")  # of one process, of several, or one that stays as it is


def outline(model: nn.Module) -> list[Any]:
    """Returns what two networks have alike that compute the same with the same weights, dropout aside."""
    found: list[Any] = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    for name, module, plain in _parts(model, _IN_TRAINING_ONLY):
        found.append((name, type(module), sorted(vars(module).keys() - _IN_TRAINING_ONLY), plain))
    return found


def note_recipe(model: nn.Module, recipe: dict[str, Any]) -> None:
    """Notes with which arguments a network is made, and which parts it has then; copies carry it along."""
    model.qadv_backbone = recipe  # type: ignore[assignment]  # plain data
    model.qadv_parts = _noted(model)  # type: ignore[assignment]


def is_as_noted(model: nn.Module) -> bool:
    """Whether a network has the parts, quantizers aside, that `note_recipe` found; `True` where nothing is noted.

    What was added to a part since, as an attribute of the user's, is not looked at.
    """
    before: dict[str, Any] | None = getattr(model, "qadv_parts", None)
    if before is None:
        return True
    now = _noted(model)
    if before.keys() != now.keys():
        return False
    return all(_is_alike(part, now[name]) for name, part in before.items())


def _is_alike(before: _Part, now: _Part) -> bool:
    return before[:2] == now[:2] and all(now[2][key] == before[2][key] for key in before[2].keys() & now[2].keys())


def _noted(model: nn.Module) -> dict[str, _Part]:
    """Returns of each part by name what it is, the shapes of its own tensors, and its settings."""
    found = {}
    for name, module, plain in _parts(model, {*_IN_TRAINING_ONLY, *_OF_NO_MATTER}):
        home, kind = type(module).__module__, type(module).__qualname__
        if home.startswith(_QUANTIZERS):
            continue
        tensors = {**module._parameters, **module._buffers}
        shapes = {key: tuple(t.shape) for key, t in tensors.items() if t is not None and key != "num_batches_tracked"}
        settings = {key: value for key, value in plain.items() if not key.startswith("_")}
        known = home.startswith(_KNOWN)
        found[name] = _NORM.sub("BatchNorm", kind) if known else kind, shapes, settings if known else {}
    return found


def _parts(model: nn.Module, left_out: set[str]) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    for name, module in model.named_modules():
        if type(module).__name__ not in ("Dropout", "DropPath", "Identity"):
            kept = {key: value for key, value in vars(module).items() if key not in left_out and _is_plain(value)}
            yield name, module, kept


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(each, _PLAIN) for each in value))
