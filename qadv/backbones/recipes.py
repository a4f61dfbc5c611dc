"""How a network is made again by name: what `create_backbone` noted, or what timm did, if it is so."""

from typing import Any

import torch
from torch import nn

from qadv.backbones.create import create_backbone
from qadv.modes import held_network, weight_layers
from qadv.random_states import global_states_kept

_PLAIN = (bool, int, float, str, type(None))
_IN_TRAINING_ONLY = {"training", "drop_rate", "drop_path_rate", "qadv_backbone"}


def recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """Returns the arguments with which `create_backbone` makes a network again; `None` where they are not known.

    Those of a network of timm's own classes come from the architecture that timm notes, if the network made from it has
    the same modules, settings, and names and shapes of tensors; dropout aside, which evaluation mode is without.
    """
    model = held_network(model)
    noted: dict[str, Any] | None = getattr(model, "qadv_backbone", None)
    settings: Any = getattr(model, "pretrained_cfg", None)
    name = settings.get("architecture") if isinstance(settings, dict) else None
    if noted is not None or name is None or not type(model).__module__.startswith("timm."):
        return noted
    first = next(iter(weight_layers(model).values()), None)
    channels = getattr(first, "in_channels", 3)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    for options in ({}, {"img_size": list(size)}) if size else ({},):
        for device in ("meta", "cpu"):  # without memory, which some of an older timm's can't be made with
            try:
                with global_states_kept(), torch.device(device):
                    made = create_backbone(f"timm/{name}", getattr(model, "num_classes", 0), channels, **options)
            except Exception:  # whatever timm says to arguments that the network was not made with
                continue
            if _outline(made) == _outline(model):
                recipe: dict[str, Any] = made.qadv_backbone  # type: ignore[assignment]
                return recipe
            break
    return None


def _outline(model: nn.Module) -> list[Any]:
    """Returns what decides what a network computes, but its weights."""
    outline: list[Any] = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    for name, module in model.named_modules():
        if type(module).__name__ in ("Dropout", "DropPath", "Identity"):
            continue
        kept = {key: value for key, value in vars(module).items() if key not in _IN_TRAINING_ONLY}
        plain = {
            key: value
            for key, value in kept.items()
            if isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value))
        }
        outline.append((name, type(module), sorted(kept), plain))
    return outline
