"""What is changed for the time of a call and put back, also after an error; the network that a module stands for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def held_network(model: nn.Module) -> nn.Module:
    """Returns the user's network that a classifier's `model` holds, and any other module as it is."""
    held: nn.Module = getattr(model, "held_network", model)
    return held


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode, and every module back into its own mode afterwards (frozen BatchNorms too)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def kept(thing: Any, attribute: str) -> Iterator[None]:
    """Leaves an attribute as it was, whatever the block sets it to."""
    value = getattr(thing, attribute)
    try:
        yield
    finally:
        setattr(thing, attribute, value)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Runs the block with so many torch threads, `None` for as many as there are."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
