"""Training and evaluation mode of a network, module by module; and the network that a module stands for."""

from collections.abc import Iterator
from contextlib import contextmanager

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
