"""`create_backbone`: a float network by name that remembers how it was made, so that it can be saved and rebuilt."""

import json
from typing import Any

from torch import nn

from qadv.backbones.outlines import note_recipe
from qadv.errors import InvalidInputError
from qadv.registry import create


def create_backbone(name: str, nb_classes: int = 10, in_channels: int = 3, **options: Any) -> nn.Module:
    """Returns a new float network.

    Args:
        name: a built-in or plugin backbone, or any timm model name (`"timm/vgg16"` where a built-in has the name too).
        nb_classes: number of outputs, logits.
        in_channels: channels of the input images.
        options: passed to the backbone, e.g. `depth=28, width=10` for `wide-resnet`; plain JSON values only.
    """
    recipe = {"name": name, "nb_classes": nb_classes, "in_channels": in_channels, "options": options}
    try:
        json.dumps(recipe)
    except TypeError as error:
        raise InvalidInputError(f"backbone {name!r}: options must be plain JSON values: {error}") from error
    try:
        model = create("backbone", name, nb_classes=nb_classes, in_channels=in_channels, **options)
    except TypeError as error:
        raise InvalidInputError(f"backbone {name!r}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"backbone {name!r} gave {type(model).__name__}, expected a torch.nn.Module")
    note_recipe(model, recipe)
    return model
