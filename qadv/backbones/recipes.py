"""How a network is made again by name: what `create_backbone` noted, or what timm did, if it is so."""

from typing import Any

import torch
from torch import nn

from qadv.backbones.create import create_backbone
from qadv.backbones.outlines import is_as_noted, outline
from qadv.modes import held_network, weight_layers
from qadv.random_states import global_states_kept


def recipe_of(model: nn.Module) -> dict[str, Any] | None:
    """Returns the arguments with which `create_backbone` makes a network again; `None` where they are not known.

    They are not where a part or a setting of it was changed since it was made, or quantized, see `note_recipe`.
    Those of a network of timm's own classes come from the architecture that timm notes, if the network made from it has
    the same modules, settings, and names and shapes of tensors; dropout aside, which evaluation mode is without.
    """
    model = held_network(model)
    noted: dict[str, Any] | None = getattr(model, "qadv_backbone", None)
    settings: Any = getattr(model, "pretrained_cfg", None)
    name = settings.get("architecture") if isinstance(settings, dict) else None
    if noted is not None:
        return noted if is_as_noted(model) else None
    if name is None or not type(model).__module__.startswith("timm."):
        return None
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
            if outline(made) == outline(model):
                recipe: dict[str, Any] = made.qadv_backbone  # type: ignore[assignment]
                return recipe
            break
    return None
