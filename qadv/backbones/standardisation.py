"""What a network says of its images: mean and std of their pixels, how photographs become them, names of classes."""

import warnings
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from qadv.backbones import timm_models
from qadv.checks import check_choice, check_number
from qadv.errors import InvalidInputError, PixelRangeWarning, printable
from qadv.modes import held_network
from qadv.registry import load

MeanStd = tuple[list[float], list[float]]
_CHOICES = {
    "interpolation": ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"),
    "crop_mode": ("center", "squash", "border"),
}

_KEPT = (*_CHOICES, "crop_pct", "classes")


def is_of_timm(name: str) -> bool:
    """Whether a backbone's name is one of timm's."""
    target = load("backbone", name)
    return isinstance(target, partial) and target.func is timm_models.create


def own_standardisation(
    model: nn.Module, nb_channels: int, clip_values: tuple[float, float] | None = None
) -> MeanStd | None:
    """Returns the (mean, std) of a timm network in the units of `clip_values`; `None` for other networks.

    Where timm has values for another number of channels, their mean stands for all. Without `clip_values` the units are
    timm's own, (0, 1).
    """
    settings: Any = getattr(model, "pretrained_cfg", None)
    recipe: Any = getattr(model, "qadv_backbone", None)
    if recipe is not None and not is_of_timm(recipe["name"]):
        return None  # qadv's own backbones may be made of timm's parts
    if not isinstance(settings, dict) or not settings.get("mean") or not settings.get("std"):
        return None
    mean, std = (np.asarray(settings[name], dtype=float) for name in ("mean", "std"))
    if len(mean) != nb_channels:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    low, high = (0.0, 1.0) if clip_values is None else clip_values
    width = high - low
    return (low + width * mean).round(9).tolist(), (width * std).round(9).tolist()


def report_standardisation(model: nn.Module, nb_channels: int, clip_values: tuple[float, float] | None) -> None:
    """Warns where a timm network gets pixels that are not standardised; arguments as above."""
    pair = own_standardisation(model, nb_channels, clip_values)
    if pair is not None:
        name = type(held_network(model)).__name__
        warnings.warn(
            f"{name} comes from timm with mean and std, and gets pixels that are not standardised. If "
            f"it was trained as timm's networks are, give preprocessing={pair}; if not, preprocessing=(0, 1)",
            PixelRangeWarning,
            stacklevel=3,
        )


def picture_settings(model: nn.Module) -> dict[str, Any]:
    """Returns what a file keeps of a network's images, as far as the network says it.

    That is how photographs are resized and cropped, as timm says it, and as `"classes"` the names of the classes that
    the network was made for.
    """
    config: Any = getattr(model, "pretrained_cfg", None)
    return {name: config[name] for name in _KEPT if config.get(name)} if isinstance(config, dict) else {}


def keep_picture_settings(model: nn.Module, found: dict[str, Any]) -> None:
    """Has a network say what a file says of it; what timm's transforms do not know is an `InvalidInputError`."""
    for name, choices in _CHOICES.items():
        if name in found:
            check_choice(name, found[name], choices)
    if "crop_pct" in found:
        check_number("crop_pct", found["crop_pct"], least=0.1, most=2)
    classes = found.get("classes", [])
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise InvalidInputError(f"classes: expected their names, got {str(classes)[:80]}")
    kept = {name: found[name] for name in _KEPT if name in found}
    if classes:
        kept["classes"] = [printable(name) for name in classes]
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **kept}  # type: ignore[assignment]
