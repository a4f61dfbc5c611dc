"""A backbone's outline, without memory for its weights: a file is compared with it before the network is built."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from qadv.backbones.create import create_backbone
from qadv.backbones.float_weights import Shape, different_shapes, missing
from qadv.errors import FileFormatError, InvalidInputError, QadvError

_MORE = 1000  # parameters that a backbone may make beside those that it keeps


def check_outline(recipe: Mapping[str, Any], shapes: Mapping[str, Shape], origin: str) -> None:
    """Raises a `FileFormatError` for a file whose tensors are not those of the backbone that its header names.

    A header of a few bytes can name a network of any size: this one is made on the meta device, and no further than
    some parameters beyond those of the file. `recipe` has the arguments of `create_backbone`, `shapes` are of the
    file's tensors by the names that the float network has, others are not looked at; `origin` is for messages.
    """
    try:
        with torch.device("meta"), _at_most(4 * len(shapes) + _MORE):
            outline = create_backbone(recipe["name"], recipe["nb_classes"], recipe["in_channels"], **recipe["options"])
    except _TooManyError as error:
        raise FileFormatError(
            f"{origin}: backbone {recipe['name']!r} with {recipe['options']} has many more parameters than the file's "
            f"{len(shapes)} tensors"
        ) from error
    except Exception as error:
        if isinstance(error, QadvError) and not isinstance(error, InvalidInputError):
            raise
        return  # some networks can't be made without memory: what is wrong with others shows when they are built
    expected = {name: tensor.shape for name, tensor in outline.state_dict().items()}
    absent, differ = missing(expected, shapes), different_shapes(expected, shapes)
    if absent or differ:
        what = f"no tensor {absent[0]}" if absent else differ[0]
        raise FileFormatError(f"{origin} does not fit backbone {recipe['name']!r}: {what}")


class _TooManyError(Exception):
    pass


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Stops a network that this thread makes when it has so many parameters."""
    left, thread = [count], threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: Any) -> None:
        if threading.get_ident() == thread:
            left[0] -= 1
            if left[0] < 0:
                raise _TooManyError

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
