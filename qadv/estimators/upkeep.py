"""What parts of a network do after each optimizer step: project coefficients, clip latent weights."""

from typing import Any

import torch
from torch import nn


def run_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """Calls `after_step()` of every module of `model` that has one after each `optimizer.step()`, in any training loop.

    Twice does no harm: a projection of what is projected changes nothing.

    Returns:
        A handle whose `remove()` ends it.
    """
    modules = [module for module in model.modules() if callable(getattr(module, "after_step", None))]

    def upkeep(*_: Any) -> None:
        for module in modules:
            module.after_step()  # type: ignore[operator]

    return optimizer.register_step_post_hook(upkeep)
