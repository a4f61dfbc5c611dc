"""What parts of a network do after each optimizer step: project coefficients, clip latent weights."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from qadv.modes import held_network


class _Upkeep:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = [module for module in model.modules() if callable(getattr(module, "after_step", None))]

    def __call__(self, *_: Any) -> None:
        for module in self.modules:
            module.after_step()  # type: ignore[operator]


def run_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """Calls `after_step()` of every module of `model` that has one after each `optimizer.step()`, in any training loop.

    Once for each step, however often this is called for the same optimizer and model. Returns a handle whose `remove()`
    ends it; that of a repeated call ends nothing.
    """
    model = held_network(model)
    hooks = optimizer._optimizer_step_post_hooks.values()
    if any(isinstance(hook, _Upkeep) and hook.model is model for hook in hooks):
        return RemovableHandle(OrderedDict())  # another handle ends it
    return optimizer.register_step_post_hook(_Upkeep(model))
