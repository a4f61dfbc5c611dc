"""timm models as backbones."""

from typing import Any

import timm
from torch import nn


def names() -> list[str]:
    """Returns all of timm's model names, and with each tag the names of those that have trained weights."""
    return sorted({*timm.list_models(), *timm.list_pretrained()})


def create(name: str, nb_classes: int = 1000, in_channels: int = 3, **options: Any) -> nn.Module:
    """Returns `timm.create_model(name, num_classes=nb_classes, in_chans=in_channels, **options)`."""
    model: nn.Module = timm.create_model(name, num_classes=nb_classes, in_chans=in_channels, **options)
    return model
